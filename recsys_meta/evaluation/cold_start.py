"""The cold-start curve: quality against the number of support interactions.

One door for learners and baselines. For each newcomer and each number of shots k the support is its first k rows
in a fixed order and the query all that follow; the full catalogue is ranked, less the support's items. Newcomers
with fewer than k + `min_query` rows leave point k only (protocols U1, U2, A1 to A3 and C1 of docs/evaluation.md).
"""

from __future__ import annotations

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
from recsys_meta.episodes.event_index import EventIndex, draw_episodes, order_rows
from recsys_meta.evaluation.curve import ColdStartCurve, best_setting
from recsys_meta.evaluation.evaluate_batch import EvalOptions, evaluate_batch, is_row_metric, metric_names
from recsys_meta.evaluation.list_mrr import list_reciprocal_ranks
from recsys_meta.metrics.bootstrap import Values
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.protocols import Predictor

__all__ = [
    "MOST_ROWS",
    "SHOTS",
    "AdaptationEffect",
    "ColdStartCurve",
    "EvalOptions",
    "UnadaptedPredictor",
    "adaptation_effect",
    "best_setting",
    "cold_start",
    "episodes_at",
    "evaluate_batch",
    "metric_names",
]  # fmt: skip

SHOTS = (0, 1, 3, 5, 10, 20)
MOST_ROWS = 2000
"""Query rows of an entity that are looked at where rows are measured: a fixed random part of more."""

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
    ask: EvalOptions | None = None,
    chunk: int = 64,
    most_rows: int = MOST_ROWS,
    lists: bool = True,
    progress: Progress | None = None,
) -> ColdStartCurve:
    """Evaluate one predictor on newcomers it was not trained on.

    Where rows are measured a random part, `most_rows` of an entity, is looked at; `lists` False leaves out what is
    measured over lists, which takes scores of all who share them.

    The order of random supports and of ties depends on `seed` only, so every method meets the same episodes.
    `progress` is told (newcomers done, all). Raises ConfigError for shots that are not distinct and >= 0, or a
    `min_query` below 1.
    """
    if not shots or min(shots) < 0 or len(set(shots)) != len(shots):
        raise ConfigError(f"shots must be distinct numbers >= 0, got {list(shots)}")
    entities = np.sort(np.asarray(entities, np.int64))
    least = data.schema.min_query if min_query is None else min_query
    if least < 1:
        raise ConfigError(f"min_query must be at least 1, got {least}: without a query row nothing is measured")
    rows = order_rows(index, order or data.schema.order, seed)
    ask = ask or EvalOptions()
    most = (ask.rows or most_rows) if is_row_metric(data) else None
    body = predictor.body(params)
    tally = _RowValues(data, rows, shots) if is_row_metric(data) else _TaskValues(data, len(entities), shots)
    for start in range(0, len(entities), chunk):
        part = entities[start : start + chunk]
        for k in shots:
            enough = index.has_support(part, k, least, data.schema.query_from)
            if not enough.any():
                continue
            batch = episodes_at(data, rows, part[enough], k, most, seed)
            generator = torch.Generator().manual_seed(seed * 1_000_003 + start * 31 + k)
            measured = evaluate_batch(predictor, body, data, batch, generator, ask)
            tally.add(k, start + np.flatnonzero(enough), batch, measured)
        if progress is not None:
            progress(min(start + chunk, len(entities)), len(entities))
    values = tally.values()
    if lists and "mrr" in metric_names(data) and data.schema.objective == "click":
        ranks = list_reciprocal_ranks(predictor, body, data, rows, entities, shots, least)
        values = {k: {**v, "mrr": ranks[k]} for k, v in values.items()}
    return ColdStartCurve(predictor.name, entities, values)


class _TaskValues:
    """Values of tasks, as they come in."""

    def __init__(self, data: Dataset, entities: int, shots: Sequence[int]) -> None:
        self._values = {k: {m: np.full(entities, np.nan) for m in metric_names(data)} for k in shots}

    def add(self, shots: int, places: IntArray, batch: TaskBatch, measured: Mapping[str, Tensor]) -> None:
        for name, kept in self._values[shots].items():
            kept[places] = measured[name].cpu().numpy()

    def values(self) -> dict[int, dict[str, Values]]:
        return {k: dict(v) for k, v in self._values.items()}


class _RowValues:
    """Values of rows, as they come in."""

    def __init__(self, data: Dataset, index: EventIndex, shots: Sequence[int]) -> None:
        self._names, self._index = metric_names(data), index
        self._clicks = data.schema.objective == "click"
        self._parts: dict[int, dict[str, list[Tensor]]] = {k: {} for k in shots}

    def add(self, shots: int, places: IntArray, batch: TaskBatch, measured: Mapping[str, Tensor]) -> None:
        mask, query = batch.query.mask, batch.query
        found = {**measured, "entity": batch.entity[:, None].expand_as(mask), "label": query.label}
        if query.position is not None and not self._clicks:
            found["new"] = self._index.first_time[query.position]
        for name, value in found.items():
            self._parts[shots].setdefault(name, []).append(value[mask].cpu())

    def values(self) -> dict[int, dict[str, Values]]:
        return {k: self._point(parts) for k, parts in self._parts.items()}

    def _point(self, parts: Mapping[str, list[Tensor]]) -> dict[str, Values]:
        columns = {k: torch.cat(v).numpy() for k, v in parts.items()}
        entity = columns.get("entity", np.empty(0, np.int64))
        if self._clicks:
            none = np.empty(0, np.float32)
            sample = RowSample(entity, columns.get("logit", none), columns.get("label", none))
            return {m: sample for m in self._names if m != "mrr"}
        made: dict[str, Values] = {}
        for name in self._names:
            base = name.removeprefix("macro_").removeprefix("new_")
            value = columns.get(base, np.empty(0, np.float32))
            if "new_" in name and len(value):
                value = np.where(columns["new"], value, np.nan)
            made[name] = RowSample(entity, value)
        return made


def episodes_at(
    data: Dataset, index: EventIndex, entities: IntArray, shots: int, most: int | None = None, seed: int = 0
) -> TaskBatch:
    """Episodes of some newcomers with exactly `shots` support rows, in the index's order; the rest is query.

    Of a query with more than `most` rows a random part is kept, the same for every method.
    """
    chosen = torch.as_tensor(entities, device=index.indptr.device)
    wanted = torch.full_like(chosen, shots)
    support, query = draw_episodes(index, chosen, wanted, query_from=data.schema.query_from)
    if most is not None and query.item.shape[1] > most:
        query = _part(query, most, torch.Generator().manual_seed(seed))
    return episode_batch(data, entities, support, query)


def _part(rows: Interactions, most: int, generator: torch.Generator) -> Interactions:
    """Random rows of each task, at most so many, real ones before padding."""
    # By the position of a row, so that a row's chance does not depend on which others share its batch.
    assert rows.position is not None
    size = int(rows.position.max()) + 1
    chance = torch.rand(size, generator=generator).to(rows.item.device)[rows.position].masked_fill(~rows.mask, -1.0)
    kept = chance.topk(most, dim=1).indices.sort(1).values
    task = torch.arange(len(kept), device=kept.device)[:, None]
    return rows.map(lambda t: t[task, kept])


class UnadaptedPredictor:
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
class AdaptationEffect:
    """What adapting changed, mean over newcomers: norm of the state's change, and root mean square change of the
    scores."""

    state: float
    scores: float


@torch.no_grad()
def adaptation_effect(predictor: Predictor, params: Params, batch: TaskBatch) -> AdaptationEffect:
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
    return AdaptationEffect(float(norm), float(rms))
