"""The models in service: the live version of each and the arms of its split, loaded beside the old ones and swapped
in one assignment."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from api.http.problem_details import ProblemError, unavailable
from api.inference.load_failures import LoadFailureLog
from api.inference.loaded_model import ActiveSplit, LoadedModel, activate_split, open_version
from api.persistence.async_database import AsyncDatabase
from api.telemetry.logging import open_log
from recsys_meta.core.errors import CheckpointError, ConflictError
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry import split_arms as arms
from recsys_meta.store.model_registry.split_arms import TrafficSplit
from recsys_meta.store.model_registry.tables import ModelVersionRecord

__all__ = ["LoadedModel", "ModelRegistry"]

_PINNED = 4  # versions that are not live but were asked for by name
_RETRY_S = 3.0  # how long a version that could not be loaded is left alone, seconds
_UNREADABLE = "the version cannot be loaded; the server's log says why"
_LACKING = "an arm of the split cannot be loaded or is for others; the live version stands in"


class ModelRegistry:
    """Which model answers. Readers see one snapshot; `refresh` replaces it whole. Without a log it writes lines of the
    same form to one of its own."""

    def __init__(self, database: AsyncDatabase, folder: Path, log: Any = None) -> None:
        self._database, self._folder = database, folder
        self._log = open_log()[0] if log is None else log
        self._lock, self._loading = asyncio.Lock(), asyncio.Lock()
        self._pinned: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._failures = LoadFailureLog()
        self.live: Mapping[str, LoadedModel] = MappingProxyType({})
        self.splits: Mapping[str, ActiveSplit] = MappingProxyType({})
        self.broken: Mapping[str, str] = MappingProxyType({})
        self.asked = False  # whether the database ever told which models there are

    async def refresh(self) -> list[LoadedModel]:
        """Load what went live since; answers what was swapped in. A version that cannot be read leaves the one
        before it in service. Raises Unavailable; then all stays as it is."""
        async with self._lock:
            wanted, divided = await self._database.probe(_wanted)
            self._failures.retain(
                (r.model, r.version) for rows in (wanted, *(rows for _, rows in divided)) for r in rows
            )
            before = {(s.name, s.version, s.variant) for s in self._parts()}
            known = {(s.name, s.version): s for s in self._parts()}

            async def find(row: ModelVersionRecord) -> LoadedModel | None:
                key = row.model, row.version
                if key not in known and (found := self._pinned.get(key) or await self._attempt(row)) is not None:
                    known[key] = found
                return known.get(key)

            live, broken, splits = dict[str, LoadedModel](), dict[str, str](), dict[str, ActiveSplit]()
            for row in wanted:
                model = await find(row)
                if model is None:
                    broken[row.model] = _UNREADABLE
                    model = self.live.get(row.model)
                if model is not None:
                    live[row.model] = model if model.variant is None else replace(model, variant=None)
            for split, rows in divided:
                made = activate_split(split, live.get(split.model), [await find(row) for row in rows])
                if len(made.arms) < len(split.arms):
                    broken.setdefault(split.model, _LACKING)
                splits[split.model] = made
            # Nothing waits between these, so a request sees all of them or none.
            self.live, self.splits = MappingProxyType(live), MappingProxyType(splits)
            self.broken, self.asked = MappingProxyType(broken), True
            return [s for s in self._parts() if (s.name, s.version, s.variant) not in before]

    async def check(self, name: str, version: str) -> LoadedModel:
        """A registered version, loaded, before it goes live. Raises NotFoundError, and ConflictError for one that
        cannot be loaded: to ask again, as after an outage, would not mend it. The reason is logged at every call,
        because the one who asks is told to look for it there."""
        row = await self._database.read(lambda s: registry.resolve_version(s, f"{name}@{version}"))
        self._failures.forget((row.model, row.version))
        try:
            return await self._pin(row)
        except CheckpointError as error:
            raise ConflictError(str(error)) from None

    async def resolve(self, model_name: str | None, kind: str | None, entity: str | None = None) -> LoadedModel:
        """The model meant by `name`, `name@version`, or by the kind of the newcomer. Raises Problem.

        While a split stands an entity is answered by its arm, unless a version was named. Without an entity the live
        version answers: an anonymous newcomer cannot be known again, and would change sides with every event.
        """
        if model_name is None:
            return self._arm(self._for_kind(kind), entity)
        name, _, version = model_name.partition("@")
        model = self.live.get(name)
        if model is None or (version and model.version != version):
            model = await self._other(name, version)
        if kind is not None and kind != model.kind:
            raise ProblemError(422, f"Model '{name}' is for newcomers of kind '{model.kind}', not '{kind}'")
        return model if version else self._arm(model, entity)

    def of_kind(self, kind: str) -> list[LoadedModel]:
        """Live models for a kind of newcomer, by name."""
        return [s for _, s in sorted(self.live.items()) if s.kind == kind]

    def _arm(self, model: LoadedModel, entity: str | None) -> LoadedModel:
        divided = None if entity is None else self.splits.get(model.name)
        return model if divided is None or entity is None else divided.model_of(entity) or model

    def _parts(self) -> list[LoadedModel]:
        """All that is in service: live versions and arms."""
        return [*self.live.values(), *(arm for divided in self.splits.values() for arm in divided.arms.values())]

    def _for_kind(self, kind: str | None) -> LoadedModel:
        fitting = self.of_kind(kind) if kind is not None else list(self.live.values())
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            if not self.live:
                raise unavailable("No model is in service; publish one with `recsys-meta models publish`")
            raise ProblemError(404, f"No model in service is for newcomers of kind '{kind}'")
        names = ", ".join(sorted(s.name for s in fitting))
        raise ProblemError(422, f"Several models fit; name one in 'model': {names}")

    async def _other(self, name: str, version: str) -> LoadedModel:
        """A version that is not live, or whose name was shortened."""
        if not version:
            if name in self.broken:
                raise unavailable(f"Model '{name}' is not in service: {self.broken[name]}")
            if not self.asked:
                raise unavailable("The models in service are not known yet: the database cannot be reached")
            raise ProblemError(404, f"No model '{name}' is in service; GET /v1/models lists those there are")
        if (name, version) in self._pinned:
            self._pinned.move_to_end((name, version))
            return self._pinned[name, version]
        if self._database.degraded and (loaded := self._loaded(name, version)) is not None:
            return loaded
        try:
            row = await self._database.read(lambda s: registry.resolve_version(s, f"{name}@{version}"))
        except StoreUnavailable:
            if (loaded := self._loaded(name, version)) is None:
                raise
            return loaded
        found = next((s for s in self._parts() if (s.name, s.version) == (row.model, row.version)), None)
        return await self._pin(row) if found is None else replace(found, variant=None)

    def _loaded(self, name: str, start: str) -> LoadedModel | None:
        """The one version at hand that starts so, for when nobody can say which others there are."""
        at_hand = {s.version: s for s in (*self._pinned.values(), *self._parts()) if s.name == name}
        fitting = [s for version, s in at_hand.items() if version.startswith(start)]
        return replace(fitting[0], variant=None) if len(fitting) == 1 else None

    async def _pin(self, row: ModelVersionRecord) -> LoadedModel:
        """Load a version that is not live, one at a time, and keep the few used last."""
        key = row.model, row.version
        async with self._loading:
            found = self._pinned.get(key) or await self._load(row)
            self._pinned[key] = found
            self._pinned.move_to_end(key)
            if len(self._pinned) > _PINNED:
                self._pinned.popitem(last=False)
            return found

    async def _attempt(self, row: ModelVersionRecord) -> LoadedModel | None:
        """The same for what is wanted at every look: reading a damaged version over and over would cost too much."""
        if self._failures.recent((row.model, row.version), _RETRY_S):
            return None
        try:
            return await self._load(row)
        except CheckpointError:
            return None

    async def _load(self, row: ModelVersionRecord) -> LoadedModel:
        """Raises CheckpointError. What was wrong names files of ours: that is for the log, not for callers."""
        key = row.model, row.version
        try:
            found = await asyncio.to_thread(open_version, self._folder, row)
        except Exception as error:  # one that cannot be read must not keep the others from being served
            if self._failures.record(key, error):  # a reason is logged once: the version may be tried for days
                self._log.error("a version cannot be loaded", model=row.model, version=row.version, exc_info=True)
            raise CheckpointError(f"{row.model}@{row.version}: {_UNREADABLE}") from None
        self._failures.forget(key)
        return found


def _wanted(session: Session) -> tuple[list[ModelVersionRecord], list[tuple[TrafficSplit, list[ModelVersionRecord]]]]:
    """The live version of each model, and the splits with the version of each arm.

    Splits are read first: a promotion that is committed in between then leaves them standing until the next look. The
    other way round, entities of the new arm would be sent back to the old version for as long.
    """
    divided = [
        (s, [registry.get_model_record(session, s.model, a.version) for a in s.arms])
        for s in arms.current_splits(session)
    ]
    summaries = [m for m in registry.page_models(session) if m.live is not None]
    return [registry.get_model_record(session, m.name, str(m.live)) for m in summaries], divided
