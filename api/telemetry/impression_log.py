"""Impressions of the lists that were answered, queued for the store's background writer."""

from __future__ import annotations

from typing import Any

import orjson

from recsys_meta.store.background_writer import BackgroundWriter
from recsys_meta.store.entities.impressions import MOST_ITEMS, NewImpression, is_sampled

_LARGE_BYTES = 8 * 1024  # a row holds no more, so that a full queue has a bound


class ImpressionLog:
    """Queues the lists of a sample of the entities, a share of `rate` of them; lists of no entity by their request."""

    def __init__(self, writer: BackgroundWriter, rate: float) -> None:
        self._writer, self._rate = writer, rate

    @property
    def rate(self) -> float:
        """The share of entities whose lists are kept, 0 to 1."""
        return self._rate

    def put(self, impression: NewImpression) -> None:
        """Queue a list where it belongs to the sample. Never waits."""
        rate = self._rate
        if rate < 1:
            if not is_sampled(impression.kind, impression.entity or impression.request_id, rate):
                return
            impression = impression._replace(sample_rate=rate)
        if len(impression.content) > _LARGE_BYTES:
            impression = impression._replace(content=_first_items(impression.content))
        self._writer.put(impression)


def _first_items(content: bytes) -> bytes:
    items: list[dict[str, Any]] = orjson.loads(content)["items"][:MOST_ITEMS]
    return orjson.dumps({"items": [{"rank": one["rank"], "item": one["item"]} for one in items]})
