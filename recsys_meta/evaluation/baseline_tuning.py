"""Baselines tuned on meta-validation: for each number of shots the setting that ranks or predicts best there.

The strongest fair baseline: every constant may depend on the support size, and every choice is made on entities
that neither train nor test. The report holds the cost of the choices and those at the edge of their grid.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import FloatArray, IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.episodes.splits import EntitySplit
from recsys_meta.evaluation.cold_start import SHOTS, episodes_at
from recsys_meta.evaluation.evaluate_batch import evaluate_batch, is_row_metric, metric_names, tunable_metrics
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.baselines import BaselineConfig, PerShotBaseline, make_baseline, make_per_shot

BoolArray = npt.NDArray[np.bool_]

MAX_CELLS = 1_200_000
"""Most scores held at once while settings are compared (tasks times items)."""
MAX_ROWS = 300
"""Most query rows of an entity that settings are compared on, where metrics are of rows."""
SCREENING_ENTITIES = 100
"""Entities that every setting is tried on; the best FINAL_SHARE of the settings, FINALISTS at least, go on."""
FINALISTS, FINAL_SHARE = 6, 0.15
EDGE_TOLERANCE = 0.002
"""Difference of the metric up to which an inner setting counts as good as one at the edge of the grid."""


@dataclass(frozen=True)
class TuningChoice:
    """Setting chosen for one support size: its metric over `n` validation entities, and its fields at a grid's edge."""

    shots: int
    setting: dict[str, Any]
    value: float
    n: int
    edges: tuple[str, ...]


@dataclass(frozen=True)
class TuningReport:
    """Report on the tuning of one baseline: settings tried, seconds, and the choice for each support size."""

    baseline: str
    metric: str
    tried: int
    seconds: float
    choices: tuple[TuningChoice, ...]


class TunedBaseline(NamedTuple):
    """Tuned baseline, its parameters and the report on its tuning."""

    predictor: PerShotBaseline
    params: Params
    report: TuningReport


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
    """Fit on training entities; try the baseline's whole grid on at most `max_entities` meta-validation entities.

    Episodes are those of `cold_start`; parameters end up on the index's device. Support sizes that no validation
    entity reaches take the choice of the nearest one that does. A prediction that is not a number has an infinite
    error, so that a setting with one is never chosen. Raises NotFoundError for an unknown baseline, ConfigError for an
    objective or a metric that it does not serve, without validation entities, or if no setting predicts numbers.
    """
    start = time.monotonic()
    metric = metric or metric_names(data)[0]
    if metric not in (names := tunable_metrics(data)):
        raise ConfigError(f"a {data.schema.objective} is not tuned by metric '{metric}'; there are {', '.join(names)}")
    settings = make_baseline(name)(objective=data.schema.objective).grid()
    rows = order_rows(index, order or data.schema.order, seed)
    episodes = _episodes(data, rows, _sample_entities(split.valid, max_entities, seed), sorted(set(shots)))
    if not episodes:
        raise ConfigError("no meta-validation entity has enough rows to tune on; give more data or fewer shots")
    trial = _TuningTrial(settings, data, split.train, metric, seed)
    values = trial.run(episodes)
    for i, k in enumerate(episodes):
        if not np.isfinite(values[i]).any():
            raise ConfigError(f"no setting of '{name}' predicts only numbers at {k} shots; leave this baseline out")
    best = np.nanargmax(values * trial.sign, 1)
    predictor = make_per_shot(name, settings, list(episodes), best.tolist())
    counts = [sum(len(b.entity) for b in batches) for batches in episodes.values()]
    choices = tuple(
        TuningChoice(
            k, settings[j].model_dump(), float(values[i, j]), counts[i], _edges(settings, values[i] * trial.sign, j, k)
        )
        for i, (k, j) in enumerate(zip(episodes, best.tolist(), strict=True))
    )
    report = TuningReport(name, metric, len(settings), time.monotonic() - start, choices)
    params = {
        f"{j}/{key}": value
        for j, setting in enumerate(predictor.predictors)
        if _is_first_fit(predictor, j)
        for key, value in trial.fits[setting.fit_key()].items()
    }
    return TunedBaseline(predictor, params, report)


def _is_first_fit(predictor: PerShotBaseline, j: int) -> bool:
    keys = [p.fit_key() for p in predictor.predictors]
    return keys.index(keys[j]) == j


def _sample_entities(entities: IntArray, count: int, seed: int) -> IntArray:
    """At most `count` entities, sorted, the same for every baseline."""
    if len(entities) <= count:
        return np.sort(entities)
    return np.sort(np.random.default_rng(seed).choice(entities, count, replace=False))


