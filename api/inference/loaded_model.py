"""One version of a model in service, and the versions that share a model's newcomers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import torch

from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.types import State
from recsys_meta.inference.recommender import EntityRequest, Interaction, Recommender
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.model_registry.split_arms import TrafficSplit
from recsys_meta.store.model_registry.tables import ModelVersionRecord

SLOW_MS = 3.0
"""Work longer than this leaves the event loop."""

LONGEST_MS = 2 * SLOW_MS
"""For so long the event loop may work for several who ask at once: one after another would take longer still."""

MOST = 32
"""Newcomers that are worked out in one go, at most."""

_MOST_SCORES = 2**24  # of one party, all catalogues together: 64 MiB, and as much again to find the best
_WARM_ITEMS = 10


@dataclass
class LatencyTracker:
    """How long adapting and ranking takes with one model: a moving average in milliseconds for one newcomer, and how
    many may be worked out in one go: in the event loop `party`, in a thread up to `limit`."""

    ms: float = 0.0
    party: int = 4
    limit: int = MOST

    def record(self, ms: float, newcomers: int = 1) -> None:
        """It took so long for so many."""
        self.ms += 0.1 * (ms / newcomers - self.ms)
        if ms > LONGEST_MS:
            self.party = max(1, newcomers // 2)
        elif newcomers >= self.party:
            self.party = newcomers + 1

    @property
    def slow(self) -> bool:
        """Whether the event loop has no time for it."""
        return self.ms > SLOW_MS

    @property
    def most(self) -> int:
        """Newcomers that may be worked out in one go now."""
        return self.limit if self.slow else min(self.party, self.limit)


@dataclass(frozen=True)
class LoadedModel:
    """One version in service. `sample` is a state of it; None: the model cannot adapt, and popularity answers.
    `variant` is the label of the arm that it is of a split."""

    name: str
    recommender: Recommender
    sample: State | None
    pace: LatencyTracker = field(default_factory=LatencyTracker, compare=False)
    variant: str | None = None

    @property
    def version(self) -> str:
        return self.recommender.version

    @property
    def kind(self) -> str:
        """Kind of the newcomers that the model is for."""
        return self.recommender.bundle.schema.kind


@dataclass(frozen=True)
class ActiveSplit:
    """A split in service: its arms by label. An arm that could not be loaded is left to the live version."""

    split: TrafficSplit
    arms: Mapping[str, LoadedModel]

    def of(self, entity: str) -> LoadedModel | None:
        """Who answers for an entity."""
        arm = self.split.arm(entity)
        return None if arm is None else self.arms.get(arm.label)


def activate_split(split: TrafficSplit, live: LoadedModel | None, found: Sequence[LoadedModel | None]) -> ActiveSplit:
    """A split with those of its arms that could be loaded and are for the newcomers that the live version is for."""
    fitting = {
        arm.label: replace(model, variant=arm.label)
        for arm, model in zip(split.arms, found, strict=True)
        if model is not None and live is not None and model.kind == live.kind
    }
    return ActiveSplit(split, MappingProxyType(fitting))


def open_version(folder: Path, row: ModelVersionRecord) -> LoadedModel:
    """Load a version, and try it once, so that the first newcomer does not pay for what is lazy."""
    given = Path(row.path)
    places = [folder / row.model / row.version, folder / given, given]
    path = next((p for p in places if (p / "bundle.json").is_file()), places[0])
    bundle = load_bundle(path)
    if bundle.version != row.version:
        raise CheckpointError(f"{path}: holds version {bundle.version}, not {row.version}; publish the run again")
    recommender = Recommender(bundle)
    pace = LatencyTracker(limit=max(1, min(MOST, _MOST_SCORES // recommender.catalog_size())))
    return LoadedModel(row.model, recommender, _try(recommender, pace), pace)


def _try(recommender: Recommender, pace: LatencyTracker) -> State | None:
    """A state for the most popular items, None where the model fails."""
    names = [s.item for s in recommender.top_k(recommender.popular, _WARM_ITEMS)]
    label_range = recommender.bundle.schema.label_range
    label = label_range[1] if label_range else 1.0
    known = recommender.read_support(EntityRequest(events=[Interaction(name, label) for name in names]))
    try:
        for _ in range(3):
            began = time.perf_counter()
            state = recommender.adapt([known])
            scores = recommender.scores(state)
            pace.ms = 1000 * (time.perf_counter() - began)
    except Exception:  # whatever is wrong with a model, popularity still answers
        return None
    return state if bool(torch.isfinite(scores).all()) else None
