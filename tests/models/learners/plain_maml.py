"""MAML in its plain form: each task has a copy of every weight that it adapts, and autograd finds the inner gradient.

The oracle of `maml`, which has neither: slow, short, and free of its code but for the parameters and the embeddings.
"""

from __future__ import annotations

import torch

from recsys_meta.models.functional.losses import logistic_loss, mean_over_tasks, softmax_loss, squared_error
from recsys_meta.models.functional.masking import mask_reserved_ids, mask_support_items, mask_unknown_items
from recsys_meta.models.functional.sampled_softmax import draw_negatives, sampled_softmax_loss
from recsys_meta.models.learners.maml import scorer


def plain_meta_loss(learner, params, batch, generator, rate_of=None):
    """Query loss after adapting, without dropout; gradients pass to the parameters by `backward`."""
    config = learner.config
    assert not config.dropout, "the oracle has none"
    vectors = scorer.item_vectors(config, params)
    if config.constant:
        vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
    negatives = draw_negatives(params["log_q"], config.negatives, generator) if "negatives" in params else None
    rows, query = batch.support.rows, batch.query
    if config.objective == "ranking":
        rows, query = mask_unknown_items(rows), mask_unknown_items(query)
    fast = adapted(learner, params, vectors, negatives, batch.support, rows, rate_of or shared_rate)
    losses = _loss(config, params, vectors, negatives, fast, query, rows)
    weight = query.counts.to(losses.dtype) ** config.size_weight * query.mask.any(1)
    return mean_over_tasks(losses, weight)


def shared_rate(learner, params, key, step):
    """Inner rate of a fast weight."""
    name = "entity" if key == "z" else "rows" if key == "table" else "head"
    rate = params[f"rate.{name}"].exp()
    if key == "z" and learner.config.constant:
        width = learner.config.dims
        return torch.cat([rate.expand(width), params["rate.level"].exp()[None]])
    return rate


def adapted(learner, params, vectors, negatives, support, rows, rate_of=shared_rate):
    """Fast weights of each task: z [T, Z], the layers [T, ...], and the whole table of item vectors [T, C, V]."""
    config, tasks = learner.config, support.size
    fast = {"z": scorer.entity_vectors(config, params, support)}
    fast |= {k: v.expand(tasks, *v.shape) for k, v in params.items() if k.startswith("head.")}
    fast["table"] = vectors.expand(tasks, *vectors.shape)
    part_of = {k: {"z": "entity", "table": "rows"}.get(k, k.rpartition(".")[0]) for k in fast}
    moving = [k for k in fast if part_of[k] in config.parts]
    # Of the vectors those of the support's items adapt, though a softmax over the catalogue has a gradient in all.
    own = torch.zeros(tasks, len(vectors), 1, dtype=vectors.dtype)
    own.scatter_(1, (rows.item * rows.mask)[:, :, None], 1.0)[:, 0] = 0
    for step in range(config.steps):
        if config.order == 1:
            leaves = {k: v.detach().requires_grad_() for k, v in fast.items()}
            still = {k: v.detach() for k, v in params.items()}
            loss = _loss(config, still, vectors.detach(), negatives, leaves, rows).sum()
        else:
            leaves = {k: v if v.requires_grad else v.detach().requires_grad_() for k, v in fast.items()}
            loss = _loss(config, params, vectors, negatives, leaves, rows).sum()
        gradients = torch.autograd.grad(loss, [leaves[k] for k in moving], create_graph=config.order == 2)
        for key, gradient in zip(moving, gradients, strict=True):
            rate = rate_of(learner, params, key, step)
            mask = own if key == "table" else 1
            fast[key] = (leaves if config.order == 2 else fast)[key] - rate * mask * gradient
    return fast


def _loss(config, params, vectors, negatives, fast, rows, support=None):
    """Loss [T]. Sampled negatives are shared by all tasks: their vectors are nobody's own."""
    bias = params["bias"] if config.item_bias else torch.zeros(len(vectors), dtype=vectors.dtype)
    tasks = len(fast["z"])
    e = fast["table"].gather(1, rows.item[:, :, None].expand(-1, -1, vectors.shape[1]))
    if config.objective == "ranking" and not config.negatives:
        logits = mask_reserved_ids(_scores(config, fast, fast["table"]) + bias)
        if support is not None:
            logits, rows = mask_support_items(logits, support.item * support.mask, rows)
        return softmax_loss(logits, rows)
    scores = _scores(config, fast, e) + bias[rows.item]
    if config.objective != "ranking":
        return {"rating": squared_error, "click": logistic_loss}[config.objective](scores, rows)
    others = _scores(config, fast, vectors[negatives].expand(tasks, -1, -1)) + bias[negatives]
    log_q = params["log_q"]
    return sampled_softmax_loss(scores, others, rows, log_q[negatives], log_q[rows.item].masked_fill(~rows.mask, 0.0))


def _scores(config, fast, e):
    """Scores [T, R] of item vectors e [T, R, V], over concatenated pairs."""
    z = fast["z"]
    if not config.hidden:
        return (e @ z[:, :, None]).squeeze(2)
    x = torch.cat([z[:, None].expand(-1, e.shape[1], -1), e], 2)
    for i in range(len(config.hidden) + 1):
        x = x @ fast[f"head.{i}.weight"] + fast[f"head.{i}.bias"][:, None]
        x = torch.relu(x) if i < len(config.hidden) else x
    return x.squeeze(2)
