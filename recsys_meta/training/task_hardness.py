"""Hardness of tasks: the error of each query row after adapting, for any predictor and objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, Params, State, TaskBatch
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.protocols import ChoicePredictor, Predictor

CHOICE_CANDIDATES = 20
"""Random items that a choice is compared with."""


@torch.no_grad()
def query_errors(
    predictor: Predictor,
    params: Params,
    batch: TaskBatch,
    objective: Objective,
    generator: torch.Generator,
    candidates: int = CHOICE_CANDIDATES,
) -> tuple[Tensor, Tensor]:
    """Error of each query row after adapting to the support, [T, Q], and the mask of the rows that have one, [T, Q].

    Ranking: negative log-probability of the item among all that the support does not hold; a row whose item is unknown
    or in the support has no error. Rating: squared error. Click: log-loss. Choice: negative log-probability of the item
    among `candidates` others, drawn uniformly from the entity's own catalog by the generator; a row whose item is not
    in that catalog has no error. Rows without an error hold 0; no gradient is kept.
    """
    body = predictor.body(params)
    state = predictor.adapt(body, batch.support)
    query = batch.query
    mask = query.mask
    if objective == "ranking":
        error, is_ranked = _ranking(predictor.rank(body, state), batch)
        mask = mask & is_ranked
    elif objective == "rating":
        error = (predictor.score(body, state, query) - query.label).square()
    elif objective == "click":
        scores = predictor.score(body, state, query)
        error = functional.binary_cross_entropy_with_logits(scores, query.label, reduction="none")
    else:
        error = _choice(predictor, body, state, batch, generator, candidates)
        mask = mask & (query.item >= FIRST)
    return torch.where(mask, error, 0.0), mask


def task_hardness(error: Tensor, mask: Tensor) -> Tensor:
    """Mean error of each task's rows, [T]; NaN for a task without any."""
    count = mask.sum(1)
    return torch.where(count > 0, (error * mask).sum(1) / count.clamp(min=1), torch.nan)


def _ranking(scores: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    support = batch.support.rows
    is_excluded = torch.zeros_like(scores, dtype=torch.bool).scatter(1, support.item * support.mask, True)
    is_excluded[:, :FIRST] = True
    log_p = torch.log_softmax(scores.masked_fill(is_excluded, MASKED_LOGIT), 1)
    return -log_p.gather(1, batch.query.item), ~is_excluded.gather(1, batch.query.item)


def _choice(
    predictor: Predictor, body: Params, state: State, batch: TaskBatch, generator: torch.Generator, count: int
) -> Tensor:
    catalog = batch.support.catalogue
    if catalog is None:
        raise ValueError("a choice needs the catalogue of each entity")
    query = batch.query
    others = sample_candidates(catalog.mask, query.item.shape[1], count, generator)
    candidates = torch.cat([query.item[:, :, None], others], 2)
    if isinstance(predictor, ChoicePredictor):
        scores = predictor.choose(body, state, query, candidates)
    else:
        item_scores = predictor.rank(body, state)
        scores = item_scores.gather(1, candidates.flatten(1)).view(candidates.shape)
    # The row's own item, if it is among the others, would count twice.
    scores[:, :, 1:] = scores[:, :, 1:].masked_fill(others == query.item[:, :, None], MASKED_LOGIT)
    return torch.logsumexp(scores, 2) - scores[:, :, 0]


def sample_candidates(mask: Tensor, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw items [T, rows, count] uniformly with replacement from the mask [T, C]; 0 for a task with an empty one."""
    size = mask.sum(1)
    uniform = torch.rand(len(mask), rows, count, generator=generator, device=generator.device).to(mask.device)
    rank = (uniform * size[:, None, None]).long().clamp(max=(size - 1).clamp(min=0)[:, None, None])
    # Items of the mask first, in their order: the rank-th of them.
    order = torch.argsort((~mask).long(), dim=1, stable=True)
    items = order.gather(1, rank.flatten(1)).view(rank.shape)
    return torch.where(size[:, None, None] > 0, items, 0)
