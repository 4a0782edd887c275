"""Evidence of first events about new items, for one model: how many like each, and the tastes of those who did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import torch
from cachetools import TTLCache
from sqlalchemy.orm import Session
from torch import Tensor

from api.persistence.async_database import AsyncDatabase
from api.persistence.item_table import KindItems
from recsys_meta.core.schema import Schema
from recsys_meta.inference.new_items.new_item_block import MOST_GUIDES
from recsys_meta.inference.new_items.stored_items import ItemEvidence
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.inference.requests.stored_events import merge_events
from recsys_meta.store.entities.profiles import read_stored_profile
from recsys_meta.store.items.item_events import (
    ItemLikes,
    entities_with_events,
    event_rate,
    first_likes,
    items_with_events,
)

WINDOW_S = 600
"""Length of the windows of time, seconds. All evidence is read anew in each, since time alone changes it and erased
entities shall leave it. Items are as old as they are at the end of a window, and the rate of events is that of its
begin: so the processes of all servers, whenever they read, rank an item alike."""

FIRST_WINDOW_S = 10
"""Length of the windows until a long one has events before it: those of a kind that was never met before came at a
rate that is not known until then."""

OVERLAP_S = 30.0
"""Time that events may take from their arrival until they can be read, seconds."""

_CHUNK = 2000  # items whose events are read at once
_PROFILES = 100  # entities whose profiles are read at once
_MOST_TASTES = 20_000  # entities whose tastes are tastes
_TASTE_S = 3600.0  # and for how long, seconds

_Guide = tuple[Tensor, tuple[int, ...]]  # the taste of an entity, and the ids of the model's items that it liked


class _TimeWindow(NamedTuple):
    begin: float  # seconds since 1970
    length: float
    rate: float  # events in a second before it began

    @property
    def end(self) -> datetime:
        return datetime.fromtimestamp(self.begin + self.length, UTC)

    def holds(self, moment: float) -> bool:
        return self.begin <= moment < self.begin + self.length


class ItemEvidenceReader:
    """Evidence about the new items of one model: of `recommender`, which may be replaced by another one of the same
    bundle. `evidence` holds what was read last."""

    def __init__(
        self, database: AsyncDatabase, recommender: Recommender, clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self.recommender, self._clock = database, recommender, clock
        self._tastes: TTLCache[str, _Guide] = TTLCache(_MOST_TASTES, _TASTE_S)
        self._likes: dict[str, ItemLikes] = {}
        self._window, self._events_at = _TimeWindow(-1.0, 0.0, 0.0), datetime.now(UTC)
        self._items, self._seen = KindItems(), frozenset[str]()
        self.evidence: Mapping[str, ItemEvidence] = {}

    async def read(self, items: KindItems) -> bool:
        """Read what there is since the last call; return whether that changes anything. Raises StoreUnavailable."""
        # What takes longer the more items there are runs in threads: the event loop answers requests.
        schema, before, now = self.recommender.bundle.schema, self._seen, datetime.now(UTC)
        new = before if items is self._items else await asyncio.to_thread(self._new_names, items)
        if not new:
            is_news, self.evidence, self._items, self._seen = bool(self.evidence), {}, items, new
            return is_news
        window = await self._find_window()
        is_whole = window != self._window
        if is_whole:
            await self._forget_tastes()
        since = self._events_at - timedelta(seconds=OVERLAP_S)
        active = await self._database.read(partial(items_with_events, kind=schema.kind, since=since))
        added = frozenset[str]() if new is before else new - before
        names = await asyncio.to_thread(sorted, new if is_whole else (new & active) | added)
        likes = await self._read_likes(names, schema, {} if is_whole else self._likes)
        # That an item was not liked since it came is evidence too, so those that were added have to be weighed.
        is_news = is_whole or bool(added) or likes != self._likes
        if is_news:
            self.evidence = await self._weigh(items, likes, new, window)
        self._likes, self._events_at, self._items, self._seen, self._window = likes, now, items, new, window
        return is_news

    async def _find_window(self) -> _TimeWindow:
        """Find the window of time that it is now: a long one where there were events before it, else a short one where
        there were some before that."""
        moment, kind = self._clock(), self.recommender.bundle.schema.kind
        if self._window.rate and self._window.length == WINDOW_S and self._window.holds(moment):
            return self._window
        for length in (WINDOW_S, FIRST_WINDOW_S):
            begin = moment // length * length
            before = datetime.fromtimestamp(begin, UTC)
            rate = await self._database.read(partial(event_rate, kind=kind, now=before))
            if rate:
                return _TimeWindow(begin, length, rate)
        return _TimeWindow(moment // WINDOW_S * WINDOW_S, WINDOW_S, 0.0)

    async def _forget_tastes(self) -> None:
        """Forget the tastes of those who had events in the window before, or since: other processes read them later."""
        since = datetime.fromtimestamp(max(self._window.begin - OVERLAP_S, 0.0), UTC)
        read = partial(entities_with_events, kind=self.recommender.bundle.schema.kind, since=since)
        for entity in await self._database.read(read) if self._tastes else ():
            self._tastes.pop(entity, None)

    def _new_names(self, items: KindItems) -> frozenset[str]:
        own = self.recommender.own_items
        return frozenset(name for name, item in items.items.items() if item.available and name not in own)

    async def _read_likes(
        self, names: Sequence[str], schema: Schema, before: Mapping[str, ItemLikes]
    ) -> dict[str, ItemLikes]:
        """Read the likes of some items anew; those of others are as before."""
        likes = dict(before)
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            least = least_liked(schema)
            read = partial(first_likes, kind=schema.kind, items=chunk, least_label=least, most=MOST_GUIDES)
            fresh = await self._database.read(read)
            for name in chunk:
                likes.pop(name, None)
            likes |= fresh
        return likes

    async def _weigh(
        self, items: KindItems, likes: Mapping[str, ItemLikes], new: frozenset[str], window: _TimeWindow
    ) -> dict[str, ItemEvidence]:
        likes = {name: one for name, one in likes.items() if name in new}
        tastes = await self._tastes_of(dict.fromkeys(e for one in likes.values() for e in one.entities))
        return await asyncio.to_thread(self._evidence_of, items, likes, tastes, new, window)

    def _evidence_of(
        self,
        items: KindItems,
        likes: Mapping[str, ItemLikes],
        tastes: Mapping[str, _Guide],
        new: frozenset[str],
        window: _TimeWindow,
    ) -> dict[str, ItemEvidence]:
        nothing = torch.zeros(0, 0)
        model_events = max(float(self.recommender.bundle.popularity.sum()), 1.0)
        evidence = {}
        for name in new:
            count, entities = likes.get(name, ItemLikes(0, ()))
            known = [tastes[e] for e in dict.fromkeys(entities) if e in tastes]
            rows, histories = [taste for taste, _ in known], [items for _, items in known]
            age = max((window.end - items.created[name]).total_seconds(), 0.0)
            # The item's own events were among all: at least so many there were.
            traffic = max(window.rate * age, float(count)) / model_events
            evidence[name] = ItemEvidence(count, traffic, torch.stack(rows) if rows else nothing, histories)
        return evidence

    async def _tastes_of(self, entities: Iterable[str]) -> Mapping[str, _Guide]:
        """Tastes [R] and own items by entity, of those that are known by other items too."""
        tastes = {e: taste for e in entities if (taste := self._tastes.get(e)) is not None}
        missing = [e for e in entities if e not in tastes]
        for start in range(0, len(missing), _PROFILES):
            chunk = missing[start : start + _PROFILES]
            fresh = await self._database.read(partial(self._read_tastes, entities=chunk))
            self._tastes.update(fresh)
            tastes |= fresh
        return tastes

    def _read_tastes(self, session: Session, entities: Sequence[str]) -> dict[str, _Guide]:
        entities_by_id = {e: self._encode(session, e) for e in entities}
        known = {e: one for e, one in entities_by_id.items() if one.support_size}
        # Each with others of its size: as an answer has it, no row is padded.
        groups: dict[tuple[int, int], list[str]] = {}
        for e, one in known.items():
            groups.setdefault((len(one.items), len(one.dislikes)), []).append(e)
        tastes: dict[str, _Guide] = {}
        for names in groups.values():
            rows = self.recommender.tastes([known[e] for e in names])
            tastes |= {e: (row, known[e].items) for e, row in zip(names, rows, strict=True)}
        return tastes

    def _encode(self, session: Session, entity: str) -> EncodedEntity:
        reader = self.recommender.reader
        features, events = read_stored_profile(session, reader.schema.kind, entity)
        return self.recommender.read_support(merge_events(reader, features, events, EntityRequest()))


def least_liked(schema: Schema) -> float:
    """Return the least label of an event that says that the item is liked."""
    if schema.objective == "ranking":
        return schema.liked_from if schema.liked_from is not None else 1e-9
    if schema.objective == "rating" and schema.label_range is not None:
        return sum(schema.label_range) / 2
    return 1e-9
