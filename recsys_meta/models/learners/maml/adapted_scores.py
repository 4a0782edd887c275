"""Scores of query rows under a perceptron whose layers each task has adapted, and their gradient written out.

The same numbers as steps of `perceptron_descent` followed by scores, where all layers move at one rate and what is
learned from is a rating or a click of each row. There the inputs of the first layer are the same in each step. What it
saves is autograd's record of some hundred small operations.

A step adds X' D to a layer, with X the inputs of its support rows and D the scaled gradients in its outputs. With V the
outer gradient in the layer after the step, the gradient of what the step did is a derivative of the support loss's
gradient along V (Pearlmutter 1994): one more pass forward over the support rows, with X V beside what comes from below,
and one back. V too is a sum of products of a few rows, or spelt out: it has the form of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.functional import task_layers
from recsys_meta.models.functional.batched_products import products, row_products
from recsys_meta.models.functional.task_layers import LowRankLayer
from recsys_meta.models.learners.maml import task_loss
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.learners.maml.layer_direction import LayerDirection, add_linear_part, rate_gradient
from recsys_meta.models.learners.maml.perceptron import (
    ActivationTrace,
    LayerGradients,
    Perceptron,
    layer_name,
    start_perceptron,
)
from recsys_meta.models.learners.maml.scorer import ScorerConfig


def has_written_out_gradient(
    config: ScorerConfig, body: Params, rows: Interactions, steps: Sequence[InnerStep]
) -> bool:
    """True if steps on rows [T, S] are of the kind that `adapted_scores` knows: all layers move, and nothing else, at
    one rate that is the same in each step, and the first layer's change is smaller than its weights."""
    if config.objective == "ranking" or "first.item" not in body or not steps or not rows.item.shape[1]:
        return False
    step = steps[0]
    rates = list(step.rates.values())
    layers = {layer_name(i) for i in range(len(config.hidden) + 1)}
    return (
        step.rates.keys() == layers
        and step.keep is None
        and all(other is step for other in steps)
        and all(rate is rates[0] for rate in rates)
        and not rates[0].dim()
        and task_layers.is_dual_smaller(body["first.item"], rows.item.shape[1])
    )


def adapted_scores(
    config: ScorerConfig,
    body: Params,
    z: Tensor,
    rows: Interactions,
    query: Tensor,
    steps: Sequence[InnerStep],
    *,
    first_order: bool = False,
) -> tuple[Tensor, State]:
    """Scores [T, Q] of query items [T, Q] after steps on rows [T, S], and the state, from which no gradient passes.

    z [T, Z] are the entities' vectors. In `first_order` the steps are constants to the outer gradient, but for their
    rate.
    """
    rate = next(iter(steps[0].rates.values()))
    offset = body["bias"][rows.item] if config.item_bias else None
    with torch.no_grad():
        descent = _descend(config, body, z, rows, query, rate, offset, len(steps), first_order)
        trace = descent.network.trace(descent.query_outputs())
        state = {"z": z.detach()} | descent.leaves()
    count = len(config.hidden) + 1
    upper = [body[f"head.{i}.{part}"] for i in range(1, count) for part in ("weight", "bias")]
    first = [body["vectors"], z, body["first.entity"], body["first.item"], body["head.0.bias"]]
    scores: Tensor = _Scores.apply(descent, trace.inputs, trace.scores, rate, offset, *first, *upper)  # type: ignore[no-untyped-call]
    if config.item_bias:
        scores = scores + body["bias"][query]
    return scores, state


class _SupportPass(NamedTuple):
    """Record of a step: layers, the sum of the steps of the first layer before it [T, S, H] (None before the first),
    activations, and, times minus the rate, gradients and the loss's second derivative in the scores [T, S]."""

    network: Perceptron
    before: Tensor | None
    trace: ActivationTrace
    deltas: LayerGradients
    curvature: Tensor | None


@dataclass(frozen=True)
class _Descent:
    """Steps of T tasks, and what their gradient needs.

    vectors [C, V]; item [T, S + Q]; z [T, Z]; e [T, S + Q, V], the vectors of the items; base [T, S + Q, H], the first
    layer's outputs before any step; support_gram [T, S, S] (None where one step is all) and query_gram [T, Q, S],
    products of whole inputs; deltas [T, S, H], the sum of the first layer's steps; network, with the other layers as
    they are after all steps.
    """

    vectors: Tensor
    item: Tensor
    z: Tensor
    e: Tensor
    base: Tensor
    support_gram: Tensor | None
    query_gram: Tensor
    rate: Tensor
    network: Perceptron
    first_order: bool
    deltas: Tensor
    passes: tuple[_SupportPass, ...] = ()

    @property
    def support_size(self) -> int:
        return self.query_gram.shape[2]

    def query_outputs(self) -> Tensor:
        """Outputs [T, Q, H] of the first layer for the query."""
        return torch.baddbmm(self.base[:, self.support_size :], self.query_gram, self.deltas)

    def leaves(self) -> State:
        """Leaves of a state, as those of `Perceptron`."""
        entity, item, count = self.network.entity, self.network.item, self.support_size
        assert item is not None
        total = self.deltas.sum(1, keepdim=True)
        return replace(
            self.network,
            entity=LowRankLayer(entity.weight, entity.bias, self.z.detach()[:, None], total),
            item=LowRankLayer(item.weight, None, self.e[:, :count], self.deltas),
        ).leaves()


