"""One loaded version of a model, and a traffic split of loaded versions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.types import State
from recsys_meta.inference.model_trial import TRIAL_ITEMS, try_bundle
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.model_registry.split_arms import TrafficSplit
from recsys_meta.store.model_registry.tables import ModelVersionRecord

SLOW_MS = 3.0
"""Adapting and ranking that takes longer than this runs in a thread, beside the event loop; milliseconds."""

MAX_BATCH_MS = 2 * SLOW_MS
"""Longest time that the event loop may spend on one batch, milliseconds: its requests one by one would take longer."""

MAX_BATCH = 32
"""Most entities that are adapted in one batch."""

_MAX_BATCH_SCORES = 2**24  # of one batch, all catalogues together: 64 MiB, and as much again to rank them


@dataclass
class LatencyTracker:
    """Time that adapting and ranking takes with one model, and the size of batch that follows from it.

    `ms`: moving average for one entity, milliseconds; `loop_batch`: entities that the event loop may adapt at once;
    `limit`: entities that a thread may adapt at once.
    """

    ms: float = 0.0
    loop_batch: int = 4
    limit: int = MAX_BATCH

    def record(self, ms: float, entities: int = 1) -> None:
        """Take in the time of one batch. A batch that took too long halves the next ones; one that was full and quick
        makes them larger by one."""
        self.ms += 0.1 * (ms / entities - self.ms)
        if ms > MAX_BATCH_MS:
            self.loop_batch = max(1, entities // 2)
        elif entities >= self.loop_batch:
            self.loop_batch = entities + 1

    @property
    def slow(self) -> bool:
        """True where the model is too slow for the event loop, and computes in a thread."""
        return self.ms > SLOW_MS

    @property
    def max_batch(self) -> int:
        """Most entities of the next batch."""
        return self.limit if self.slow else min(self.loop_batch, self.limit)


@dataclass(frozen=True)
class LoadedModel:
    """One loaded version of a model. `sample` is a state of it; None: the model cannot adapt, and popularity answers.
    `problem`: why it cannot; `variant` is the label of the arm of a traffic split that it answers for."""

    name: str
    recommender: Recommender
    sample: State | None
    latency: LatencyTracker = field(default_factory=LatencyTracker, compare=False)
    variant: str | None = None
    problem: str | None = None

    @cached_property
    def version(self) -> str:
        """The bundle's version."""
        return self.recommender.version

    @cached_property
    def mark(self) -> str:
        """The version, and what there is of stored items: equal requests get equal lists while it stays."""
        return self.version + self.recommender.catalog.mark

    @cached_property
    def kind(self) -> str:
        """Kind of the entities that the model is for."""
        return self.recommender.bundle.schema.kind


@dataclass(frozen=True)
class ActiveSplit:
    """A traffic split and its loaded arms by label. The live version answers for an arm that could not be loaded."""

    split: TrafficSplit
    arms: Mapping[str, LoadedModel]

    def model_of(self, entity: str) -> LoadedModel | None:
        """The loaded version of the arm of an entity; None where there is none."""
        arm = self.split.arm_for(entity)
        return None if arm is None else self.arms.get(arm.label)


def activate_split(split: TrafficSplit, live: LoadedModel | None, models: Sequence[LoadedModel | None]) -> ActiveSplit:
    """A split with those of its arms that are loaded (`models`, one for each arm) and for the live version's kind."""
    arms = {
        arm.label: replace(model, variant=arm.label)
        for arm, model in zip(split.arms, models, strict=True)
        if model is not None and live is not None and model.kind == live.kind
    }
    return ActiveSplit(split, MappingProxyType(arms))


def open_version(folder: Path, row: ModelVersionRecord, sketch_from: int = 0) -> LoadedModel:
    """Load a version, with a sketch from so many items on (0: without), and adapt with it once, so that no request pays
    for what torch sets up at first use.

    Raises CheckpointError where the folder holds another version, and what `load_bundle` raises for a damaged one.
    """
    stored_path = Path(row.path)
    paths = [folder / row.model / row.version, folder / stored_path, stored_path]
    path = next((p for p in paths if (p / "bundle.json").is_file()), paths[0])
    bundle = load_bundle(path)
    if bundle.version != row.version:
        raise CheckpointError(f"{path}: holds version {bundle.version}, not {row.version}; publish the run again")
    recommender = Recommender(bundle, sketch_from)
    latency = LatencyTracker(limit=max(1, min(MAX_BATCH, _MAX_BATCH_SCORES // recommender.catalog.size())))
    sample, problem = _warm_up(recommender, latency)
    return LoadedModel(row.model, recommender, sample, latency, problem=problem)


def _warm_up(recommender: Recommender, latency: LatencyTracker) -> tuple[State | None, str | None]:
    """Adapt to the most popular items and measure it; the state, or None and the reason where the model fails."""
    try:
        state = try_bundle(recommender.bundle, recommender)
        names = [s.item for s in recommender.lists.top_k(recommender.catalog.popularity_scores, TRIAL_ITEMS)]
        label_range = recommender.bundle.schema.label_range
        label = label_range[1] if label_range else 1.0
        entity = recommender.read_support(EntityRequest(events=[Interaction(name, label) for name in names]))
        for _ in range(2):
            began = time.perf_counter()
            recommender.best_scores(recommender.adapt([entity]), [entity])
            latency.ms = 1000 * (time.perf_counter() - began)
    except CheckpointError as error:  # whatever is wrong with a model, popularity still answers
        return None, str(error)
    return state, None
