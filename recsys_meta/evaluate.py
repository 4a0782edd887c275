"""The cold-start curve: quality against the number of support interactions.

One door for learners and baselines. For each newcomer and each number of shots k the support is its first k rows
in a fixed order and the query all that follow; the full catalogue is ranked, less the support's items. Newcomers
with fewer than k + `min_query` rows leave point k only (protocols U1, U2 of docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex, batch_of, draw, ordered
from recsys_meta.errors import ConfigError
from recsys_meta.metrics import (
    RANKING,
    RATING,
    Interval,
    Paired,
    paired,
    ranking_metrics,
    rating_metrics,
    summarise,
)
from recsys_meta.predictor import Predictor
from recsys_meta.schema import Order
from recsys_meta.types import FIRST, FloatArray, IntArray, Params, State, Support, TaskBatch

SHOTS = (0, 1, 3, 5, 10, 20)


@dataclass(frozen=True)
class Curve:
    """Metric values of each newcomer at each number of shots: values[shots][metric] [n], NaN where it left.

    All curves over the same entities have the newcomers in the same order, so they can be paired.
    """

    method: str
    entities: IntArray
    values: Mapping[int, Mapping[str, FloatArray]]

    def interval(self, shots: int, metric: str, seed: int = 0) -> Interval:
        """Mean and 95% bootstrap interval at one point."""
        return summarise(metric, self.values[shots][metric], seed)

    def against(self, other: Curve, shots: int, metric: str, seed: int = 0) -> Paired:
        """Paired difference, self less other, at one point."""
        if not np.array_equal(self.entities, other.entities):
            raise ValueError("curves over different entities cannot be paired")
        return paired(self.values[shots][metric], other.values[shots][metric], seed)

    def mean(self, metric: str) -> float:
        """Mean over the points of the curve: the figure that choices on meta-validation are made by."""
        means = [float(np.nanmean(v[metric])) for v in self.values.values() if np.isfinite(v[metric]).any()]
        return float(np.mean(means)) if means else float("nan")


def metrics_of(data: Dataset) -> tuple[str, ...]:
    """Metrics that make sense for the objective; the first one is what choices are made by."""
    match data.schema.objective:
        case "ranking":
            return RANKING
        case "rating":
            return RATING
        case other:
            raise ConfigError(
                f"objective '{other}' can be prepared but not yet trained or evaluated; "
                "`recsys-meta data prepare --objective ranking` takes its positives as a ranking"
            )


Progress = Callable[[int, int], None]


@torch.no_grad()
def cold_start(
    predictor: Predictor,
    params: Params,
    data: Dataset,
    index: EventIndex,
    entities: IntArray,
    *,
    shots: Sequence[int] = SHOTS,
    order: Order | None = None,
    seed: int = 0,
    min_query: int | None = None,
    shown: torch.Tensor | None = None,
    chunk: int = 64,
    progress: Progress | None = None,
) -> Curve:
    """Evaluate one predictor on newcomers it was not trained on.

    The order of random supports and of ties depends on `seed` only, so every method meets the same episodes.
    `shown` [C] bool restricts the items that are ranked (a corner of `scenarios`).
    `progress` is told (newcomers done, all). Raises ConfigError for shots that are not distinct and >= 0, or a
    `min_query` below 1.
    """
    if not shots or min(shots) < 0 or len(set(shots)) != len(shots):
        raise ConfigError(f"shots must be distinct numbers >= 0, got {list(shots)}")
    entities = np.sort(np.asarray(entities, np.int64))
    least = data.schema.min_query if min_query is None else min_query
    if least < 1:
        raise ConfigError(f"min_query must be at least 1, got {least}: without a query row nothing is measured")
    row_order = ordered(index, order or data.schema.order, seed)
    body = predictor.body(params)
    names = metrics_of(data)
    values = {k: {m: np.full(len(entities), np.nan) for m in names} for k in shots}
    for start in range(0, len(entities), chunk):
        part = entities[start : start + chunk]
        for k in shots:
            enough = index.counts[torch.from_numpy(part)].cpu().numpy() >= k + least
            if not enough.any():
                continue
            batch = episodes_at(data, row_order, part[enough], k)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + start * 31 + k)
            measured = measure(predictor, body, data, batch, generator, shown)
            for m in names:
                values[k][m][start : start + len(part)][enough] = measured[m].cpu().numpy()
        if progress is not None:
            progress(min(start + chunk, len(entities)), len(entities))
    return Curve(predictor.name, entities, values)


def episodes_at(data: Dataset, index: EventIndex, entities: IntArray, shots: int) -> TaskBatch:
    """Episodes of some newcomers with exactly `shots` support rows, in the index's order; the rest is query."""
    chosen = torch.as_tensor(entities, device=index.indptr.device)
    support, query = draw(index, chosen, torch.full_like(chosen, shots))
    return batch_of(data, entities, support, query)


def measure(
    predictor: Predictor,
    body: Params,
    data: Dataset,
    batch: TaskBatch,
    generator: torch.Generator,
    shown: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Metrics [T] of a batch of episodes. Adapting sees the support only; query labels go to the metric."""
    state = predictor.adapt(body, batch.support)
    if data.schema.objective == "rating":
        low, high = data.schema.label_range or (-np.inf, np.inf)
        return rating_metrics(predictor.score(body, state, batch.query), batch.query.label, batch.query.mask, low, high)
    scores = predictor.rank(body, state)
    relevant = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    relevant.scatter_(1, batch.query.item, batch.query.mask)
    allowed = torch.ones_like(relevant) if shown is None else shown.expand_as(relevant).clone()
    allowed.scatter_(1, batch.support.rows.item, False)
    allowed[:, :FIRST] = False
    return ranking_metrics(scores, relevant, allowed, generator)


def choose(curves: Sequence[Curve], metric: str, sign: float = 1.0) -> dict[int, int]:
    """For each number of shots, which of the curves (of one method's settings, on meta-validation) is best."""
    return {
        k: int(np.argmax([sign * _mean_or_worst(c.values[k][metric], sign) for c in curves])) for k in curves[0].values
    }


def _mean_or_worst(values: FloatArray, sign: float) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else -sign * np.inf


class Unadapted:
    """The same predictor with the same weights, told nothing of the support: what adapting is worth is the gap."""

    def __init__(self, predictor: Predictor) -> None:
        self.inner = predictor
        self.name = f"{predictor.name}-unadapted"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def adapt(self, body: Params, support: Support) -> State:
        """The state before the first interaction."""
        return self.inner.adapt(body, support.empty())


@dataclass(frozen=True)
class Change:
    """What adapting changed, mean over newcomers: norm of the state's change, and root mean square change of the
    scores."""

    state: float
    scores: float


@torch.no_grad()
def change_made(predictor: Predictor, params: Params, batch: TaskBatch) -> Change:
    """How far adapting to a batch of supports moved states and predictions (a method that does nothing shows 0)."""
    body = predictor.body(params)
    after, before = predictor.adapt(body, batch.support), predictor.adapt(body, batch.support.empty())
    moved = [
        (after[k] - before[k]).reshape(len(after[k]), -1).square().sum(1)
        for k in after
        if after[k].is_floating_point() and after[k].shape == before[k].shape
    ]
    norm = torch.stack(moved).sum(0).sqrt().mean() if moved else torch.tensor(0.0)
    gap = predictor.score(body, after, batch.query) - predictor.score(body, before, batch.query)
    rms = ((gap.square() * batch.query.mask).sum(1) / batch.query.counts.clamp(min=1)).sqrt().mean()
    return Change(float(norm), float(rms))
