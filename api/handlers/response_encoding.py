"""Answers as bytes: orjson, no response validation on the way."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response

from api.inference.model_registry import LoadedModel
from recsys_meta.inference.insight.explanations import ItemExplanation
from recsys_meta.inference.ranking.item_catalog import ScoredItem

JSON = "application/json"
_OPTIONS = orjson.OPT_UTC_Z
_KEPT = struct.Struct(">?I")  # prior, size of the support


class RawJsonResponse(Response):
    """A good answer with its headers as bytes: to read them from a mapping takes as long as all the rest of it."""

    def __init__(self, body: bytes, cache: str) -> None:
        self.status_code, self.background, self.body = 200, None, body
        length = b"content-length", str(len(body)).encode()
        self.raw_headers = [length, (b"content-type", JSON.encode()), (b"x-cache", cache.encode())]


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that is not in a hurry."""
    return Response(orjson.dumps(content, option=_OPTIONS), status, headers, JSON)


def encode_items(items: Sequence[ScoredItem], whys: Sequence[ItemExplanation] = ()) -> list[dict[str, Any]]:
    """A list in the form of the answer, with reasons where there are any."""
    rows: list[dict[str, Any]] = [
        {"rank": rank, "item": s.item, "score": s.score, "title": s.title} for rank, s in enumerate(items, 1)
    ]
    for row, why in zip(rows, whys, strict=False):
        row["why"] = {"prior": why.prior, "events": [vars(cause) for cause in why.causes]}
    return rows


def merge_response(
    request_id: str, model: LoadedModel, served_by: str, missing: Sequence[str], rest: bytes, cache: str
) -> Response:
    """What differs from request to request, in front of what does not (`rest`, a JSON object)."""
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
    """A list as the cache of the process keeps it."""
    return _KEPT.pack(prior, support_size) + rest


def unpack(kept: bytes) -> tuple[bool, int, bytes]:
    """What `pack` was given."""
    prior, size = _KEPT.unpack_from(kept)
    return prior, size, kept[_KEPT.size :]
