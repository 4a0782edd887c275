"""Cold-start evaluation: quality against the number of support interactions, for learners and baselines alike.

For each new entity and each number of shots k the support is its first k rows in a fixed order and the query all that
follow; the full catalogue is ranked, less the support's items. An entity with fewer than k + `min_query` rows is left
out of point k only (protocols U1, U2, A1 to A3 and C1 of docs/evaluation.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.evaluation.evaluate_batch import EvalOptions, evaluate_batch, is_row_metric, metric_names
from recsys_meta.evaluation.list_mrr import list_reciprocal_ranks
from recsys_meta.metrics.bootstrap import Values
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.protocols import Predictor

SHOTS = (0, 1, 3, 5, 10, 20)
MAX_ROWS = 2000
"""Most query rows of an entity where metrics are of rows: a fixed random part of more."""
log = logging.getLogger(__name__)

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
    options: EvalOptions | None = None,
    chunk: int = 64,
    max_rows: int = MAX_ROWS,
    lists: bool = True,
    first: int = 0,
    progress: Progress | None = None,
) -> ColdStartCurve:
    """Evaluate one predictor on entities that it was not trained on.

    The order of random supports and of ties depends on `seed` only, so every method is evaluated on the same episodes.
    Where metrics are of rows, at most `max_rows` random query rows of an entity are used. `lists` False leaves out the
    metrics of lists, which need scores of all entities that share one. `first` is the position of the first entity in a
    curve of which this is a part, a multiple of `chunk`: so ties are as in the whole. `progress` is called with the
    numbers of entities done and in all. A prediction that is not a number makes the metric of its point NaN, with a
    warning in the log. Raises ConfigError for shots that are not distinct and >= 0, or a `min_query` below 1.
    """
    if not shots or min(shots) < 0 or len(set(shots)) != len(shots):
        raise ConfigError(f"shots must be distinct numbers >= 0, got {list(shots)}")
    entities = np.sort(np.asarray(entities, np.int64))
    least = data.schema.min_query if min_query is None else min_query
    if least < 1:
        raise ConfigError(f"min_query must be at least 1, got {least}: a metric needs a query row")
    rows = order_rows(index, order or data.schema.order, seed)
    options = options or EvalOptions()
    row_limit = (options.rows or max_rows) if is_row_metric(data) else None
    body = predictor.body(params)
    collector = _RowValues(data, rows, shots) if is_row_metric(data) else _TaskValues(data, len(entities), shots)
    for start in range(0, len(entities), chunk):
        part = entities[start : start + chunk]
        for k in shots:
            enough = index.has_support(part, k, least, data.schema.query_from)
            if not enough.any():
                continue
            batch = episodes_at(data, rows, part[enough], k, row_limit, seed)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + (first + start) * 31 + k)
            metrics = evaluate_batch(predictor, body, data, batch, generator, options)
            collector.add(k, start + np.flatnonzero(enough), batch, metrics)
        if progress is not None:
            progress(min(start + chunk, len(entities)), len(entities))
    values = collector.values()
    _warn_of_failures(predictor.name, values)
    curve = ColdStartCurve(predictor.name, entities, values)
    if lists and has_list_metrics(data):
        return add_list_metrics(
            curve, predictor, params, data, index, order=order, seed=seed, min_query=min_query, body=body
        )
    return curve


def has_list_metrics(data: Dataset) -> bool:
    """Return True where curves have metrics of lists, which need scores of all entities that share one."""
    return "mrr" in metric_names(data) and data.schema.objective == "click"


@torch.no_grad()
def add_list_metrics(
    curve: ColdStartCurve,
    predictor: Predictor,
    params: Params,
    data: Dataset,
    index: EventIndex,
    *,
    order: Order | None = None,
    seed: int = 0,
    min_query: int | None = None,
    body: Params | None = None,
) -> ColdStartCurve:
    """Add the metrics of lists to a curve that `cold_start` made without; `body` where it is at hand."""
    rows, shots = order_rows(index, order or data.schema.order, seed), list(curve.values)
    least = data.schema.min_query if min_query is None else min_query
    body = predictor.body(params) if body is None else body
    ranks = list_reciprocal_ranks(predictor, body, data, rows, curve.entities, shots, least)
    values = {k: {**v, "mrr": ranks[k]} for k, v in curve.values.items()}
    return ColdStartCurve(curve.method, curve.entities, values)


def _warn_of_failures(method: str, values: Mapping[int, Mapping[str, Values]]) -> None:
    """Log the points that are undefined because predictions are not numbers."""
    for shots, point in values.items():
        failures = max((_failures(column) for column in point.values()), default=0)
        if failures:
            log.warning(
                "%s at %d shots: %d of its values come from predictions that are not a number, so its metrics are NaN",
                method,
                shots,
                failures,
            )


def _failures(values: Values) -> int:
    """Number of query rows, or of tasks, with a prediction that is not a number."""
    if isinstance(values, RowSample):
        return int(np.isnan(values.value).sum()) if values.is_undefined else 0
    return int(np.isinf(values).sum())


class _TaskValues:
    """Collector of one value a task."""

    def __init__(self, data: Dataset, entities: int, shots: Sequence[int]) -> None:
        self._values = {k: {m: np.full(entities, np.nan) for m in metric_names(data)} for k in shots}

    def add(self, shots: int, positions: IntArray, batch: TaskBatch, metrics: Mapping[str, Tensor]) -> None:
        for name, column in self._values[shots].items():
            column[positions] = metrics[name].cpu().numpy()

    def values(self) -> dict[int, dict[str, Values]]:
        return {k: dict(v) for k, v in self._values.items()}


class _RowValues:
    """Collector of values of query rows."""

    def __init__(self, data: Dataset, index: EventIndex, shots: Sequence[int]) -> None:
        self._names, self._index = metric_names(data), index
        self._clicks = data.schema.objective == "click"
        self._parts: dict[int, dict[str, list[Tensor]]] = {k: {} for k in shots}

    def add(self, shots: int, positions: IntArray, batch: TaskBatch, metrics: Mapping[str, Tensor]) -> None:
        mask, query = batch.query.mask, batch.query
        columns = {**metrics, "entity": batch.entity[:, None].expand_as(mask), "label": query.label}
        if query.position is not None and not self._clicks:
            columns["new"] = self._index.is_first_occurrence[query.position]
        for name, value in columns.items():
            self._parts[shots].setdefault(name, []).append(value[mask].cpu())

    def values(self) -> dict[int, dict[str, Values]]:
        return {k: self._point(parts) for k, parts in self._parts.items()}

    def _point(self, parts: Mapping[str, list[Tensor]]) -> dict[str, Values]:
        columns = {k: torch.cat(v).numpy() for k, v in parts.items()}
        entity = columns.get("entity", np.empty(0, np.int64))
        if self._clicks:
            empty = np.empty(0, np.float32)
            sample = RowSample(entity, columns.get("logit", empty), columns.get("label", empty))
            return {m: sample for m in self._names if m != "mrr"}
        point: dict[str, Values] = {}
        for name in self._names:
            base = name.removeprefix("macro_").removeprefix("new_")
            value = columns.get(base, np.empty(0, np.float32))
            if "new_" in name and len(value):
                value = np.where(columns["new"], value, np.nan)
            point[name] = RowSample(entity, value)
        return point


def episodes_at(
    data: Dataset, index: EventIndex, entities: IntArray, shots: int, max_rows: int | None = None, seed: int = 0
) -> TaskBatch:
    """Episodes of some entities with exactly `shots` support rows, in the index's order; the other rows are the query.
    To the support of a ranking belong the dislikes before its last row.

    A query with more than `max_rows` rows is cut to random ones by the seed, the same for every method.
    """
    ids = torch.as_tensor(entities, device=index.indptr.device)
    sizes = torch.full_like(ids, shots)
    support, query = index.draw(ids, sizes, query_from=data.schema.query_from)
    if max_rows is not None and query.item.shape[1] > max_rows:
        query = _sample_rows(query, max_rows, torch.Generator().manual_seed(seed))
    dislikes = None if index.dislikes is None else index.dislikes.draw(ids, sizes)
    return episode_batch(data, entities, support, query, dislikes)


def _sample_rows(rows: Interactions, count: int, generator: torch.Generator) -> Interactions:
    """Random rows of each task, at most `count`, real ones before padding."""
    # One random number for each position, so that the choice does not depend on which tasks share the batch.
    assert rows.position is not None
    size = int(rows.position.max()) + 1
    uniform = torch.rand(size, generator=generator).to(rows.item.device)[rows.position].masked_fill(~rows.mask, -1.0)
    columns = uniform.topk(count, dim=1).indices.sort(1).values
    task = torch.arange(len(columns), device=columns.device)[:, None]
    return rows.map(lambda t: t[task, columns])


class UnadaptedPredictor:
    """Predictor that ignores the support: its distance to the adapted predictor is what adapting is worth."""

    def __init__(self, predictor: Predictor) -> None:
        self.inner = predictor
        self.name = f"{predictor.name}-unadapted"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def adapt(self, body: Params, support: Support) -> State:
        """Adapt to an empty support, whatever the given one holds."""
        return self.inner.adapt(body, support.empty())


@dataclass(frozen=True)
class AdaptationEffect:
    """Mean over entities of the norm of the state's change by adapting, and of the scores' root mean square change."""

    state: float
    scores: float


@torch.no_grad()
def adaptation_effect(predictor: Predictor, params: Params, batch: TaskBatch) -> AdaptationEffect:
    """Measure how far adapting to a batch of supports moves states and scores (0 for a method that does not adapt)."""
    body = predictor.body(params)
    after, before = predictor.adapt(body, batch.support), predictor.adapt(body, batch.support.empty())
    squares = [
        (after[k] - before[k]).reshape(len(after[k]), -1).square().sum(1)
        for k in after
        if after[k].is_floating_point() and after[k].shape == before[k].shape
    ]
    norm = torch.stack(squares).sum(0).sqrt().mean() if squares else torch.tensor(0.0)
    difference = predictor.score(body, after, batch.query) - predictor.score(body, before, batch.query)
    rms = ((difference.square() * batch.query.mask).sum(1) / batch.query.counts.clamp(min=1)).sqrt().mean()
    return AdaptationEffect(float(norm), float(rms))
