"""How hard tasks are: the error of each query row after adapting, for any predictor and objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, Params, State, TaskBatch
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.protocols import ChoicePredictor, Predictor

CANDIDATES = 20
"""Items that a choice is judged against."""


@torch.no_grad()
def query_errors(
    predictor: Predictor,
    params: Params,
    batch: TaskBatch,
    objective: Objective,
    generator: torch.Generator,
    candidates: int = CANDIDATES,
) -> tuple[Tensor, Tensor]:
    """Error of each query row after adapting to the support, [T, Q], and the rows it is known of, [T, Q] bool.

    Ranking: negative log-probability of the item among all that the support does not hold; a row whose item is unknown
    or in the support is not judged. Rating: squared error. Click: log-loss. Choice: negative log-probability of the
    item among so many others, drawn uniformly from the entity's own catalogue by the generator; a row whose item is
    not of that catalogue is not judged. No gradient, and errors of other rows are 0.
    """
    body = predictor.body(params)
    state = predictor.adapt(body, batch.support)
    query = batch.query
    mask = query.mask
    if objective == "ranking":
        error, known = _ranking(predictor.rank(body, state), batch)
        mask = mask & known
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
    """Mean error of each task's rows, [T]; NaN where there is none."""
    count = mask.sum(1)
    return torch.where(count > 0, (error * mask).sum(1) / count.clamp(min=1), torch.nan)


def _ranking(scores: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
    seen = batch.support.rows
    out = torch.zeros_like(scores, dtype=torch.bool).scatter(1, seen.item * seen.mask, True)
    out[:, :FIRST] = True
    log_p = torch.log_softmax(scores.masked_fill(out, MASKED_LOGIT), 1)
    return -log_p.gather(1, batch.query.item), ~out.gather(1, batch.query.item)


def _choice(
    predictor: Predictor, body: Params, state: State, batch: TaskBatch, generator: torch.Generator, count: int
) -> Tensor:
    own = batch.support.catalogue
    if own is None:
        raise ValueError("a choice needs the catalogue of each entity")
    query = batch.query
    others = sample_candidates(own.mask, query.item.shape[1], count, generator)
    candidates = torch.cat([query.item[:, :, None], others], 2)
    if isinstance(predictor, ChoicePredictor):
        scores = predictor.choose(body, state, query, candidates)
    else:
        ranked = predictor.rank(body, state)
        scores = ranked.gather(1, candidates.flatten(1)).view(candidates.shape)
    # One that is drawn twice, or is the row's own item, would count twice.
    scores[:, :, 1:] = scores[:, :, 1:].masked_fill(others == query.item[:, :, None], MASKED_LOGIT)
    return torch.logsumexp(scores, 2) - scores[:, :, 0]


def sample_candidates(mask: Tensor, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Items [T, rows, count] drawn uniformly, with replacement, of those in the mask [T, C]; 0 where there is none."""
    size = mask.sum(1)
    chance = torch.rand(len(mask), rows, count, generator=generator, device=generator.device).to(mask.device)
    turn = (chance * size[:, None, None]).long().clamp(max=(size - 1).clamp(min=0)[:, None, None])
    # Real items first, in their order: the turn-th of them.
    order = torch.argsort((~mask).long(), dim=1, stable=True)
    items = order.gather(1, turn.flatten(1)).view(turn.shape)
    return torch.where(size[:, None, None] > 0, items, 0)
