"""Metrics of a predictor on a batch of episodes, for each objective.

Adapting uses the support only; query labels go to the metric. Rankings and ratings have a value for each task [T],
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
from recsys_meta.evaluation.row_scores import row_scores
from recsys_meta.metrics.ranking_metrics import (
    CHOICE,
    CLICK,
    RANKING,
    RATING,
    choice_metrics,
    ranking_metrics,
    rating_metrics,
)
from recsys_meta.models.functional.host_reads import most_needed
from recsys_meta.models.functional.size_groups import size_groups
from recsys_meta.models.protocols import ChoicePredictor, Predictor

MAX_CELLS = 250_000
"""Most candidates that are scored at once."""


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation.

    `item_mask` [C] bool restricts the items of a ranking; `negatives` ranks the item of a choice among so many random
    others instead of its whole catalog (for comparison with the literature only); `rows` bounds the query rows of an
    entity where metrics are of rows.
    """

    item_mask: Tensor | None = None
    negatives: int | None = None
    rows: int | None = None


def metric_names(data: Dataset) -> tuple[str, ...]:
    """Metrics of the data set's objective; the first is the criterion of choices."""
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
    """Metrics of the objective that are a mean over what `evaluate_batch` returns.

    The others need more than a batch: all rows at once (AUC, calibration error), the history or the entity of rows
    (`new_` and `macro_` of choices), or the lists (MRR of clicks).
    """
    match data.schema.objective:
        case "click":
            return CLICK[:1]
        case "choice":
            return tuple(name for name in CHOICE if not name.startswith(("new_", "macro_")))
        case _:
            return metric_names(data)


def is_row_metric(data: Dataset) -> bool:
    """True for an objective whose metrics are of query rows rather than of tasks."""
    return data.schema.objective in ("click", "choice")


def evaluate_batch(
    predictor: Predictor,
    body: Params,
    data: Dataset,
    batch: TaskBatch,
    generator: torch.Generator,
    options: EvalOptions = EvalOptions(),
) -> dict[str, Tensor]:
    """Adapt to the support and compute the metrics of the query: [T], or [T, Q] where metrics are of rows.

    Clicks have `logloss` and `logit`; a logit that is not a number has an infinite log-loss. Raises ConfigError for a
    predictor that does not serve the objective.
    """
    state = predictor.adapt(body, batch.support)
    match data.schema.objective:
        case "rating":
            low, high = data.schema.label_range or (-np.inf, np.inf)
            prediction = row_scores(predictor, body, state, batch.query)
            return rating_metrics(prediction, batch.query.label, batch.query.mask, low, high)
        case "click":
            return _clicks(row_scores(predictor, body, state, batch.query), batch.query)
        case "choice":
            return _choices(predictor, body, state, batch, generator, options.negatives)
        case "ranking":
            return _ranking(predictor.rank(body, state), batch, generator, options.item_mask)


def _ranking(
    scores: Tensor, batch: TaskBatch, generator: torch.Generator, item_mask: Tensor | None
) -> dict[str, Tensor]:
    relevant = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    relevant.scatter_(1, batch.query.item, batch.query.mask)
    candidates = torch.ones_like(relevant) if item_mask is None else item_mask.expand_as(relevant).clone()
    candidates.scatter_(1, batch.support.seen_items, False)
    candidates[:, :FIRST] = False
    return ranking_metrics(scores, relevant, candidates, generator)


def _clicks(logit: Tensor, query: Interactions) -> dict[str, Tensor]:
    loss = functional.binary_cross_entropy_with_logits(logit, query.label, reduction="none")
    loss = loss.masked_fill(logit.isnan(), torch.inf)
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
        raise ConfigError(f"'{predictor.name}' cannot choose among the items of an entity: it has no method `choose`")
    mask, query = batch.support.catalogue.mask, batch.query
    values: dict[str, Tensor] = {}
    for tasks in size_groups(mask.sum(1)):
        part = {k: v[tasks] for k, v in state.items()}
        own = _choices_among(predictor, body, part, mask[tasks], query.of(tasks), generator, negatives)
        for name, value in own.items():
            values.setdefault(name, torch.full(query.item.shape, torch.nan, device=value.device))[tasks] = value
    in_catalog = query.mask & (query.item >= FIRST)
    return {k: v.masked_fill(~in_catalog, torch.nan) for k, v in values.items()}


def _choices_among(
    predictor: ChoicePredictor,
    body: Params,
    state: State,
    catalog_mask: Tensor,
    query: Interactions,
    generator: torch.Generator,
    negatives: int | None,
) -> dict[str, Tensor]:
    """Metrics [T, Q] of choices from catalogues of similar size [T, C], a chunk of rows after the other."""
    catalog_mask = catalog_mask[:, : FIRST + most_needed(catalog_mask.sum(1), catalog_mask.shape[1] - FIRST)]
    width = catalog_mask.shape[1] - FIRST if negatives is None else negatives + 1
    chunk = max(1, MAX_CELLS // max(1, width * len(catalog_mask)))
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, query.item.shape[1], chunk):
        rows = query.columns(start, start + chunk)
        candidates, target = _candidates(catalog_mask, rows.item, negatives, generator)
        scores = predictor.choose(body, state, rows, candidates)
        mask = catalog_mask.gather(1, candidates.flatten(1)).reshape(candidates.shape)
        flat = [v.flatten(0, 1) for v in (scores, target, mask)]
        for name, value in choice_metrics(flat[0], flat[1], flat[2], generator).items():
            parts.setdefault(name, []).append(value.reshape(rows.item.shape))
    return {k: torch.cat(v, 1) for k, v in parts.items()}


def _candidates(
    catalog_mask: Tensor, item: Tensor, negatives: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Candidates [T, R, K] of rows with the chosen items [T, R], and the column of that item among them [T, R]."""
    tasks, rows = item.shape
    if negatives is None:
        every = torch.arange(FIRST, catalog_mask.shape[1], device=item.device).expand(tasks, rows, -1)
        return every, (item - FIRST).clamp(min=0)
    uniform = torch.rand(tasks, rows, catalog_mask.shape[1], generator=generator).to(item.device)
    uniform = uniform.masked_fill(~catalog_mask[:, None, :], -1.0).scatter(2, item[:, :, None], -1.0)
    top = uniform.topk(min(negatives, catalog_mask.shape[1]), dim=2)
    others = top.indices.masked_fill(top.values < 0, 0)  # too few others: padding, which the catalog mask excludes
    return torch.cat([item[:, :, None], others], 2), torch.zeros_like(item)
