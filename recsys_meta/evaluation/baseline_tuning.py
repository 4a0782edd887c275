"""Baselines tuned on meta-validation: for each number of shots the setting that ranks or predicts best there.

The strongest fair baseline: every constant may depend on the support size, and every choice is made on entities
that neither train nor test. The grid is where the search begins: ranges whose best value is at an end grow. The report
holds the cost of the choices and those that are at an end all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import EntitySplit
from recsys_meta.evaluation.cold_start import SHOTS
from recsys_meta.evaluation.evaluate_batch import metric_names, tunable_metrics
from recsys_meta.evaluation.tuning_trial import SCREENING_ENTITIES, TuningTrial
from recsys_meta.evaluation.validation_episodes import (
    ENOUGH_EPISODES,
    affordable,
    draw_episodes,
    sample_entities,
    support_draws,
)
from recsys_meta.models.baselines import PerShotBaseline, make_baseline, make_per_shot

FOLDS = 2
"""Parts of the meta-validation entities, each of which has a choice made without it."""


@dataclass(frozen=True)
class TuningChoice:
    """Setting chosen for one support size: its metric over `n` validation entities, and the ends that it lies at."""

    shots: int
    setting: dict[str, Any]
    value: float
    n: int
    edges: tuple[str, ...]


@dataclass(frozen=True)
class TuningReport:
    """Report on the tuning of one baseline: settings tried, seconds, and the choice for each support size.

    Edges of the choices are warnings: `edge_warnings` words them.
    """

    baseline: str
    metric: str
    tried: int
    seconds: float
    choices: tuple[TuningChoice, ...]


@dataclass(frozen=True)
class TunedBaseline:
    """Tuned baseline: the predictor that all meta-validation entities chose, and two that each left a half of them out.

    `entities` are the sorted ids [V] of the entities that it was tuned on; fold f has those at positions f, f + 2, ...
    of them, and `fold_predictors[f]` was chosen without these, so that it may be judged, or weighed, on them. (Which
    settings are tried depends on all entities, which of them is chosen does not.) `fits` has the parameters of every
    fit that one of the three predictors needs, by fit key; `params` are those of `predictor`.
    """

    predictor: PerShotBaseline
    report: TuningReport
    fold_predictors: tuple[PerShotBaseline, PerShotBaseline]
    fits: Mapping[str, Params]
    entities: IntArray

    @cached_property
    def params(self) -> Params:
        return self.params_of(self.predictor)

    def params_of(self, predictor: PerShotBaseline) -> Params:
        """Return the parameters of one of the three predictors as its `fit` does; the tensors are those of `fits`.

        Raises KeyError for a predictor with another fit.
        """
        return predictor.collect_params(self.fits)

    def fold_entities(self, fold: int) -> IntArray:
        """Return the sorted entities that `fold_predictors[fold]` was chosen without."""
        return self.entities[fold::FOLDS]


@torch.no_grad()
def fit_tuned(
    name: str,
    data: Dataset,
    index: EventIndex,
    split: EntitySplit,
    shots: Sequence[int] = SHOTS,
    seed: int = 0,
    order: Order | None = None,
    metric: str | None = None,
    max_entities: int = 300,
) -> TunedBaseline:
    """Fit on training entities; try the grid, widened where its best is at an end, on at most `max_entities` entities.

    Entities are those of meta-validation, fewer for a large catalogue (`affordable`), episodes those of `cold_start`,
    several of each where entities are few;
    parameters end up on the index's device. Support sizes that no entity reaches take the choice of the nearest one.
    A prediction that is not a number has an infinite error, so that a setting with one is never chosen. Raises
    NotFoundError for an unknown baseline, ConfigError for an objective or a metric that it does not serve, without
    validation entities, or if no setting predicts numbers.
    """
    start = time.monotonic()
    metric = metric or metric_names(data)[0]
    if metric not in (names := tunable_metrics(data)):
        raise ConfigError(f"a {data.schema.objective} is not tuned by metric '{metric}'; there are {', '.join(names)}")
    grid = make_baseline(name)(objective=data.schema.objective).grid()
    entities = sample_entities(split.valid, affordable(max_entities, data), seed)
    enough = affordable(ENOUGH_EPISODES, data)
    draws = support_draws(index, order or data.schema.order, len(entities), seed, enough)
    episodes = draw_episodes(data, draws, entities, sorted(set(shots)), SCREENING_ENTITIES)
    if not episodes:
        raise ConfigError("no meta-validation entity has enough rows to tune on; give more data or fewer shots")
    folds = [entities[fold::FOLDS] for fold in range(FOLDS)]
    trial = TuningTrial(grid, _with_order(data, order), split.train, metric, seed, episodes, folds)
    trial.run()
    best = trial.choose()
    choices = tuple(
        TuningChoice(k, trial.settings[j].model_dump(), float(values[j]), n, tuple(map(str, ends)))
        for k, j, values, n, ends in zip(
            trial.shots, best, trial.metric_values(), trial.entity_counts, trial.open_ends(), strict=True
        )
    )
    predictor, first, second = (
        make_per_shot(name, trial.settings, trial.shots, choice) for choice in (best, trial.choose(0), trial.choose(1))
    )
    report = TuningReport(name, metric, len(trial.settings), time.monotonic() - start, choices)
    return TunedBaseline(predictor, report, (first, second), trial.fits, entities)


def edge_warnings(report: TuningReport) -> list[str]:
    """Warn of choices that still lie at an end of their range after it was widened, one line for each such end."""
    shots: dict[str, list[str]] = {}
    for choice in report.choices:
        for edge in choice.edges:
            shots.setdefault(edge, []).append(str(choice.shots))
    return [
        f"{report.baseline}: {edge} is best at {', '.join(points)} shots, and the range was not searched any further; "
        "a better value may lie beyond it"
        for edge, points in shots.items()
    ]


def _with_order(data: Dataset, order: Order | None) -> Dataset:
    """Data set whose schema says that supports are taken in this order, so that a baseline which reads it trains so."""
    if order is None or order == data.schema.order or data.schema.time is None:
        return data
    return replace(data, schema=data.schema.model_copy(update={"exact_time": order == "time"}))
