"""The inner loop of MAML: scores under a state, their loss, and its gradient where it has a closed form.

A state holds z [T, Z]; where the layers adapt, their weights [T, ...]; where item vectors adapt, the support's items
`rows.item` [T, S] (0: none) and the changes of their vectors, `rows.change` [T, S, V].
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.functional.losses import logistic_loss, softmax_loss, squared_error
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.sampled_softmax import sampled_softmax_loss
from recsys_meta.models.learners.maml import scorer
from recsys_meta.models.learners.maml.scorer import ScorerConfig


def item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, R] of items [T, R], with the changes of a task's own item vectors."""
    e = body["vectors"][item]
    if "rows.item" in state:
        same = item[:, :, None] == state["rows.item"][:, None, :]
        e = e + same.to(e.dtype) @ state["rows.change"]
    return _add_item_bias(
        config, body, item, scorer.pair_scores(config, body, state["z"], scorer.head_layers(state), e)
    )


def shared_item_scores(config: ScorerConfig, body: Params, state: State, item: Tensor) -> Tensor:
    """Scores [T, N] of the same items [N] for all tasks, without the changes of a task's own item vectors."""
    e = body["vectors"][item]
    return _add_item_bias(
        config, body, item, scorer.pair_scores(config, body, state["z"], scorer.head_layers(state), e)
    )


def _add_item_bias(config: ScorerConfig, body: Params, item: Tensor, scores: Tensor) -> Tensor:
    return scores + body["bias"][item] if config.item_bias else scores


def rank_catalogue(config: ScorerConfig, body: Params, state: State) -> Tensor:
    """Scores [T, C] of the whole catalogue."""
    scores = scorer.catalogue_scores(config, body, state["z"], scorer.head_layers(state))
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
    if config.objective == "rating":
        return squared_error(scores, rows)
    if config.objective == "click":
        return logistic_loss(scores, rows)
    negatives, log_q = body["negatives"], body["log_q"]
    negative_scores = shared_item_scores(config, body, state, negatives)
    row_log_q = log_q[rows.item].masked_fill(~rows.mask, 0.0)
    return sampled_softmax_loss(scores, negative_scores, rows, log_q[negatives], row_log_q)


def loss_gradient(config: ScorerConfig, body: Params, z: Tensor, rows: Interactions) -> Tensor:
    """Gradient [T, Z] in z of a dot product's support loss, in closed form: serving needs no autograd.

    Full softmax: E_p[e] - mean e; sampled: the same, weighted by each row's error; labels: mean of error times e.
    """
    vectors, state = body["vectors"], {"z": z}
    row_vectors = vectors[rows.item]
    weight = (rows.mask / rows.counts.clamp(min=1)[:, None]).to(row_vectors.dtype)  # [T, S]: the mean over rows
    if config.objective == "ranking" and not config.negatives:
        mean_vector = torch.softmax(catalogue_logits(config, body, state), 1) @ vectors
        return mean_vector * rows.mask.any(1, keepdim=True) - torch.einsum("ts,tsv->tv", weight, row_vectors)
    scores = item_scores(config, body, state, rows.item)
    if config.objective == "ranking":
        negatives, log_q = body["negatives"], body["log_q"]
        negative_logits = shared_item_scores(config, body, state, negatives) - log_q[negatives]
        margin = negative_logits.logsumexp(1)[:, None] - scores + log_q[rows.item].masked_fill(~rows.mask, 0.0)
        error_weight = torch.sigmoid(margin) * weight
        negative_mean = torch.softmax(negative_logits, 1) @ vectors[negatives]
        return error_weight.sum(1, keepdim=True) * negative_mean - torch.einsum("ts,tsv->tv", error_weight, row_vectors)
    error = 2 * (scores - rows.label) if config.objective == "rating" else torch.sigmoid(scores) - rows.label
    return torch.einsum("ts,tsv->tv", error * weight, row_vectors)
