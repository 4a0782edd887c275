"""The items of every kind, as this process last read them: only what was changed since is read again."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Row

from api.persistence.async_database import AsyncDatabase
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.store.items.items import TRACE_DAYS, changed_items, item_revisions

_ANEW_S = TRACE_DAYS * 24 * 3600 / 2  # after so long without the database, deleted items may have left no trace

_FREEZE_ROWS = 2000  # changes that are read at once, from which on the collector leaves what there is alone


@dataclass
class KindItems:
    """The items of a kind by id, the times at which they were first stored, and the number of the last change."""

    items: dict[str, StoredItem] = field(default_factory=dict)
    created: dict[str, datetime] = field(default_factory=dict)
    revision: int = 0

    def copy(self) -> KindItems:
        """Return the same items, to take in changes."""
        return KindItems(dict(self.items), dict(self.created), self.revision)

    def apply(self, rows: Sequence[Row[Any]]) -> None:
        """Take in changes, the oldest first."""
        for row in rows:
            self.items.pop(row.external_id, None)  # those that were changed last come last
            self.created.pop(row.external_id, None)
            if row.deleted is None:
                self.items[row.external_id] = StoredItem(
                    row.external_id, row.features, row.title, row.available, row.revision
                )
                self.created[row.external_id] = row.created
            self.revision = row.revision


class ItemTable:
    """Items by kind. A reader sees a kind as it was, or as it is after a change."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database, self._read_at = database, time.monotonic()
        self.kinds: dict[str, KindItems] = {}

    def of(self, kind: str) -> KindItems:
        """The items of a kind."""
        return self.kinds.get(kind, KindItems())

    async def read_changes(self) -> set[str]:
        """Read what was changed since the last call; return the kinds whose items are others now. Raises
        StoreUnavailable; then nothing changes."""
        revisions = await self._database.try_read(item_revisions)
        is_stale = time.monotonic() - self._read_at > _ANEW_S
        self._read_at = time.monotonic()
        kinds = set()
        for kind, revision in revisions.items():
            known = KindItems() if is_stale else self.of(kind)
            if known.revision > revision:  # the database was put back to an earlier state
                known = KindItems()
            if known.revision != revision or is_stale:
                self.kinds[kind] = await self._read(kind, known, revision)
                kinds.add(kind)
        return kinds

    async def _read(self, kind: str, known: KindItems, revision: int) -> KindItems:
        # In threads: of 100,000 items a copy takes longer than the event loop may stand still.
        later = await asyncio.to_thread(known.copy)
        is_all = False
        while not is_all:
            rows, is_all = await self._database.read(partial(changed_items, kind=kind, after=later.revision))
            await asyncio.to_thread(later.apply, rows)
            if len(rows) >= _FREEZE_ROWS:
                # Items stay, and hold nothing that refers back to them: the collector need not look at all of them
                # again and again, for which requests would wait.
                gc.collect()
                gc.freeze()
        later.revision = max(later.revision, revision)
        return later
