"""Keeps the models in service up with the items that are stored: new ones, hidden ones, and first events.

A change of any process is in the database; each process asks for the number of the last one twice a second. Models are
made ready in a thread, and take the place of those before in one assignment.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from api.inference.item_evidence import ItemEvidenceReader
from api.inference.load_failures import LoadFailureLog
from api.inference.loaded_model import LoadedModel
from api.inference.model_registry import ModelRegistry
from api.persistence.async_database import AsyncDatabase
from api.persistence.item_table import ItemTable
from recsys_meta.inference.recommender import Recommender
from recsys_meta.store.database.engine import StoreUnavailable

POLL_S = 0.5
"""Interval at which changes are asked for, seconds."""

LEAST_PAUSE_S = 0.1
"""Pause, at least, where making models ready takes longer than that interval, seconds."""

EVENTS_S = 2.0
"""Interval at which first events of new items are asked for, seconds; more where reading them takes long."""

_SHARE = 0.1  # of the time that reading events may take

_Key = tuple[str, str]  # name and version of a model
_EVERY = ("", "")  # stands for all models

_REFRESH, _EVENTS, _PLACES, _EQUIP = (
    "items could not be refreshed",
    "first events of new items cannot be read",
    "new items cannot be placed",
    "items of a model stay as they were",
)


class ItemRefresher:
    """Equips the models of a registry with the items that are stored."""

    def __init__(self, database: AsyncDatabase, registry: ModelRegistry, log: Any) -> None:
        self._database, self._registry, self._log = database, registry, log
        self.table = ItemTable(database)
        self._evidence: dict[_Key, ItemEvidenceReader] = {}
        self._equipped: dict[_Key, int] = {}
        self._failures = LoadFailureLog()
        self._events_due = 0.0
        self._lock, self._wake = asyncio.Lock(), asyncio.Event()
        registry.prepare = self._prepare

    def wake(self) -> None:
        """Ask for changes now: something was changed by this process."""
        self._wake.set()

    async def run(self, closing: asyncio.Event) -> None:
        """Refresh until the server closes. No error may end it."""
        pause = POLL_S
        while not closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            began = time.monotonic()
            try:
                await self.refresh()
                self._note(_EVERY, _REFRESH)
            except StoreUnavailable:
                pass
            except Exception as error:
                self._note(_EVERY, _REFRESH, error)
            pause = max(POLL_S - (time.monotonic() - began), LEAST_PAUSE_S)

    async def read(self) -> None:
        """Read changes without equipping models, before the first of them is loaded. Raises StoreUnavailable."""
        async with self._lock:
            await self.table.read_changes()

    async def refresh(self) -> None:
        """Equip the models whose items, or first events of items, are others now. Raises StoreUnavailable."""
        async with self._lock:
            await self.table.read_changes()
            models = {key: one for key, one in self._registry.loaded().items() if self._has_items(one)}
            self._evidence = {key: one for key, one in self._evidence.items() if key in models}
            self._equipped = {key: one for key, one in self._equipped.items() if key in models}
            await self._equip_changed(models, set())  # at once: reading events may take long
            await self._equip_changed(models, await self._read_events(models))

    async def _equip_changed(self, models: dict[_Key, LoadedModel], news: set[_Key]) -> None:
        """Equip the models whose items have changed, and those for which there is news of events."""
        for key, model in models.items():
            revision = self.table.of(model.kind).revision
            if key in news or self._equipped.get(key) != revision:
                self._equipped[key] = revision  # what fails is tried again after the next change
                try:
                    recommender = await asyncio.to_thread(self._equip, key, model)
                except Exception as error:  # the others shall not wait for it
                    self._note(key, _EQUIP, error)
                else:
                    self._note(key, _EQUIP)
                    self._registry.equip({key: recommender})

    def _note(self, key: _Key, event: str, error: Exception | None = None) -> None:
        """Log a failure once, not at each poll or change, until it goes well: without an error it does."""
        place = event, f"{key[0]}@{key[1]}"
        if error is None:
            self._failures.forget(place)
        elif self._failures.record(place, f"{type(error).__name__}: {error}"):
            self._log.error(event, model=key[0], version=key[1], exc_info=error)

    def _has_items(self, model: LoadedModel) -> bool:
        """True where a model has, or had, anything to know of stored items."""
        home = model.recommender.bundle.schema.home
        return home is None and bool(self.table.of(model.kind).revision)

    async def _read_events(self, models: dict[_Key, LoadedModel]) -> set[_Key]:
        """Read first events, where that is due; return the models for which these say something new."""
        began = time.monotonic()
        if began < self._events_due:
            return set()
        news = set()
        for key, model in models.items():
            if model.sample is None:
                continue
            reader = self._evidence.get(key)
            if reader is None:
                reader = self._evidence[key] = ItemEvidenceReader(self._database, model.recommender)
            reader.recommender = model.recommender
            try:
                if await reader.read(self.table.of(model.kind)):
                    news.add(key)
                self._note(key, _EVENTS)
            except StoreUnavailable:
                raise
            except Exception as error:  # items are hidden and placed all the same
                self._note(key, _EVENTS, error)
        took = time.monotonic() - began
        self._events_due = time.monotonic() + max(EVENTS_S, took / _SHARE)
        return news

    def _prepare(self, model: LoadedModel) -> LoadedModel:
        """Equip a model that was just loaded, before it goes into service; runs in a thread."""
        if not self._has_items(model):
            return model
        return replace(model, recommender=self._equip((model.name, model.version), model))

    def _equip(self, key: _Key, model: LoadedModel) -> Recommender:
        """Make a model ready for the items that are stored; where it cannot place new ones, it ranks its own alone."""
        items = list(self.table.of(model.kind).items.values())
        reader = self._evidence.get(key)
        recommender = model.recommender
        if model.sample is not None:
            try:
                equipped = recommender.with_items(items, {} if reader is None else reader.evidence)
            except Exception as error:
                self._note(key, _PLACES, error)
            else:
                self._note(key, _PLACES)
                return equipped
        own = [item for item in items if not item.available or item.name in recommender.own_items]
        return recommender.with_items(own)
