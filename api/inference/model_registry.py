"""Registry of the models in service: the live version of each and the arms of its split, loaded beside the old ones and
swapped in one assignment."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
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
from recsys_meta.inference.recommender import Recommender
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry import split_arms as arms
from recsys_meta.store.model_registry.split_arms import TrafficSplit
from recsys_meta.store.model_registry.tables import ModelVersionRecord

__all__ = ["LoadedModel", "ModelRegistry"]

_MAX_PINNED = 4  # versions that are not live but were asked for by name
_RETRY_S = 3.0  # time before a version that could not be loaded is tried again, seconds
_UNREADABLE = "the version cannot be loaded; the server's log says why"
_FAILING = "the live version fails when tried, and the one before it answers"
_ARM_MISSING = "an arm of the split cannot be loaded, fails or is for others; the live version stands in"


class ModelRegistry:
    """Loaded models by name: `live` versions, `splits`, and `broken` ones with the reason. `defaults`: by kind, the
    model that answers where a request names none. Readers see one snapshot, which `refresh` replaces whole. `asked`:
    the database has said at least once which models there are. `prepare` is called in a thread with each version
    that was loaded, before it goes into service. `folder` holds the bundles. Without a log the registry opens one."""

    def __init__(self, database: AsyncDatabase, folder: Path, log: Any = None, sketch_from: int = 0) -> None:
        self._database, self.folder, self._sketch_from = database, folder, sketch_from
        self._log = open_log()[0] if log is None else log
        self._lock, self._loading = asyncio.Lock(), asyncio.Lock()
        self._pinned: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._failures = LoadFailureLog()
        self._equipped: dict[tuple[str, str], Recommender] = {}
        self.prepare: Callable[[LoadedModel], LoadedModel] = lambda model: model
        self.live: Mapping[str, LoadedModel] = MappingProxyType({})
        self.splits: Mapping[str, ActiveSplit] = MappingProxyType({})
        self.broken: Mapping[str, str] = MappingProxyType({})
        self.defaults: Mapping[str, str] = MappingProxyType({})
        self.asked = False

    async def refresh(self) -> list[LoadedModel]:
        """Load what went live since; answer what was swapped in. A version that cannot be loaded leaves the one before
        it in service. Raises StoreUnavailable; then nothing changes."""
        async with self._lock:
            live_rows, split_rows, given_defaults = await self._database.probe(_read_service)
            self._failures.retain(
                (r.model, r.version) for rows in (live_rows, *(rows for _, rows in split_rows)) for r in rows
            )
            before = {(s.name, s.version, s.variant) for s in self.in_service()}
            models = {(s.name, s.version): s for s in self.in_service()}

            async def find(row: ModelVersionRecord) -> LoadedModel | None:
                key = row.model, row.version
                if key not in models and (model := self._pinned.get(key) or await self._attempt(row)) is not None:
                    models[key] = model
                return models.get(key)

            async def find_well(row: ModelVersionRecord) -> LoadedModel | None:
                """None also for one that fails its trial, which is loaded once and not at each poll."""
                if self._failures.trial_problem((row.model, row.version)) is not None:
                    return None
                model = await find(row)
                if model is None or model.problem is None:
                    return model
                self._note_problem(model)
                return None

            live, load_errors, splits = dict[str, LoadedModel](), dict[str, str](), dict[str, ActiveSplit]()
            for row in live_rows:
                before_it = self.live.get(row.model)
                has_other = before_it is not None and before_it.sample is not None
                model = await (find_well if has_other else find)(row)
                if model is None:
                    problem = self._failures.trial_problem((row.model, row.version))
                    load_errors[row.model] = _UNREADABLE if problem is None else f"{_FAILING}: {problem}"
                    model = before_it
                if model is not None:
                    live[row.model] = model if model.variant is None else replace(model, variant=None)
            for split, rows in split_rows:
                active = activate_split(split, live.get(split.model), [await find_well(row) for row in rows])
                if len(active.arms) < len(split.arms):
                    load_errors.setdefault(split.model, _ARM_MISSING)
                splits[split.model] = active
            # No await stands between these, so a request sees all of them or none.
            self._put_in_service(live, splits)
            self.broken, self.asked = MappingProxyType(load_errors), True
            self.defaults = MappingProxyType(_defaults(live, given_defaults))
            return [s for s in self.in_service() if (s.name, s.version, s.variant) not in before]

    def loaded(self) -> dict[tuple[str, str], LoadedModel]:
        """All loaded versions by name and version: those in service, and those that were asked for by name."""
        return {(s.name, s.version): s for s in (*self._pinned.values(), *self.in_service())}

    def equip(self, recommenders: Mapping[tuple[str, str], Recommender]) -> None:
        """Let versions answer with other recommenders, which have the same bundles, at once and from now on."""
        if not recommenders:
            return
        versions = self.loaded()
        self._equipped = {k: r for k, r in {**self._equipped, **recommenders}.items() if k in versions}
        self._put_in_service(self.live, self.splits)
        for key, model in self._pinned.items():
            self._pinned[key] = self._with_items(model)

    def _put_in_service(self, live: Mapping[str, LoadedModel], splits: Mapping[str, ActiveSplit]) -> None:
        self.live = MappingProxyType({name: self._with_items(model) for name, model in live.items()})
        self.splits = MappingProxyType(
            {
                name: replace(s, arms=MappingProxyType({label: self._with_items(arm) for label, arm in s.arms.items()}))
                for name, s in splits.items()
            }
        )

    def _with_items(self, model: LoadedModel) -> LoadedModel:
        recommender = self._equipped.get((model.name, model.version))
        if recommender is None or recommender is model.recommender:
            return model
        return replace(model, recommender=recommender)

    async def check(self, name: str, version: str) -> LoadedModel:
        """Load and try a registered version before it goes live. Raises NotFoundError, and ConflictError for one that
        cannot be loaded or fails: unlike after an outage, a retry would not help. The reason is logged at every call,
        because the client is referred to the log."""
        row = await self._database.read(lambda s: registry.resolve_version(s, f"{name}@{version}"))
        self._failures.forget((row.model, row.version))
        try:
            model = await self._pin(row)
        except CheckpointError as error:
            raise ConflictError(str(error)) from None
        self._note_problem(model)
        if model.problem is not None:
            raise ConflictError(f"{row.model}@{row.version} fails when tried, so it may not go live: {model.problem}")
        return model

    async def resolve(self, model_name: str | None, kind: str | None, entity: str | None = None) -> LoadedModel:
        """Find the model of `name`, of `name@version`, or of an entity's kind. Raises Problem.

        While a split is active an entity gets its arm, unless a version was named. An anonymous entity gets the live
        version: it cannot be recognized, and would change arms with every event.
        """
        if model_name is None:
            return self.arm_of(self._for_kind(kind), entity)
        name, _, version = model_name.partition("@")
        model = self.live.get(name)
        if model is None or (version and model.version != version):
            model = await self._find_version(name, version)
        if kind is not None and kind != model.kind:
            raise ProblemError(422, f"Model '{name}' is for newcomers of kind '{model.kind}', not '{kind}'")
        return model if version else self.arm_of(model, entity)

    def of_kind(self, kind: str) -> list[LoadedModel]:
        """Live models for a kind of entity, in order of their names."""
        return [s for _, s in sorted(self.live.items()) if s.kind == kind]

    def bundles_of(self, kind: str) -> list[Bundle]:
        """Bundles of the live models for a kind of entity."""
        return [model.recommender.bundle for model in self.of_kind(kind)]

    def arm_of(self, model: LoadedModel, entity: str | None) -> LoadedModel:
        """The arm of an entity while the model is split, else the model itself."""
        split = None if entity is None else self.splits.get(model.name)
        return model if split is None or entity is None else split.model_of(entity) or model

    def in_service(self) -> list[LoadedModel]:
        """All models in service: live versions and arms."""
        return [*self.live.values(), *(arm for split in self.splits.values() for arm in split.arms.values())]

    def _for_kind(self, kind: str | None) -> LoadedModel:
        if not self.live:
            raise unavailable("No model is in service; publish one with `recsys-meta models publish`")
        kinds = {s.kind for s in self.live.values()}
        if kind is None and len(kinds) > 1:
            names = ", ".join(sorted(self.live))
            raise ProblemError(
                422, f"Several models fit; name a kind ({', '.join(sorted(kinds))}) or, in 'model', one of {names}"
            )
        kind = kind or next(iter(kinds))
        default = self.live.get(self.defaults.get(kind, ""))
        if default is not None and default.kind == kind:
            return default
        fitting = self.of_kind(kind)
        if not fitting:
            raise ProblemError(404, f"No model in service is for newcomers of kind '{kind}'")
        return fitting[0]

    async def _find_version(self, name: str, version: str) -> LoadedModel:
        """A version that is not live, or is named by a prefix. Raises Problem where there is none."""
        if not version:
            if name in self.broken:
                raise unavailable(f"Model '{name}' is not in service: {self.broken[name]}")
            if not self.asked:
                raise unavailable("The models in service are not known yet: the database cannot be reached")
            raise ProblemError(404, f"No model '{name}' is in service; GET /v1/models lists those there are")
        if (name, version) in self._pinned:
            self._pinned.move_to_end((name, version))
            return self._pinned[name, version]
        if self._database.degraded and (model := self._at_hand(name, version)) is not None:
            return model
        try:
            row = await self._database.read(lambda s: registry.resolve_version(s, f"{name}@{version}"))
        except StoreUnavailable:
            if (model := self._at_hand(name, version)) is None:
                raise
            return model
        model = next((s for s in self.in_service() if (s.name, s.version) == (row.model, row.version)), None)
        return await self._pin(row) if model is None else replace(model, variant=None)

    def _at_hand(self, name: str, prefix: str) -> LoadedModel | None:
        """The only loaded version with a prefix, for when the database cannot say which others there are."""
        models = {s.version: s for s in (*self._pinned.values(), *self.in_service()) if s.name == name}
        fitting = [s for version, s in models.items() if version.startswith(prefix)]
        return replace(fitting[0], variant=None) if len(fitting) == 1 else None

    async def _pin(self, row: ModelVersionRecord) -> LoadedModel:
        """Load a version that is not live, one at a time, and keep the few used last. Raises CheckpointError."""
        key = row.model, row.version
        async with self._loading:
            model = self._pinned.get(key) or await self._load(row)
            self._pinned[key] = model
            self._pinned.move_to_end(key)
            if len(self._pinned) > _MAX_PINNED:
                self._pinned.popitem(last=False)
            return model

    async def _attempt(self, row: ModelVersionRecord) -> LoadedModel | None:
        """Load a version for `refresh`, or None where it failed, now or a moment ago: reading a damaged version at
        every poll would cost too much."""
        if self._failures.recent((row.model, row.version), _RETRY_S):
            return None
        try:
            return await self._load(row)
        except CheckpointError:
            return None

    async def _load(self, row: ModelVersionRecord) -> LoadedModel:
        """Load a version. Raises CheckpointError without the reason, which names files of the server: it is for the
        log."""
        key = row.model, row.version
        try:
            model = await asyncio.to_thread(lambda: self.prepare(self._open(row)))
        except Exception as error:  # a damaged version must not keep the others out of service
            # A reason is logged once: the version may be tried for days.
            if self._failures.record(key, f"{type(error).__name__}: {error}"):
                self._log.error("a version cannot be loaded", model=row.model, version=row.version, exc_info=True)
            raise CheckpointError(f"{row.model}@{row.version}: {_UNREADABLE}") from None
        self._failures.forget(key)
        self._note_problem(model)
        return model

    def _open(self, row: ModelVersionRecord) -> LoadedModel:
        return open_version(self.folder, row, self._sketch_from)

    def _note_problem(self, model: LoadedModel) -> None:
        """Remember why a version fails its trial, if it does, and log it where that is news."""
        key, problem = (model.name, model.version), model.problem
        if problem is not None and self._failures.record(key, problem, in_trial=True):
            self._log.error("a version fails when tried", model=model.name, version=model.version, reason=problem)


def _defaults(live: Mapping[str, LoadedModel], given: Mapping[str, str]) -> dict[str, str]:
    """The default model of each kind: the one that was given, else the first published (`live` is in that order)."""
    defaults: dict[str, str] = {}
    for model in live.values():
        defaults.setdefault(model.kind, model.name)
    chosen = {kind: name for kind, name in given.items() if name in live and live[name].kind == kind}
    return {**defaults, **chosen}


def _read_service(
    session: Session,
) -> tuple[list[ModelVersionRecord], list[tuple[TrafficSplit, list[ModelVersionRecord]]], dict[str, str]]:
    """The live version of each model, first published first; the splits with the version of each arm; the defaults.

    Splits are read first: a promotion that is committed in between then leaves them active until the next poll. The
    other way round, entities of the new arm would get the old version for as long.
    """
    split_rows = [
        (s, [registry.get_model_record(session, s.model, a.version) for a in s.arms])
        for s in arms.current_splits(session)
    ]
    summaries = sorted((m for m in registry.page_models(session) if m.live is not None), key=lambda m: m.created)
    live_rows = [registry.get_model_record(session, m.name, str(m.live)) for m in summaries]
    return live_rows, split_rows, registry.default_models(session)