def _descend(
    config: ScorerConfig,
    body: Params,
    z: Tensor,
    rows: Interactions,
    query: Tensor,
    rate: Tensor,
    offset: Tensor | None,
    steps: int,
    first_order: bool,
) -> _Descent:
    count = rows.item.shape[1]
    rates = {layer_name(i): rate for i in range(len(config.hidden) + 1)}
    network = start_perceptron(body, len(z), count, steps, rates, [layer_name(0)])
    item = torch.cat([rows.item, query], 1)
    e = functional.embedding(item, body["vectors"])
    assert network.item is not None, "it adapts"
    # Items meet several tasks: where there are fewer of them than rows, the layer is applied to them.
    is_shared = len(body["vectors"]) <= item.numel()
    first = functional.embedding(item, network.item.apply(body["vectors"])) if is_shared else network.item.apply(e)
    base, support = first.add_(network.entity.apply(z[:, None])), e[:, :count].transpose(1, 2)
    # The rows of a task have z and the bias in common.
    common = (z.square().sum(1) + 1)[:, None, None]
    support_gram = torch.baddbmm(common, e[:, :count], support) if steps > 1 else None
    query_gram = torch.baddbmm(common, e[:, count:], support)
    weight = task_loss.row_weights(rows, e.dtype) * -rate
    passes: list[_SupportPass] = []
    total: Tensor | None = None
    for _ in range(steps):
        first = base[:, :count]
        if total is not None and support_gram is not None:
            first = torch.baddbmm(first, support_gram, total)
        trace = network.trace(first)
        scores = trace.scores if offset is None else trace.scores + offset
        deltas = network.backward(task_loss.score_gradient(config, body, rows, weight, scores)[0], trace)
        assert deltas.first is not None, "of all layers"
        # Without a gradient through the steps it is not asked for.
        curvature = None if first_order else task_loss.score_curvature(config, weight, scores)
        passes.append(_SupportPass(network, total, trace, deltas, curvature))
        total = deltas.first if total is None else total + deltas.first
        network = network.step_upper(trace, deltas.upper, [None] * len(deltas.upper))
    assert total is not None, "there is a step"
    return _Descent(
        body["vectors"], item, z, e, base, support_gram, query_gram, rate, network, first_order, total, tuple(passes)
    )


class _Scores(Function):
    """The query's scores, which are known; the tensors are those that a gradient reaches."""

    @staticmethod
    def forward(
        ctx: Any, descent: _Descent, inputs: tuple[Tensor, ...], scores: Tensor, *tensors: Tensor | None
    ) -> Tensor:
        ctx.descent, ctx.inputs, ctx.has_offset = descent, inputs, tensors[1] is not None
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = _scores_backward(ctx.descent, ctx.inputs, gradients[0])
        offset = found.offset if ctx.has_offset else None
        upper = [x for direction in found.upper for x in direction.total()]
        return None, None, None, found.rate, offset, *_first_layer_gradients(ctx.descent, found), *upper


class _OuterGradients(NamedTuple):
    """Outer gradients: of the rate, of the scores of the support [T, S], of the layers after the first, in the first
    layer's outputs for the support [T, S, H] and the query [T, Q, H], and in the products of inputs."""

    rate: Tensor
    offset: Tensor | None
    upper: list[LayerDirection]
    support: Tensor | None
    query: Tensor
    support_gram: Tensor | None
    query_gram: Tensor


