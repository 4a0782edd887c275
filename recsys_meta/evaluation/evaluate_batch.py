"""What a predictor did on a batch of episodes, for each objective.

Adapting sees the support only; query labels go to the metric. Rankings and ratings have a value for each task [T],
clicks and choices one for each query row [T, Q], NaN where there is no row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, Interactions, Params, State, TaskBatch
from recsys_meta.metrics.ranking_metrics import (
    CHOICE,
    CLICK,
    RANKING,
    RATING,
    choice_metrics,
    ranking_metrics,
    rating_metrics,
)
from recsys_meta.models.protocols import ChoicePredictor, Predictor

CELLS = 250_000
"""Candidates that are scored at once."""


@dataclass(frozen=True)
class EvalOptions:
    """How a query is asked: `shown` [C] bool restricts the items of a ranking; `negatives` asks for a choice among so
    many random others instead of the whole catalogue (for comparison with the literature only); `rows` bounds the
    query rows of an entity that are looked at, where rows are measured."""

    shown: Tensor | None = None
    negatives: int | None = None
    rows: int | None = None


def metric_names(data: Dataset) -> tuple[str, ...]:
    """Metrics that make sense for the objective; the first one is what choices are made by."""
    match data.schema.objective:
        case "ranking":
            return RANKING
        case "rating":
            return RATING
        case "click":
            return CLICK if data.events.group is None else (*CLICK, "mrr")
        case "choice":
            return CHOICE


def tunable_metrics(data: Dataset) -> tuple[str, ...]:
    """Those of `metrics_of` that are a mean over what `measure` answers of a batch. The others need more: all rows at
    once (AUC, calibration error), which rows are new or whose they are (choices), or the lists (MRR of clicks)."""
    match data.schema.objective:
        case "click":
            return CLICK[:1]
        case "choice":
            return tuple(name for name in CHOICE if not name.startswith(("new_", "macro_")))
        case _:
            return metric_names(data)


def is_row_metric(data: Dataset) -> bool:
    """Whether rows are measured rather than tasks."""
    return data.schema.objective in ("click", "choice")


def evaluate_batch(
    predictor: Predictor,
    body: Params,
    data: Dataset,
    batch: TaskBatch,
    generator: torch.Generator,
    ask: EvalOptions = EvalOptions(),
) -> dict[str, Tensor]:
    """Metrics of a batch of episodes: [T], or [T, Q] where rows are measured (clicks: `logloss` and `logit`).

    Raises ConfigError for a predictor that cannot answer the objective.
    """
    state = predictor.adapt(body, batch.support)
    match data.schema.objective:
        case "rating":
            low, high = data.schema.label_range or (-np.inf, np.inf)
            predicted = predictor.score(body, state, batch.query)
            return rating_metrics(predicted, batch.query.label, batch.query.mask, low, high)
        case "click":
            return _clicks(predictor.score(body, state, batch.query), batch.query)
        case "choice":
            return _choices(predictor, body, state, batch, generator, ask.negatives)
        case "ranking":
            return _ranking(predictor.rank(body, state), batch, generator, ask.shown)


def _ranking(scores: Tensor, batch: TaskBatch, generator: torch.Generator, shown: Tensor | None) -> dict[str, Tensor]:
    relevant = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    relevant.scatter_(1, batch.query.item, batch.query.mask)
    allowed = torch.ones_like(relevant) if shown is None else shown.expand_as(relevant).clone()
    allowed.scatter_(1, batch.support.rows.item, False)
    allowed[:, :FIRST] = False
    return ranking_metrics(scores, relevant, allowed, generator)


def _clicks(logit: Tensor, query: Interactions) -> dict[str, Tensor]:
    loss = functional.binary_cross_entropy_with_logits(logit, query.label, reduction="none")
    return {k: v.masked_fill(~query.mask, torch.nan) for k, v in (("logit", logit), ("logloss", loss))}


def _choices(
    predictor: Predictor,
    body: Params,
    state: State,
    batch: TaskBatch,
    generator: torch.Generator,
    negatives: int | None,
) -> dict[str, Tensor]:
    if not isinstance(predictor, ChoicePredictor) or batch.support.catalogue is None:
        raise ConfigError(f"'{predictor.name}' cannot choose among the items of an entity; it has no `choose`")
    there = batch.support.catalogue.mask
    query = batch.query
    asked = query.mask & (query.item >= FIRST)
    width = there.shape[1] - FIRST if negatives is None else negatives + 1
    piece = max(1, CELLS // max(1, width * len(there)))
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, query.item.shape[1], piece):
        rows = query.columns(start, start + piece)
        candidates, own = _candidates(there, rows.item, negatives, generator)
        scores = predictor.choose(body, state, rows, candidates)
        shown = there.gather(1, candidates.flatten(1)).reshape(candidates.shape)
        flat = [v.flatten(0, 1) for v in (scores, own, shown)]
        for name, value in choice_metrics(flat[0], flat[1], flat[2], generator).items():
            parts.setdefault(name, []).append(value.reshape(rows.item.shape))
    return {k: torch.cat(v, 1).masked_fill(~asked, torch.nan) for k, v in parts.items()}


def _candidates(
    there: Tensor, item: Tensor, negatives: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Candidates [T, R, K] of rows whose item [T, R] was taken, and the column of that item [T, R]."""
    tasks, rows = item.shape
    if negatives is None:
        every = torch.arange(FIRST, there.shape[1], device=item.device).expand(tasks, rows, -1)
        return every, (item - FIRST).clamp(min=0)
    chance = torch.rand(tasks, rows, there.shape[1], generator=generator).to(item.device)
    chance = chance.masked_fill(~there[:, None, :], -1.0).scatter(2, item[:, :, None], -1.0)
    drawn = chance.topk(min(negatives, there.shape[1]), dim=2)
    others = drawn.indices.masked_fill(drawn.values < 0, 0)  # where there are too few others: padding, never shown
    return torch.cat([item[:, :, None], others], 2), torch.zeros_like(item)