def _episodes(data: Dataset, rows: EventIndex, entities: IntArray, shots: Sequence[int]) -> dict[int, list[TaskBatch]]:
    """Episodes by support size, in batches that fit in memory; sizes that no entity reaches are left out."""
    chunk = min(SCREENING_ENTITIES, max(16, MAX_CELLS // data.catalogue))
    max_rows = MAX_ROWS if is_row_metric(data) else None
    batches: dict[int, list[TaskBatch]] = {}
    for k in shots:
        enough = entities[rows.has_support(entities, k, data.schema.min_query, data.schema.query_from)]
        parts = [enough[i : i + chunk] for i in range(0, len(enough), chunk)]
        if parts:
            batches[k] = [episodes_at(data, rows, part, k, max_rows) for part in parts]
    return batches


class _TuningTrial:
    """Trial of every setting on the first SCREENING_ENTITIES of each support size, then of the best on all."""

    def __init__(
        self, settings: Sequence[BaselineConfig], data: Dataset, train: IntArray, metric: str, seed: int
    ) -> None:
        self.settings, self.data, self.train, self.metric, self.seed = settings, data, train, metric, seed
        self.sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self.fits: dict[str, Params] = {}
        self.device = torch.device("cpu")

    def run(self, episodes: dict[int, list[TaskBatch]]) -> FloatArray:
        """Metric of every setting at every support size, [K, settings]; NaN where screening excluded it."""
        self.device = next(iter(episodes.values()))[0].entity.device
        screening_count = {k: self._screening_batches(batches) for k, batches in episodes.items()}
        distinct = np.array([[self._is_distinct(j, k) for j in range(len(self.settings))] for k in episodes])
        screening = self._means({k: b[: screening_count[k]] for k, b in episodes.items()}, distinct)
        if all(screening_count[k] == len(b) for k, b in episodes.items()):
            return screening
        signed_metric = np.where(np.isnan(screening), -np.inf, screening * self.sign)
        finalists = max(FINALISTS, round(FINAL_SHARE * len(self.settings)))
        limit = -np.sort(-signed_metric, axis=1)[:, [min(finalists, signed_metric.shape[1]) - 1]]
        return self._means(episodes, distinct & (signed_metric >= limit) & np.isfinite(signed_metric))

    def _is_distinct(self, setting: int, shots: int) -> bool:
        """False at 0 shots for a setting that predicts as an earlier one does from an empty support."""
        if shots > 0:
            return True
        keys = [s.empty_key() for s in self.settings[: setting + 1]]
        return keys.index(keys[-1]) == setting

    @staticmethod
    def _screening_batches(batches: Sequence[TaskBatch]) -> int:
        """Number of batches that hold the SCREENING_ENTITIES."""
        entity_count = np.cumsum([len(b.entity) for b in batches])
        if entity_count[-1] <= SCREENING_ENTITIES:
            return len(batches)
        return int(np.searchsorted(entity_count, SCREENING_ENTITIES)) + 1

    def _means(self, episodes: dict[int, list[TaskBatch]], mask: BoolArray) -> FloatArray:
        body: Params = {}
        body_key = None
        values = np.full(mask.shape, np.nan)
        for j in np.flatnonzero(mask.any(0)).tolist():
            setting = self.settings[j]
            key = setting.fit_key()
            if key not in self.fits:
                params = setting.fit(self.data, self.train)
                self.fits[key] = {name: value.to(self.device) for name, value in params.items()}
            if setting.body_key() != body_key:
                body, body_key = setting.body(self.fits[key]), setting.body_key()
            for i, (k, batches) in enumerate(episodes.items()):
                if mask[i, j]:
                    values[i, j] = self._mean(setting, body, k, batches)
        return values

    def _mean(self, setting: BaselineConfig, body: Params, shots: int, batches: Sequence[TaskBatch]) -> float:
        parts = []
        for part, batch in enumerate(batches):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + part * 31 + shots)
            parts.append(evaluate_batch(setting, body, self.data, batch, generator)[self.metric].flatten())
        mean = float(torch.cat(parts).nanmean())
        return mean**0.5 if self.metric == "rmse" else mean


def _edges(settings: Sequence[BaselineConfig], signed_metric: FloatArray, best: int, shots: int) -> tuple[str, ...]:
    """Describe the numeric fields of the best setting that lie at an end of their grid.

    An end is left out if an inner value does as well or it is a natural bound (0: the term is off). signed_metric
    [settings] is the metric, higher is better, NaN where screening excluded the setting.
    """
    edges = []
    setting = settings[best]
    for field in setting.search_space():
        if shots == 0 and field not in setting.cold_fields:
            continue
        grid = np.array([float(getattr(s, field)) for s in settings])
        ends = {float(grid.min()), float(grid.max())} - {0.0}
        inner = ~np.isin(grid, [grid.min(), grid.max()])
        value = grid[best]
        if isinstance(getattr(setting, field), bool) or value not in ends or not inner.any():
            continue
        if not signed_metric[best] - np.nanmax(np.append(signed_metric[inner], -np.inf)) <= EDGE_TOLERANCE:
            edges.append(f"{field}={value:g} ({'upper' if value == grid.max() else 'lower'} end)")
    return tuple(edges)
