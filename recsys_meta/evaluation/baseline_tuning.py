"""Baselines tuned on meta-validation: for each number of shots the setting that ranks or predicts best there.

The strongest fair baseline: every constant may depend on the support size, and every choice is made on entities
that are neither trained on nor tested. What a choice cost and whether it lay at the edge of its grid is reported.
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
from recsys_meta.evaluation.cold_start import SHOTS, episodes_at, evaluate_batch, metric_names
from recsys_meta.evaluation.evaluate_batch import is_row_metric, tunable_metrics
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.baselines import BaselineConfig, PerShotTuned, make_baseline, make_per_shot

BoolArray = npt.NDArray[np.bool_]

CELLS = 1_200_000
"""Scores held at once while settings are compared (tasks times items)."""
MOST_ROWS = 300
"""Query rows of an entity that settings are compared on, where rows are measured."""
SCREENED = 100
"""Entities that every setting is tried on; the best FINAL_SHARE of the settings (FINALISTS at least) go on."""
FINALISTS, FINAL_SHARE = 6, 0.15
NEAR = 0.002
"""A setting at the edge of its grid is worth a word if no inner one comes this near."""


@dataclass(frozen=True)
class TuningChoice:
    """What was chosen for one support size: value of the metric over `n` validation entities, and which fields
    lie at an edge of what was tried."""

    shots: int
    setting: dict[str, Any]
    value: float
    n: int
    edges: tuple[str, ...]


@dataclass(frozen=True)
class TuningReport:
    """How one baseline was tuned: settings tried, seconds, and the choice for each support size."""

    baseline: str
    metric: str
    tried: int
    seconds: float
    choices: tuple[TuningChoice, ...]


class TunedBaseline(NamedTuple):
    """A tuned baseline, its parameters and how it was chosen."""

    predictor: PerShotTuned
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
    most: int = 300,
) -> TunedBaseline:
    """Fit on training entities, try the baseline's whole grid on at most `most` meta-validation entities.

    Episodes are those of `evaluate.cold_start`; parameters end up on the index's device. Sizes that no
    validation entity reaches take the choice of the nearest that one does. Raises NotFoundError for an unknown
    baseline, ConfigError for an objective or a metric that it does not serve.
    """
    started = time.monotonic()
    metric = metric or metric_names(data)[0]
    if metric not in (known := tunable_metrics(data)):
        raise ConfigError(f"a {data.schema.objective} is not tuned by metric '{metric}'; there are {', '.join(known)}")
    settings = make_baseline(name)(objective=data.schema.objective).grid()
    rows = order_rows(index, order or data.schema.order, seed)
    episodes = _episodes(data, rows, _drawn(split.valid, most, seed), sorted(set(shots)))
    if not episodes:
        raise ConfigError("no meta-validation entity has enough rows to tune on; give more data or fewer shots")
    trial = _TuningTrial(settings, data, split.train, metric, seed)
    values = trial.run(episodes)
    best = np.nanargmax(values * trial.sign, 1)
    predictor = make_per_shot(name, settings, list(episodes), best.tolist())
    counts = [sum(len(b.entity) for b in batches) for batches in episodes.values()]
    choices = tuple(
        TuningChoice(
            k, settings[j].model_dump(), float(values[i, j]), counts[i], _edges(settings, values[i] * trial.sign, j, k)
        )
        for i, (k, j) in enumerate(zip(episodes, best.tolist(), strict=True))
    )
    report = TuningReport(name, metric, len(settings), time.monotonic() - started, choices)
    params = {
        f"{j}/{key}": value
        for j, setting in enumerate(predictor.predictors)
        if _first(predictor, j)
        for key, value in trial.fits[setting.fit_key()].items()
    }
    return TunedBaseline(predictor, params, report)


def _first(predictor: PerShotTuned, j: int) -> bool:
    keys = [p.fit_key() for p in predictor.predictors]
    return keys.index(keys[j]) == j


def _drawn(entities: IntArray, most: int, seed: int) -> IntArray:
    """At most so many entities, the same for every baseline."""
    if len(entities) <= most:
        return np.sort(entities)
    return np.sort(np.random.default_rng(seed).choice(entities, most, replace=False))


def _episodes(data: Dataset, rows: EventIndex, entities: IntArray, shots: Sequence[int]) -> dict[int, list[TaskBatch]]:
    """Episodes by support size, in batches that fit in memory; sizes nobody reaches are left out."""
    chunk = min(SCREENED, max(16, CELLS // data.catalogue))
    most = MOST_ROWS if is_row_metric(data) else None
    batches: dict[int, list[TaskBatch]] = {}
    for k in shots:
        enough = entities[rows.has_support(entities, k, data.schema.min_query, data.schema.query_from)]
        parts = [enough[i : i + chunk] for i in range(0, len(enough), chunk)]
        if parts:
            batches[k] = [episodes_at(data, rows, part, k, most) for part in parts]
    return batches


class _TuningTrial:
    """Every setting on the first SCREENED entities of each support size, then the best of them on all."""

    def __init__(
        self, settings: Sequence[BaselineConfig], data: Dataset, train: IntArray, metric: str, seed: int
    ) -> None:
        self.settings, self.data, self.train, self.metric, self.seed = settings, data, train, metric, seed
        self.sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self.fits: dict[str, Params] = {}
        self.device = torch.device("cpu")

    def run(self, episodes: dict[int, list[TaskBatch]]) -> FloatArray:
        """Metric of every setting at every support size, [K, settings]; NaN where screening left it out."""
        self.device = next(iter(episodes.values()))[0].entity.device
        first = {k: self._cut(batches) for k, batches in episodes.items()}
        wanted = np.array([[self._matters(j, k) for j in range(len(self.settings))] for k in episodes])
        screened = self._means({k: b[: first[k]] for k, b in episodes.items()}, wanted)
        if all(first[k] == len(b) for k, b in episodes.items()):
            return screened
        worth = np.where(np.isnan(screened), -np.inf, screened * self.sign)
        keep = max(FINALISTS, round(FINAL_SHARE * len(self.settings)))
        limit = -np.sort(-worth, axis=1)[:, [min(keep, worth.shape[1]) - 1]]
        return self._means(episodes, wanted & (worth >= limit) & np.isfinite(worth))

    def _matters(self, setting: int, shots: int) -> bool:
        """False for a setting that differs from an earlier one in nothing that an empty support notices."""
        if shots > 0:
            return True
        keys = [s.empty_key() for s in self.settings[: setting + 1]]
        return keys.index(keys[-1]) == setting

    @staticmethod
    def _cut(batches: Sequence[TaskBatch]) -> int:
        """How many batches hold the entities that settings are screened on."""
        held = np.cumsum([len(b.entity) for b in batches])
        return int(np.searchsorted(held, SCREENED)) + 1 if held[-1] > SCREENED else len(batches)

    def _means(self, episodes: dict[int, list[TaskBatch]], wanted: BoolArray) -> FloatArray:
        body: Params = {}
        shape = None
        values = np.full(wanted.shape, np.nan)
        for j in np.flatnonzero(wanted.any(0)).tolist():
            setting = self.settings[j]
            key = setting.fit_key()
            if key not in self.fits:
                fitted = setting.fit(self.data, self.train)
                self.fits[key] = {name: value.to(self.device) for name, value in fitted.items()}
            if setting.body_key() != shape:
                body, shape = setting.body(self.fits[key]), setting.body_key()
            for i, (k, batches) in enumerate(episodes.items()):
                if wanted[i, j]:
                    values[i, j] = self._mean(setting, body, k, batches)
        return values

    def _mean(self, setting: BaselineConfig, body: Params, shots: int, batches: Sequence[TaskBatch]) -> float:
        parts = []
        for part, batch in enumerate(batches):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + part * 31 + shots)
            parts.append(evaluate_batch(setting, body, self.data, batch, generator)[self.metric].flatten())
        mean = float(torch.cat(parts).nanmean())
        return mean**0.5 if self.metric == "rmse" else mean


def _edges(settings: Sequence[BaselineConfig], worth: FloatArray, best: int, shots: int) -> tuple[str, ...]:
    """Numeric fields of the best setting at an end of what was tried, unless an inner value does as well or the
    end is a bound by nature (0: the term is off). Higher `worth` [settings] is better, NaN was screened out."""
    found = []
    own = settings[best]
    for field in own.choices():
        if shots == 0 and field not in own.noticed:
            continue
        tried = np.array([float(getattr(s, field)) for s in settings])
        ends = {float(tried.min()), float(tried.max())} - {0.0}
        inner = ~np.isin(tried, [tried.min(), tried.max()])
        mine = tried[best]
        if isinstance(getattr(own, field), bool) or mine not in ends or not inner.any():
            continue
        if not worth[best] - np.nanmax(np.append(worth[inner], -np.inf)) <= NEAR:
            found.append(f"{field}={mine:g} ({'upper' if mine == tried.max() else 'lower'} end)")
    return tuple(found)
