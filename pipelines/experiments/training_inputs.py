"""Training inputs: an open data set, its event index as a scenario draws episodes from it, and its split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipelines.workspace import Workspace
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.data import SOURCES
from recsys_meta.episodes.actor_episodes import ActorIndex
from recsys_meta.episodes.event_index import EventIndex, restrict_to_entities
from recsys_meta.episodes.splits import EntitySplit, split_of, split_rule
from recsys_meta.episodes.warm_cold_scenarios import WarmColdGrid, warm_cold_grid

SCENARIOS = ("new", "corners", "actors")
ACTOR_SHOTS = (0, 4, 16, 64)
"""Support actors of the scenario "actors"."""


@dataclass(frozen=True)
class TrainingInputs:
    """Data that a run and its evaluation share, built once for a scenario, a kind of split and a seed.

    `source` is the name or folder by which a resumed run opens the data set again; `index` holds all rows; `grid` has
    the cells of the scenario "corners", and is None in the others.
    """

    data: Dataset
    source: str
    scenario: str
    split_by: str
    seed: int
    index: EventIndex
    split: EntitySplit
    grid: WarmColdGrid | None = None

    @property
    def split_seed(self) -> int:
        """Seed of the split, and of the supports of the meta-test entities."""
        return split_rule(self.split_by, self.seed)[1]

    @property
    def train_index(self) -> EventIndex:
        """Index of the rows that training and tuning may use."""
        return self.index if self.grid is None else self.grid.training

    @cached_property
    def train_data(self) -> Dataset:
        """Data set without rows that training and tuning may not use."""
        if self.grid is None:
            return self.data
        return restrict_to_entities(self.data, self.train_index, self.split.train)


def open_training_inputs(
    workspace: Workspace, dataset: str, *, scenario: str = "new", split: str = "seed", seed: int = 0
) -> TrainingInputs:
    """Open a data set by name or folder and build its training inputs; see `training_inputs`."""
    data, folder = workspace.dataset(dataset)
    return training_inputs(data, source_of(dataset, folder), scenario=scenario, split=split, seed=seed)


def training_inputs(data: Dataset, source: str, *, scenario: str, split: str, seed: int) -> TrainingInputs:
    """Build the event index, the split and, for "corners", the warm-cold grid of a data set.

    Raises ConfigError for an unknown scenario or kind of split, or if the data set is too small for it.
    """
    index = event_index_for(data, scenario, seed)
    parts = split_of(data, index, split, seed)
    grid = warm_cold_grid(data, index, parts, seed=seed) if scenario == "corners" else None
    return TrainingInputs(data, source, scenario, split, seed, index, parts, grid)


def source_of(dataset: str, folder: Path) -> str:
    """Name of a data set that comes with the project, else its absolute folder."""
    return dataset if dataset in SOURCES else str(folder.resolve())


def event_index_for(data: Dataset, scenario: str, seed: int) -> EventIndex:
    """Event index as a scenario draws episodes from it: entity by entity, or actor by actor.

    Raises ConfigError for an unknown scenario, and for "actors" if rows name no actor.
    """
    _require_scenario(scenario)
    index = EventIndex.of(data)
    return ActorIndex.of_rows(index, seed) if scenario == "actors" else index


def default_shots(data: Dataset, scenario: str) -> tuple[int, ...]:
    """Numbers of shots that a scenario evaluates by default. Raises ConfigError for an unknown scenario."""
    _require_scenario(scenario)
    return ACTOR_SHOTS if scenario == "actors" else data.schema.shots


def _require_scenario(scenario: str) -> None:
    if scenario not in SCENARIOS:
        raise ConfigError(f"no scenario '{scenario}'; there are {', '.join(SCENARIOS)}")
