"""Perceptron on [z; e], its layers adapted by each task, and the gradient of a loss in them, written out.

The first layer is two, one for z [T, Z] with the bias and one for e, so that pairs are never materialized before it.
Their steps are kept as `functional.task_layers` has it: no weight is copied for each task unless that is smaller.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.task_layers import (
    LowRankLayer,
    OwnLayer,
    SharedLayer,
    TaskLayer,
    constant_steps,
    layer_of,
    start_layer,
)

ENTITY, ITEM = "head.0.entity", "head.0.item"
"""Names of the two parts of the first layer among the leaves of a state."""


class ActivationTrace(NamedTuple):
    """Scores [T, R] of rows, and the inputs [T, R, H] of each layer after the first."""

    scores: Tensor
    inputs: tuple[Tensor, ...]


class LayerGradients(NamedTuple):
    """Gradients in the outputs of the layers: first [T, R, H], upper [T, R, out] each; None where nothing that adapts
    needs them."""

    first: Tensor | None
    upper: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Perceptron:
    """The layers of T tasks; item is None where e is the output of the item part, which no task adapts."""

    entity: TaskLayer
    item: TaskLayer | None
    upper: tuple[TaskLayer, ...]

    @property
    def layers(self) -> list[TaskLayer]:
        """All layers, the first in its two parts."""
        return [self.entity, *([] if self.item is None else [self.item]), *self.upper]

    def scores(self, z: Tensor, e: Tensor) -> Tensor:
        """Scores [T, R] of e [T, R, V] or, the same for all tasks, [R, V]."""
        return self.trace(self.first(z, e)).scores

    def first(self, z: Tensor, e: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Outputs [T, R + N, H] of the first layer for rows e [T, R, V] or [R, V] and, after them, rows of all tasks,
        negatives [N, V]."""
        item = e if self.item is None else self.item.apply(e)
        if negatives is not None:
            other = negatives if self.item is None else self.item.apply(negatives)
            item = torch.cat([item, other.expand(len(item), *other.shape[-2:])], 1)
        return self.entity.apply(z[:, None]) + item

    def trace(self, first: Tensor, known: tuple[Tensor, ...] = ()) -> ActivationTrace:
        """Apply the layers after the first to its outputs [T, R, H]. `known` are the inputs of the lowest of them where
        these are known from before; then the outputs are not read."""
        inputs = list(known) or [torch.relu(first)]
        for layer in self.upper[len(inputs) - 1 : -1]:
            inputs.append(torch.relu_(layer.apply(inputs[-1])))
        return ActivationTrace(self.upper[-1].apply(inputs[-1]).squeeze(-1), tuple(inputs))

    def backward(self, gradient: Tensor, trace: ActivationTrace, lowest: int = 0) -> LayerGradients:
        """Gradients in the outputs of the layers from number `lowest` on, from that in the scores [T, R]."""
        gradients: list[Tensor | None] = [gradient[..., None]]
        x = gradient[..., None]
        for i in range(len(self.upper) - 1, lowest - 1, -1):
            # Of a mask, made and multiplied, the same would take ten times as long.
            x = torch.ops.aten.threshold_backward(self.upper[i].backward(x), trace.inputs[i], 0)
            gradients.append(x)
        gradients += [None] * lowest
        return LayerGradients(gradients[-1], tuple(reversed(gradients[:-1])))

    def step_first(
        self, z: Tensor, e: Tensor, negatives: Tensor | None, delta: Tensor, rate: Tensor | None = None
    ) -> Perceptron:
        """The perceptron after a step of the first layer on z [T, Z], e [T, R, V] and negatives [N, V] or None.

        delta [T, R + N, H] is the gradient in its outputs times minus the rate; `rate` multiplies it, a number or
        [Z + V + 1, H].
        """
        assert self.item is not None, "it adapts with the other layers"
        of_entity, of_item = (None, None) if rate is None else _split_rate(rate, z.shape[1])
        entity = self.entity.step(z[:, None], delta.sum(1, keepdim=True), of_entity)
        if negatives is None:
            return replace(self, entity=entity, item=self.item.step(e, delta, of_item))
        own, other = torch.split(delta, [e.shape[1], len(negatives)], 1)
        return replace(self, entity=entity, item=self.item.step(e, own, of_item).step(negatives, other, of_item))

    def step_upper(
        self, trace: ActivationTrace, deltas: Sequence[Tensor | None], rates: Sequence[Tensor | None]
    ) -> Perceptron:
        """The perceptron after a step of the layers after the first that have a delta; each with its rate, if the delta
        is to be multiplied."""
        layers = zip(self.upper, trace.inputs, deltas, rates, strict=True)
        upper = tuple(layer if delta is None else layer.step(x, delta, rate) for layer, x, delta, rate in layers)
        return Perceptron(self.entity, self.item, upper)

    def keep(self, share: Tensor) -> Perceptron:
        """The perceptron that keeps this share of what the steps changed."""
        item = None if self.item is None else self.item.keep(share)
        return Perceptron(self.entity.keep(share), item, tuple(layer.keep(share) for layer in self.upper))

    def constant_steps(self, end: Perceptron, units: Mapping[str, Tensor]) -> Perceptron:
        """The perceptron `end` after steps from this one that are constants to an outer gradient, but for the units of
        the layers that moved; see `task_layers.constant_steps`."""
        first = units.get(layer_name(0))
        entity, item = self.entity, self.item
        if first is not None:
            of_entity, of_item = _split_rate(first, end.entity.weight.shape[-2])
            entity = constant_steps(entity, end.entity, of_entity)
            item = None if item is None or end.item is None else constant_steps(item, end.item, of_item)
        upper = tuple(
            constant_steps(a, b, units[layer_name(i)]) if layer_name(i) in units else a
            for i, (a, b) in enumerate(zip(self.upper, end.upper, strict=True), 1)
        )
        return Perceptron(entity, item, upper)

    def leaves(self) -> State:
        """Leaves of a state: name -> tensor with a leading T."""
        layers = [(ENTITY, self.entity), *((ITEM, x) for x in [self.item] if x is not None)]
        layers += [(f"head.{i}", layer) for i, layer in enumerate(self.upper, 1)]
        return {f"{name}.{k}": v for name, layer in layers for k, v in layer.leaves().items()}

    def change(self) -> Tensor:
        """Squared length [T] of what the steps changed in all layers."""
        return sum((layer.change() for layer in self.layers), self.entity.change().new_zeros(1))

    def spell_out(self) -> Perceptron:
        """Make weights for each task in the layers that tasks adapt."""
        item = None if self.item is None else _spell_out(self.item)
        return Perceptron(_spell_out(self.entity), item, tuple(_spell_out(layer) for layer in self.upper))


