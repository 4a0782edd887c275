"""Responses as bytes: orjson, no validation on the way out."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response

from api.inference.loaded_model import LoadedModel
from recsys_meta.inference.insight.explanations import EventAttribution, ItemExplanation
from recsys_meta.inference.ranking.item_catalog import ScoredItem

JSON = "application/json"
_OPTIONS = orjson.OPT_UTC_Z
_HEAD = struct.Struct(">?I")  # of a cached list: served by the prior, events of the support


class RawJsonResponse(Response):
    """A response of status 200 with its headers as bytes: reading them from a mapping takes as long as the rest."""

    def __init__(self, body: bytes, cache: str) -> None:
        self.status_code, self.background, self.body = 200, None, body
        length = b"content-length", str(len(body)).encode()
        self.raw_headers = [length, (b"content-type", JSON.encode()), (b"x-cache", cache.encode())]


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Encode the content of a response, for routes off the hot path."""
    return Response(orjson.dumps(content, option=_OPTIONS), status, headers, JSON)


def encode_items(
    items: Sequence[ScoredItem], explanations: Sequence[ItemExplanation] = (), before: int = 0
) -> list[dict[str, Any]]:
    """Encode a list that follows `before` items, with explanations where there are any."""
    rows: list[dict[str, Any]] = [
        {"rank": rank, "item": s.item, "score": s.score, "title": s.title} for rank, s in enumerate(items, before + 1)
    ]
    for row, explanation in zip(rows, explanations, strict=False):
        attributions = [_encode_attribution(one) for one in explanation.attributions]
        row["why"] = {"prior": explanation.prior, "events": attributions}
        if explanation.placed_by is not None:
            row["why"]["new"] = dict(zip(("by", "likes"), explanation.placed_by, strict=True))
    return rows


def _encode_attribution(one: EventAttribution) -> dict[str, Any]:
    return {"item": one.item, "label": one.label, "context": one.context, "moved": one.score_change}


def merge_response(
    request_id: str, model: LoadedModel, served_by: str, missing: Sequence[str], rest: bytes, cache: str
) -> Response:
    """Put the fields that differ from request to request before the cacheable ones (`rest`, a JSON object)."""
    head = orjson.dumps(
        {
            "request_id": request_id,
            "model": {"name": model.name, "version": model.version},
            "variant": model.variant,
            "served_by": served_by,
            "degraded": bool(missing),
            "missing": missing,
        }
    )
    return RawJsonResponse(head[:-1] + b"," + rest[1:], cache)


def pack(prior: bool, support_size: int, rest: bytes) -> bytes:
    """Pack a list for the caches: whether the prior alone made it, the events of the support, and the JSON object."""
    return _HEAD.pack(prior, support_size) + rest


def unpack(packed: bytes) -> tuple[bool, int, bytes]:
    """Unpack what `pack` packed."""
    prior, size = _HEAD.unpack_from(packed)
    return prior, size, packed[_HEAD.size :]
