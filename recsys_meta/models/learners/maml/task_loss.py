"""The loss of a task under a state, and its gradient in the scores, which is written out.

A state holds z [T, Z]; where the layers adapt, the leaves of `perceptron`; where item vectors adapt, the support's
items `rows.item` [T, S] (0: none) and the changes of their vectors, `rows.change` [T, S, V].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import FIRST, Interactions, Params, State
from recsys_meta.models.functional.losses import logistic_loss, softmax_loss, squared_error
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.sampled_softmax import sampled_softmax_loss
from recsys_meta.models.learners.maml import scorer
from recsys_meta.models.learners.maml.scorer import ScorerConfig


def item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, R] of items [T, R], with the changes of a task's own item vectors."""
    return add_item_bias(config, body, item, scorer.pair_scores(config, body, state, row_vectors(body, state, item)))


def shared_item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, N] of the same items [N] for all tasks, without the changes of a task's own item vectors."""
    e = functional.embedding(item, body["vectors"])
    return add_item_bias(config, body, item, scorer.pair_scores(config, body, state, e))


def row_vectors(body: Params, state: State, item: Tensor) -> Tensor:
    """Vectors [T, R, V] of items [T, R], with the changes of a task's own."""
    e = functional.embedding(item, body["vectors"])
    return e + is_slot(state, item, e.dtype) @ state["rows.change"] if "rows.item" in state else e


def is_slot(state: State, item: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where an item [T, R] is that of a slot of the state, [T, R, S]."""
    return (item[:, :, None] == state["rows.item"][:, None, :]).to(dtype)


def add_item_bias(config: ScorerConfig, body: Params, item: Tensor, scores: Tensor) -> Tensor:
    """Scores with the biases of the items, where items have some."""
    return scores + body["bias"][item] if config.item_bias else scores


def rank_catalogue(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Scores [T, C] of the whole catalogue."""
    scores = scorer.catalogue_scores(config, body, state)
    if "rows.item" not in state:
        return scores
    item = state["rows.item"]
    return scores.scatter(1, item, item_scores(config, body, state, item))


def catalogue_logits(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Logits [T, C] of a softmax over the catalogue; the reserved ids are masked."""
    return mask_reserved_ids(rank_catalogue(config, body, state))


def informative_rows(config: ScorerConfig, rows: Interactions) -> Interactions:
    """Rows that a support learns from: in a ranking those of known items; a rating or click counts without its item."""
    if config.objective != "ranking":
        return rows
    return mask_unknown_items(rows)


def inner_loss(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, support: Interactions | None = None
) -> Tensor:
    """Loss [T] of each task. A full softmax leaves out the items of `support`, as they are not recommended again."""
    if config.objective == "ranking" and not config.negatives:
        scores = catalogue_logits(config, body, state)
        if support is not None:
            scores, rows = mask_support_items(scores, support.item * support.mask, rows)
        return softmax_loss(scores, rows)
    scores = item_scores(config, body, state, rows.item)
    if config.objective != "ranking":
        return label_loss(config, scores, rows)
    negatives, log_q = body["negatives"], body["log_q"]
    negative_scores = shared_item_scores(config, body, state, negatives)
    row_log_q = log_q[rows.item].masked_fill(~rows.mask, 0.0)
    return sampled_softmax_loss(scores, negative_scores, rows, log_q[negatives], row_log_q)


def label_loss(config: ScorerConfig, scores: Tensor, rows: Interactions) -> Tensor:
    """Loss [T] of scores [T, R] of ratings or clicks."""
    return squared_error(scores, rows) if config.objective == "rating" else logistic_loss(scores, rows)


def score_gradient(
    config: ScorerConfig,
    body: Params,
    rows: Interactions,
    weight: Tensor,
    scores: Tensor,
    negative_scores: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradient of the support loss [T] in the scores of its rows [T, S], each with its weight [T, S] in the mean, and
    in those of shared negatives [T, N] where a ranking samples them."""
    if config.objective == "rating":
        return (2 * (scores - rows.label) * weight,)
    if config.objective == "click":
        return ((torch.sigmoid(scores) - rows.label) * weight,)
    assert negative_scores is not None, "a ranking without negatives has its own step"
    log_q, negatives = body["log_q"], body["negatives"]
    logits = negative_scores - log_q[negatives]
    margin = logits.logsumexp(1)[:, None] - scores + log_q[rows.item].masked_fill(~rows.mask, 0.0)
    error = torch.sigmoid(margin) * weight
    return -error, error.sum(1, keepdim=True) * torch.softmax(logits, 1)


def score_curvature(config: ScorerConfig, weight: Tensor, scores: Tensor) -> Tensor:
    """Second derivative [T, S] of the support loss in the scores of ratings or clicks [T, S]."""
    if config.objective == "rating":
        return 2 * weight
    probability = torch.sigmoid(scores)
    return probability * (1 - probability) * weight


def row_losses(config: ScorerConfig, body: Params, state: State, rows: Interactions) -> Tensor:
    """Loss [T, S] of each row of a support under a state; 0 where there is no row."""
    if config.objective == "ranking" and not config.negatives:
        logits = catalogue_logits(config, body, state)
        item = rows.item.masked_fill(~rows.mask, FIRST)
        loss = logits.logsumexp(1)[:, None] - logits.gather(1, item)
    else:
        scores = item_scores(config, body, state, rows.item)
        if config.objective == "rating":
            loss = (scores - rows.label).square()
        elif config.objective == "click":
            loss = functional.softplus(scores) - rows.label * scores
        else:
            others = shared_item_scores(config, body, state, body["negatives"]) - body["log_q"][body["negatives"]]
            own = scores - body["log_q"][rows.item].masked_fill(~rows.mask, 0.0)
            loss = functional.softplus(others.logsumexp(1)[:, None] - own)
    return loss.masked_fill(~rows.mask, 0.0)


def row_weights(rows: Interactions, dtype: torch.dtype, state: State | None = None) -> Tensor:
    """Weight [T, S] of each row in the mean over a task's rows: the same for all, if the state has no `rows.weight`."""
    if state is not None and "rows.weight" in state:
        return state["rows.weight"]
    return (rows.mask / rows.counts.clamp(min=1)[:, None]).to(dtype)
