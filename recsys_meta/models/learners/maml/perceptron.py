"""Perceptron on [z; e], its layers adapted by each task, and the gradient of a loss in them, written out.

The first layer is two, one for z [T, Z] with the bias and one for e, so that pairs are never materialized before it.
Their steps are kept as `functional.task_layers` has it: no weight is copied for each task unless that is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    first_order,
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
    """Gradients in the outputs of the layers: first [T, R, H], upper [T, R, out] each."""

    first: Tensor
    upper: tuple[Tensor, ...]


@dataclass(frozen=True)
class Perceptron:
    """The layers of T tasks; item is None where e is the output of the item part, which no task adapts."""

    entity: TaskLayer
    item: TaskLayer | None
    upper: tuple[TaskLayer, ...]

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

    def trace(self, first: Tensor) -> ActivationTrace:
        """Apply the layers after the first to its outputs [T, R, H]."""
        x, inputs = first, []
        for layer in self.upper:
            inputs.append(torch.relu(x))
            x = layer.apply(inputs[-1])
        return ActivationTrace(x.squeeze(-1), tuple(inputs))

    def backward(self, gradient: Tensor, trace: ActivationTrace) -> LayerGradients:
        """Gradients in the outputs of the layers, from that in the scores [T, R]."""
        gradients = [gradient[..., None]]
        for layer, x in zip(reversed(self.upper), reversed(trace.inputs), strict=True):
            # Of a mask, made and multiplied, the same would take ten times as long.
            gradients.append(torch.ops.aten.threshold_backward(layer.backward(gradients[-1]), x, 0))
        return LayerGradients(gradients[-1], tuple(reversed(gradients[:-1])))

    def step_first(self, z: Tensor, e: Tensor, negatives: Tensor | None, deltas: LayerGradients) -> Perceptron:
        """The perceptron after a step of the first layer on z [T, Z], e [T, R, V] and negatives [N, V] or None; deltas
        are times minus the rate."""
        assert self.item is not None, "it adapts with the other layers"
        entity = self.entity.step(z[:, None], deltas.first.sum(1, keepdim=True))
        if negatives is None:
            return replace(self, entity=entity, item=self.item.step(e, deltas.first))
        own, other = torch.split(deltas.first, [e.shape[1], len(negatives)], 1)
        return replace(self, entity=entity, item=self.item.step(e, own).step(negatives, other))

    def step_upper(self, trace: ActivationTrace, deltas: LayerGradients) -> Perceptron:
        """The perceptron after a step of the layers after the first; deltas are times minus the rate."""
        layers = zip(self.upper, trace.inputs, deltas.upper, strict=True)
        return replace(self, upper=tuple(layer.step(x, delta) for layer, x, delta in layers))

    def leaves(self) -> State:
        """Leaves of a state: name -> tensor with a leading T."""
        layers = [(ENTITY, self.entity), *((ITEM, x) for x in [self.item] if x is not None)]
        layers += [(f"head.{i}", layer) for i, layer in enumerate(self.upper, 1)]
        return {f"{name}.{k}": v for name, layer in layers for k, v in layer.leaves().items()}

    def change(self) -> Tensor:
        """Squared length [T] of what the steps changed in all layers."""
        layers = [self.entity, *([] if self.item is None else [self.item]), *self.upper]
        return sum((layer.change() for layer in layers), self.entity.change().new_zeros(1))

    def spell_out(self) -> Perceptron:
        """Make weights for each task in the layers that tasks adapt."""
        item = None if self.item is None else _spell_out(self.item)
        return Perceptron(_spell_out(self.entity), item, tuple(_spell_out(layer) for layer in self.upper))

    def first_order(self, body: Params, unit: Tensor) -> Perceptron:
        """The perceptron whose steps are constants to an outer gradient; see `task_layers.first_order`."""
        entity, item, *upper = _weights(body)
        return Perceptron(
            first_order(self.entity, *entity, unit),
            None if self.item is None else first_order(self.item, *item, unit),
            tuple(first_order(layer, *both, unit) for layer, both in zip(self.upper, upper, strict=True)),
        )


def perceptron_of(body: Params, state: State) -> Perceptron:
    """The perceptron of a state; layers without leaves are those of the body."""
    entity, item, *upper = _weights(body)
    parts: tuple[TaskLayer, TaskLayer]
    if "head.0.weight" in state:  # spelt out as one layer, as in states of earlier releases
        split, weight = state["z"].shape[1], state["head.0.weight"]
        parts = OwnLayer(weight[:, :split], state["head.0.bias"]), OwnLayer(weight[:, split:], None)
    else:
        parts = layer_of(_leaves_of(state, ENTITY), *entity), layer_of(_leaves_of(state, ITEM), *item)
    layers = tuple(layer_of(_leaves_of(state, f"head.{i}"), *both) for i, both in enumerate(upper, 1))
    # Where no task adapts the perceptron, the body holds the outputs of the item part.
    return Perceptron(parts[0], None if isinstance(parts[1], SharedLayer) else parts[1], layers)


def start_perceptron(body: Params, tasks: int, rows: int, steps: int, *, is_fixed: bool) -> Perceptron:
    """Perceptron of T tasks before the first of `steps` steps on `rows` rows each. `is_fixed`: the steps change neither
    z nor e, so that the first layer meets the same inputs in each."""
    entity, item, *upper = _weights(body)
    once = 1 if is_fixed else steps
    return Perceptron(
        start_layer(*entity, tasks, once),
        start_layer(*item, tasks, once * rows),
        tuple(start_layer(*both, tasks, steps * rows) for both in upper),
    )


def _weights(body: Params) -> Sequence[tuple[Tensor, Tensor | None]]:
    """Weight and bias of the entity part, the item part, and the layers after the first."""
    count = sum(k.startswith("head.") and k.endswith(".weight") for k in body)
    upper = [(body[f"head.{i}.weight"], body[f"head.{i}.bias"]) for i in range(1, count)]
    return [(body["first.entity"], body["head.0.bias"]), (body["first.item"], None), *upper]


def _leaves_of(state: State, name: str) -> State:
    return {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(f"{name}.")}


def _spell_out(layer: TaskLayer) -> TaskLayer:
    return layer.spell_out() if isinstance(layer, LowRankLayer) else layer