def perceptron_of(body: Params, state: State) -> Perceptron:
    """The perceptron of a state; layers without leaves are those of the body."""
    entity, item, *upper = _weights(body)
    parts: tuple[TaskLayer, TaskLayer | None]
    if "head.0.weight" in state:  # spelt out as one layer, as in states of earlier releases
        split, weight = state["z"].shape[1], state["head.0.weight"]
        parts = OwnLayer(weight[:, :split], state["head.0.bias"]), OwnLayer(weight[:, split:], None)
    else:
        item_layer = None if item is None else layer_of(_leaves_of(state, ITEM), *item)
        parts = layer_of(_leaves_of(state, ENTITY), *entity), item_layer
    return Perceptron(*parts, tuple(layer_of(_leaves_of(state, f"head.{i}"), *w) for i, w in enumerate(upper, 1)))


def layer_name(i: int) -> str:
    """Name of layer number i among the parts that adapt."""
    return f"head.{i}"


def start_perceptron(
    body: Params, tasks: int, rows: int, steps: int, rates: Mapping[str, Tensor], constant_inputs: Collection[str] = ()
) -> Perceptron:
    """Perceptron of T tasks before the first of `steps` steps on `rows` rows each, at the rates of the parts that
    adapt. `constant_inputs` names layers whose inputs are the same in each step."""
    entity, item, *upper = _weights(body)

    def start(i: int, weight: Tensor, bias: Tensor | None, count: int) -> TaskLayer:
        name = layer_name(i)
        if name not in rates:
            return SharedLayer(weight, bias)
        times = 1 if name in constant_inputs else steps
        return start_layer(weight, bias, tasks, times * count, has_own_rates=rates[name].dim() == 2)

    return Perceptron(
        start(0, *entity, 1),
        None if item is None else start(0, *item, rows),
        tuple(start(i, *both, rows) for i, both in enumerate(upper, 1)),
    )


def _split_rate(rate: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rates of the entity part, its bias last, and of the item part, from those [Z + V + 1, H] of the first layer."""
    if not rate.dim():
        return rate, rate
    return torch.cat([rate[:width], rate[-1:]]), rate[width:-1]


Weights = tuple[Tensor, Tensor | None]


def _weights(body: Params) -> tuple[Weights, Weights | None, *tuple[Weights, ...]]:
    """Weight and bias of the entity part, the item part, and the layers after the first.

    Where no task adapts the first layer the body has no weights of the item part: it holds that part's outputs.
    """
    count = sum(k.startswith("head.") and k.endswith(".weight") for k in body)
    upper = [(body[f"head.{i}.weight"], body[f"head.{i}.bias"]) for i in range(1, count)]
    item = (body["first.item"], None) if "first.item" in body else None
    return (body["first.entity"], body["head.0.bias"]), item, *upper


def _leaves_of(state: State, name: str) -> State:
    return {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(f"{name}.")}


def _spell_out(layer: TaskLayer) -> TaskLayer:
    return layer.spell_out() if isinstance(layer, LowRankLayer) else layer
