"""The models in service: the live version of each, loaded beside the old one and swapped in one assignment."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from sqlalchemy.orm import Session

from api.database import Database
from api.problems import Problem, unavailable
from recsys_meta.bundle import load_bundle
from recsys_meta.errors import CheckpointError, RecsysMetaError
from recsys_meta.recommend import Interaction, Newcomer, Recommender
from recsys_meta.store import registry
from recsys_meta.store.tables import ModelVersion
from recsys_meta.types import State

SLOW_MS = 3.0
"""Work longer than this leaves the event loop."""

_PINNED = 4  # versions that are not live but were asked for by name
_WARM_ITEMS = 10


@dataclass
class Pace:
    """How long adapting and ranking takes with one model: a moving average in milliseconds."""

    ms: float = 0.0

    def note(self, ms: float) -> None:
        self.ms += 0.1 * (ms - self.ms)

    @property
    def slow(self) -> bool:
        return self.ms > SLOW_MS


@dataclass(frozen=True)
class Served:
    """One version in service. `sample` is a state of it; None: the model cannot adapt, and popularity answers."""

    name: str
    recommender: Recommender
    sample: State | None
    pace: Pace = field(default_factory=Pace, compare=False)

    @property
    def version(self) -> str:
        return self.recommender.version

    @property
    def kind(self) -> str:
        """Kind of the newcomers that the model is for."""
        return self.recommender.bundle.schema.kind


class Registry:
    """Which model answers. Readers see one snapshot; `refresh` replaces it whole."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._lock, self._loading = asyncio.Lock(), asyncio.Lock()
        self._pinned: OrderedDict[tuple[str, str], Served] = OrderedDict()
        self.live: Mapping[str, Served] = MappingProxyType({})
        self.broken: Mapping[str, str] = MappingProxyType({})
        self.asked = False  # whether the database ever told which models there are

    async def refresh(self) -> list[Served]:
        """Load what went live since; answers what was swapped in. A version that cannot be read leaves the one
        before it in service. Raises Unavailable; then all stays as it is."""
        async with self._lock:
            wanted = await self._database.probe(_live_versions)
            live, broken, fresh = dict[str, Served](), dict[str, str](), []
            for row in wanted:
                old = self.live.get(row.model)
                if old is not None and old.version == row.version:
                    live[row.model] = old
                    continue
                try:
                    live[row.model] = self._pinned.get((row.model, row.version)) or await self._load(row)
                    fresh.append(live[row.model])
                except RecsysMetaError as error:
                    broken[row.model] = str(error)
                    if old is not None:
                        live[row.model] = old
            self.live, self.broken, self.asked = MappingProxyType(live), MappingProxyType(broken), True
            return fresh

    async def check(self, name: str, version: str) -> ModelVersion:
        """A registered version that can be loaded, before it goes live. Raises NotFoundError, CheckpointError."""
        row = await self._database.read(lambda s: registry.resolve(s, f"{name}@{version}"))
        await self._pin(row)
        return row

    async def resolve(self, model: str | None, kind: str | None) -> Served:
        """The model meant by `name`, `name@version`, or by the kind of the newcomer. Raises Problem."""
        if model is None:
            return self._for_kind(kind)
        name, _, version = model.partition("@")
        served = self.live.get(name)
        if served is None or (version and served.version != version):
            served = await self._other(name, version)
        if kind is not None and kind != served.kind:
            raise Problem(422, f"Model '{name}' is for newcomers of kind '{served.kind}', not '{kind}'")
        return served

    def of_kind(self, kind: str) -> list[Served]:
        """Live models for a kind of newcomer, by name."""
        return [s for _, s in sorted(self.live.items()) if s.kind == kind]

    def _for_kind(self, kind: str | None) -> Served:
        fitting = self.of_kind(kind) if kind is not None else list(self.live.values())
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            if not self.live:
                raise unavailable("No model is in service; publish one with `recsys-meta models publish`")
            raise Problem(404, f"No model in service is for newcomers of kind '{kind}'")
        names = ", ".join(sorted(s.name for s in fitting))
        raise Problem(422, f"Several models fit; name one in 'model': {names}")

    async def _other(self, name: str, version: str) -> Served:
        """A version that is not live, or whose name was shortened."""
        if not version:
            if name in self.broken:
                raise unavailable(f"Model '{name}' cannot be loaded: {self.broken[name]}")
            if not self.asked:
                raise unavailable("The models in service are not known yet: the database cannot be reached")
            raise Problem(404, f"No model '{name}' is in service; GET /v1/models lists those there are")
        if (name, version) in self._pinned:
            return self._pinned[name, version]
        row = await self._database.read(lambda s: registry.resolve(s, f"{name}@{version}"))
        served = self.live.get(name)
        return served if served is not None and served.version == row.version else await self._pin(row)

    async def _pin(self, row: ModelVersion) -> Served:
        """Load a version that is not live, one at a time, and keep the few used last."""
        key = row.model, row.version
        async with self._loading:
            found = self._pinned.get(key) or await self._load(row)
            self._pinned[key] = found
            self._pinned.move_to_end(key)
            if len(self._pinned) > _PINNED:
                self._pinned.popitem(last=False)
            return found

    async def _load(self, row: ModelVersion) -> Served:
        return await asyncio.to_thread(_open, self._folder, row)


def _live_versions(session: Session) -> list[ModelVersion]:
    summaries = [m for m in registry.list_models(session) if m.live is not None]
    return [registry.get(session, m.name, str(m.live)) for m in summaries]


def _open(folder: Path, row: ModelVersion) -> Served:
    """Load a version, and try it once, so that the first newcomer does not pay for what is lazy."""
    given = Path(row.path)
    places = [folder / row.model / row.version, folder / given, given]
    path = next((p for p in places if (p / "bundle.json").is_file()), places[0])
    bundle = load_bundle(path)
    if bundle.version != row.version:
        raise CheckpointError(f"{path}: holds version {bundle.version}, not {row.version}; publish the run again")
    recommender = Recommender(bundle)
    pace = Pace()
    return Served(row.model, recommender, _try(recommender, pace), pace)


def _try(recommender: Recommender, pace: Pace) -> State | None:
    """A state for the most popular items, None where the model fails."""
    names = [s.item for s in recommender.top(recommender.popular, _WARM_ITEMS)]
    label_range = recommender.bundle.schema.label_range
    label = label_range[1] if label_range else 1.0
    known = recommender.know(Newcomer(events=[Interaction(name, label) for name in names]))
    try:
        for _ in range(3):
            began = time.perf_counter()
            state = recommender.adapt([known])
            scores = recommender.scores(state)
            pace.ms = 1000 * (time.perf_counter() - began)
    except Exception:  # whatever is wrong with a model, popularity still answers
        return None
    return state if bool(torch.isfinite(scores).all()) else None
