"""The inner loop of MAML and of the methods that vary it: steps down the support loss, their gradients written out.

A state holds z [T, Z]; where the layers adapt, the leaves of `perceptron`; where item vectors adapt, the support's
items `rows.item` [T, S] (0: none) and the changes of their vectors, `rows.change` [T, S, V]. Steps can go on from the
state of earlier ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.learners.maml import perceptron_descent, scorer, task_loss
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.perceptron import perceptron_of
from recsys_meta.models.learners.maml.scorer import ScorerConfig

LEAVES = {"entity": "z", "rows": "rows.change"}
"""Leaves of a state that parts other than layers are."""


def descend(
    config: ScorerConfig,
    body: Params,
    state: State,
    rows: Interactions,
    steps: Sequence[InnerStep],
    *,
    first_order: bool = False,
) -> State:
    """State after steps of gradient descent on the support loss of rows [T, S].

    Nothing here needs autograd. Where it records, an outer gradient goes through the steps; in `first_order` the
    gradients are constants to it, and it reaches what was there before the steps, and the rates.
    """
    run = perceptron_descent.descend_perceptron if config.hidden else _descend_dot
    if not first_order:
        return run(config, body, state, rows, steps)
    for _, alike in itertools.groupby(steps, key=id):
        some = list(alike)
        with torch.no_grad():
            end = run(config, body, state, rows, some)
        state = _constant_steps(config, body, state, end, some[0].rates)
    return state


def _constant_steps(config: ScorerConfig, body: Params, start: State, end: State, rates: Mapping[str, Tensor]) -> State:
    """The state `end` of steps that are constants to an outer gradient, which reaches the start and the rates."""
    units = {part: rate / rate.detach() for part, rate in rates.items()}
    ones = {LEAVES[part]: unit for part, unit in units.items() if part in LEAVES}
    state = dict(start) | {k: start[k] + (end[k] - start[k].detach()) * unit for k, unit in ones.items()}
    if config.hidden:
        state |= perceptron_of(body, start).constant_steps(perceptron_of(body, end), units).leaves()
    return state


def _descend_dot(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep]
) -> State:
    start = state
    for step in steps if rows.item.shape[1] else []:
        gradient = loss_gradient(config, body, state, rows, "rows" in step.rates)
        after = dict(state)
        for part, rate in step.rates.items():
            key = LEAVES[part]
            before = state[key] if step.keep is None else start[key] + (state[key] - start[key]) * step.keep
            after[key] = before - rate * gradient[key]
        state = after
    return state


def entity_gradient(config: ScorerConfig, body: Params, state: State, rows: Interactions) -> Tensor:
    """Gradient [T, Z] of the support loss of rows [T, S] in z, where nothing else adapts; 0 without rows."""
    if config.hidden:
        return perceptron_descent.entity_gradient(config, body, state, rows)
    return loss_gradient(config, body, state, rows)["z"]


def loss_gradient(config: ScorerConfig, body: Params, state: State, rows: Interactions, of_rows: bool = False) -> State:
    """Gradient of a dot product's support loss in z and, `of_rows`, in the changes of the item vectors."""
    if config.objective == "ranking" and not config.negatives:
        return _softmax_gradient(config, body, state, rows, of_rows)
    z, e = state["z"], task_loss.row_vectors(body, state, rows.item)
    scores = task_loss.add_item_bias(config, body, rows.item, scorer.pair_scores(config, body, state, e))
    ranking = config.objective == "ranking"
    others = [task_loss.shared_item_scores(config, body, state, body["negatives"])] if ranking else []
    weight = task_loss.row_weights(rows, e.dtype, state)
    own, *other = task_loss.score_gradient(config, body, rows, weight, scores, *others)
    gradient = {"z": torch.einsum("ts,tsv->tv", own, e)}
    for delta in other:
        gradient["z"] = gradient["z"] + delta @ functional.embedding(body["negatives"], body["vectors"])
    if of_rows:
        slots = torch.einsum("ts,tsk->tk", own, task_loss.is_slot(state, rows.item, e.dtype)) * (state["rows.item"] > 0)
        gradient["rows.change"] = slots[:, :, None] * z[:, None]
    return gradient


def _softmax_gradient(config: ScorerConfig, body: Params, state: State, rows: Interactions, of_rows: bool) -> State:
    """The gradient under a softmax over the catalogue: in z it is E_p[e] less the mean of e."""
    z, vectors = state["z"], body["vectors"]
    weight = task_loss.row_weights(rows, vectors.dtype, state)
    # Equal weights add up to 1 but for rounding, by which a batch would differ from its tasks.
    total = weight.sum(1, keepdim=True) if "rows.weight" in state else rows.mask.any(1, keepdim=True)
    probability = torch.softmax(task_loss.catalogue_logits(config, body, state), 1)
    if not of_rows:
        mean = torch.einsum("ts,tsv->tv", weight, functional.embedding(rows.item, vectors))
        return {"z": (probability @ vectors) * total - mean}
    surplus = (probability * total).scatter_add(1, rows.item, -weight)  # [T, C]
    slots = surplus.gather(1, state["rows.item"]) * (state["rows.item"] > 0)
    gradient = surplus @ vectors + torch.einsum("tk,tkv->tv", slots, state["rows.change"])
    return {"z": gradient, "rows.change": slots[:, :, None] * z[:, None]}
