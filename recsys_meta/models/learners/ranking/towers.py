"""Towers: entity vectors adapted by one gradient step of a softmax over the catalogue, as functions of tensors.

A tower scores item i by z . e_i, z [D + 1] the entity's vector and e_i [D + 1] the item's; the last coordinate of e_i
is its popularity logit, that of z the scale of popularity, which the step leaves as it is. H towers stand side by
side: z [T, H, D + 1], vectors [H, C, D + 1]. `body` is what `tower_body` makes of the parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import FIRST, FloatArray, Interactions, Params, State, Support
from recsys_meta.models.functional.embeddings import catalogue_features, embed_fields, select_fields
from recsys_meta.models.functional.interpolation import SIZE_KNOTS, support_size_weights
from recsys_meta.models.functional.losses import softmax_loss
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items
from recsys_meta.models.functional.sampled_softmax import sampled_softmax_loss


def stacked_item_vectors(params: Params) -> Tensor:
    """Item vectors of all towers side by side, [C, H D]: an item's own plus those of its features."""
    features = select_fields(params, "items", catalogue_features(params))
    return torch.stack([params["item"], *embed_fields(params, "items", features)]).sum(0)


def tower_body(params: Params, vectors: Tensor, towers: int) -> Params:
    """The parameters without the items' tables, and vectors [H, C, D + 1] from item vectors [C, H D]."""
    body = {k: v for k, v in params.items() if not k.startswith(("catalogue.", "items.")) and k != "item"}
    split = vectors.reshape(len(vectors), towers, -1).transpose(0, 1)
    return body | {"vectors": torch.cat([split, params["popularity"][:, :, None]], 2).contiguous()}


def size_weights(counts: Tensor) -> Tensor:
    """Weights [T, K] of the support sizes at which step, start and popularity scale have values of their own."""
    return support_size_weights(counts, SIZE_KNOTS)


def start_vectors(body: Params, support: Support, knots: Tensor) -> Tensor:
    """Start z [T, H, D + 1] of T entities, from their features and the weights [T, K] of their support sizes."""
    towers, _, width = body["vectors"].shape
    start = body["start"] + knots @ body["start_by_size"]
    features = select_fields(body, "entity", support.features)
    z = torch.stack([start, *embed_fields(body, "entity", features)]).sum(0)
    scale = knots @ body["popularity_by_size"]
    return torch.cat([z.reshape(-1, towers, width - 1), scale[:, :, None]], 2)


def step_rates(body: Params, knots: Tensor) -> Tensor:
    """Step sizes a(n) [T, H, D], from the weights [T, K] of the support sizes."""
    towers, _, width = body["vectors"].shape
    return (knots @ body["log_step"]).exp().reshape(-1, towers, width - 1)


def item_probabilities(body: Params, z: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [H, T, N] of the items that the softmax is over, and their vectors [H, N, D + 1].

    The items are the catalogue or, where the body has a pool of sampled negatives, the pool.
    """
    vectors = body["vectors"][:, body["pool"]] if "pool" in body else body["vectors"]
    return torch.softmax(_softmax_logits(body, torch.einsum("thd,hcd->htc", z, vectors)), 2), vectors


def _softmax_logits(body: Params, logits: Tensor) -> Tensor:
    """Logits of the items that a softmax is over: all but the reserved ids, or the pool less log q."""
    if "pool" in body:
        return logits - body["log_q"][body["pool"]]
    return mask_reserved_ids(logits)


def gradient_step(body: Params, rows: Interactions, z: Tensor, knots: Tensor) -> Tensor:
    """Step [T, H, D + 1]: a(n) times the negative gradient of the support's mean softmax loss at z; 0 without rows."""
    weight = rows.mask / rows.counts.clamp(min=1)[:, None]
    probability, vectors = item_probabilities(body, z)
    if "pool" in body:
        residual = torch.einsum("ts,htsd->htd", weight, body["vectors"][:, rows.item]) - probability @ vectors
    else:
        # Observed less expected frequency of each item: both sums over vectors become one product.
        frequency = torch.zeros_like(probability[0]).scatter_add(1, rows.item, weight)
        residual = (frequency - probability) @ vectors
    step = step_rates(body, knots) * residual.transpose(0, 1)[:, :, :-1]
    return functional.pad(step * rows.mask.any(1)[:, None, None], (0, 1))


def step_from_start(body: Params, start: State, support: Support) -> State:
    """z after the step of `gradient_step`, from a precomputed start: z, expected [T, H, D + 1] and rate [T, H, D]; and
    the support's item [T, S] and size [T]. With a push_rate [T, H, D] a step away from the dislikes is taken as well.

    An entity's numbers do not depend on the others of the batch. Not for training: there one product for both sums is
    twice as fast.
    """
    # In NumPy: for one entity its operations cost a third of torch's, and it adds rows up one after another.
    item = support.rows.item.numpy()
    mask = support.rows.mask.numpy() & (item >= FIRST)
    size, z = mask.sum(1), start["z"].numpy()
    if item.shape[1]:
        mean = _mean_vectors(body["vectors"].numpy(), item, mask, size)
        step = start["rate"].numpy() * (mean - start["expected"].numpy()[:, :, :-1])
        z = z.copy()
        z[:, :, :-1] += step * (size > 0)[:, None, None]
    if "push_rate" in start and support.dislikes is not None and support.dislikes.item.shape[1]:
        disliked = support.dislikes.item.numpy()
        met = support.dislikes.mask.numpy() & (disliked >= FIRST)
        mean = _mean_vectors(body["vectors"].numpy(), disliked, met, met.sum(1))
        z = z.copy()
        z[:, :, :-1] -= start["push_rate"].numpy() * (mean - start["expected"].numpy()[:, :, :-1])
    return {"z": torch.from_numpy(z), "item": torch.from_numpy(item * mask), "size": torch.from_numpy(size)}


def _mean_vectors(vectors: FloatArray, item: np.ndarray, mask: np.ndarray, size: np.ndarray) -> FloatArray:
    """Mean [T, H, D] of the vectors of each support's items; 0 without rows."""
    rows = vectors[:, item, :-1]
    if not mask.all():
        rows *= mask[:, :, None]
    mean: FloatArray = rows.sum(2).transpose(1, 0, 2) / np.maximum(size, 1).astype(np.float32)[:, None, None]
    return mean


def query_loss(body: Params, z: Tensor, tower: int, query: Interactions, support_item: Tensor) -> Tensor:
    """Softmax loss [T] of the query's rows under z [T, D + 1] of one tower; items of the support are no candidates.

    With a pool the loss is the sampled softmax's, which cannot leave out items of the support.
    """
    vectors = body["vectors"][tower]
    if "pool" in body:
        positive = torch.einsum("td,tqd->tq", z, vectors[query.item])
        negative = z @ vectors[body["pool"]].T
        positive_log_q = body["log_q"][query.item].masked_fill(~query.mask, 0.0)
        return sampled_softmax_loss(positive, negative, query, body["log_q"][body["pool"]], positive_log_q)
    logits = _softmax_logits(body, z @ vectors.T)
    return softmax_loss(*mask_support_items(logits, support_item, query))