def _scores_backward(descent: _Descent, inputs: tuple[Tensor, ...], gradient: Tensor) -> _OuterGradients:
    """Gradients from that in the query's scores [T, Q], whose layers after the first had these inputs."""
    end = descent.network
    of_query = end.backward(gradient, ActivationTrace(gradient, inputs))
    query = of_query.first
    assert query is not None
    upper = [
        LayerDirection.of(layer, x, g)
        for layer, x, g in zip(end.upper, inputs, of_query.upper, strict=True)
        if g is not None
    ]
    query_gram = row_products(query, descent.deltas)
    along = products(descent.query_gram.transpose(1, 2), query)
    if descent.first_order:
        rate = (along * descent.deltas).sum()
        for layer, direction in zip(end.upper, upper, strict=True):
            rate = rate + rate_gradient(layer, direction)
        return _OuterGradients(rate / descent.rate, None, upper, None, query, None, query_gram)
    rate, offset = gradient.new_zeros(()), torch.zeros_like(descent.passes[0].trace.scores)
    support: Tensor | None = None
    support_gram: Tensor | None = None
    for step in reversed(descent.passes):
        change = along
        if support is not None and descent.support_gram is not None:
            change = torch.baddbmm(along, descent.support_gram, support)
        last = step.deltas.upper[-1]
        assert step.curvature is not None and last is not None, "of all layers, in second order"
        changes, of_scores = _forward_along(step, upper, change)
        rate = rate + (of_scores * last.squeeze(-1)).sum()
        of_scores = of_scores * step.curvature
        offset = offset + of_scores
        of_first, upper = _backward_along(step, upper, changes, of_scores[..., None])
        support = of_first if support is None else support + of_first
        if step.before is not None:
            of_gram = row_products(of_first, step.before)
            support_gram = of_gram if support_gram is None else support_gram + of_gram
    return _OuterGradients(rate / descent.rate, offset, upper, support, query, support_gram, query_gram)


def _forward_along(step: _SupportPass, upper: Sequence[LayerDirection], change: Tensor) -> tuple[list[Tensor], Tensor]:
    """Changes of the inputs of the layers after the first, and of the scores [T, S], along the directions, from the
    change of the first layer's outputs [T, S, H]."""
    changes = []
    for layer, direction, x in zip(step.network.upper, upper, step.trace.inputs, strict=True):
        changes.append(torch.ops.aten.threshold_backward(change, x, 0))
        change = add_linear_part(layer, direction.apply(x), changes[-1])
    return changes, change.squeeze(-1)


def _backward_along(
    step: _SupportPass, upper: Sequence[LayerDirection], changes: Sequence[Tensor], gradient: Tensor
) -> tuple[Tensor, list[LayerDirection]]:
    """Outer gradient in the first layer's outputs [T, S, H], and in the layers after it before the step, from that in
    the scores [T, S, 1]."""
    before = []
    layers = zip(step.network.upper, upper, step.trace.inputs, changes, step.deltas.upper, strict=True)
    for layer, direction, x, change, delta in reversed(list(layers)):
        assert delta is not None, "of all layers"
        before.append(direction.add(x, gradient, change, delta))
        below = direction.add_backward(layer.backward(gradient), delta)
        gradient = torch.ops.aten.threshold_backward(below, x, 0)
    return gradient, before[::-1]


def _first_layer_gradients(descent: _Descent, found: _OuterGradients) -> tuple[Tensor, ...]:
    """Gradients in the item vectors, z, and the first layer's entity part, item part and bias."""
    count, entity, item = descent.support_size, descent.network.entity.weight, descent.network.item
    assert item is not None, "it adapts"
    support, query = descent.e[:, :count], descent.e[:, count:]
    by_gram = products(found.query_gram, support)
    common = found.query_gram.sum((1, 2))
    if found.support is None:  # first order: the support's inputs are constants
        rows, ids, e = found.query, descent.item[:, count:], query
    else:
        rows, ids, e = torch.cat([found.support, found.query], 1), descent.item, descent.e
        of_support = products(found.query_gram.transpose(1, 2), query)
        if found.support_gram is not None:
            both = found.support_gram + found.support_gram.transpose(1, 2)
            of_support = torch.baddbmm(of_support, both, support)
            common = common + found.support_gram.sum((1, 2))
        by_gram, common = torch.cat([of_support, by_gram], 1), 2 * common
    size = len(descent.vectors)
    if size <= ids.numel():
        of_items = _sum_by_item(rows, ids, size)
        vectors = _sum_by_item(by_gram, ids, size).addmm_(of_items, item.weight.T)
        of_weight = descent.vectors.T @ of_items
    else:
        flat = rows.flatten(0, 1)
        vectors = _sum_by_item((flat @ item.weight.T).view(e.shape).add_(by_gram), ids, size)
        of_weight = e.flatten(0, 1).T @ flat
    of_tasks = rows.sum(1)
    of_z = torch.addmm(descent.z * common[:, None], of_tasks, entity.T)
    return vectors, of_z, descent.z.T @ of_tasks, of_weight, of_tasks.sum(0)


def _sum_by_item(rows: Tensor, item: Tensor, size: int) -> Tensor:
    """Sums [size, H] of the rows [T, R, H] of each item [T, R]."""
    sums: Tensor = torch.ops.aten.embedding_dense_backward(rows, item, size, -1, False)
    return sums
