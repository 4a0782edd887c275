"""Steps of gradient descent of a perceptron. Sampled negatives are rows of every task, whose vectors no task adapts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.functional.task_layers import FreshLayer
from recsys_meta.models.learners.maml import task_loss
from recsys_meta.models.learners.maml.fixed_inputs import FixedInputs
from recsys_meta.models.learners.maml.inner_step import InnerStep, StepScale
from recsys_meta.models.learners.maml.perceptron import (
    ActivationTrace,
    LayerGradients,
    Perceptron,
    layer_name,
    perceptron_of,
    start_perceptron,
)
from recsys_meta.models.learners.maml.scorer import ScorerConfig


@dataclass(frozen=True)
class _CommonRows:
    """Inputs that the steps of a perceptron have in common.

    e [T, R, V]: vectors before any step, of the support's rows and of the sampled negatives where these are joined to
    them, else they are `negatives` [N, V]. slot [T, R, S]: which row is of which item of the support. bias [T, S + N]:
    item biases. weight [T, S]: weights of the rows in the loss.
    """

    e: Tensor
    negatives: Tensor | None
    slot: Tensor | None
    bias: Tensor | None
    weight: Tensor


@dataclass(frozen=True)
class _DescentState:
    """State of the tasks between two steps: z, the changes of item vectors, the layers.

    `first_inputs` has the inputs of the first layer, `layer_inputs` those of the layers up to the lowest that moves,
    where no step changes them.
    """

    z: Tensor
    change: Tensor | None
    network: Perceptron
    first_inputs: FixedInputs | None = None
    layer_inputs: tuple[Tensor, ...] = ()

    def keep(self, start: Tensor, share: Tensor) -> _DescentState:
        """The state where this share of what was changed so far is kept; start [T, Z] is z before any step."""
        change = None if self.change is None else self.change * share
        first_inputs = None if self.first_inputs is None else self.first_inputs.keep(share)
        return _DescentState(
            start + (self.z - start) * share, change, self.network.keep(share), first_inputs, self.layer_inputs
        )


class _StepGradients(NamedTuple):
    """Gradients times minus the rate of one part, and the inputs that go with those of the layers."""

    inputs: tuple[Tensor, Tensor]
    trace: ActivationTrace
    layers: LayerGradients
    z: Tensor | None
    change: Tensor | None


def descend_perceptron(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep]
) -> State:
    """State after steps of a perceptron, as `inner_loop.descend` has it."""
    parts = steps[0].rates if steps else {}
    # The first layer meets the same inputs in each step.
    is_fixed = layer_name(0) in parts and not {"entity", "rows"} & parts.keys()
    network = perceptron_of(body, state)
    if not any(k.startswith("head.") for k in state):
        count = rows.item.shape[1] + (len(body["negatives"]) if config.objective == "ranking" else 0)
        network = start_perceptron(body, len(state["z"]), count, len(steps), parts, [layer_name(0)] * is_fixed)
    common = _common_rows(config, body, state, rows, network)
    first_inputs = FixedInputs.of(network, state["z"], common.e) if is_fixed and common.negatives is None else None
    current = _DescentState(state["z"], state.get("rows.change"), network, first_inputs)
    scales: dict[int, StepScale] = {}
    for i, step in enumerate(steps if rows.item.shape[1] else []):
        if id(step) not in scales:
            scales[id(step)] = StepScale.of(step)
        scale = scales[id(step)]
        gradients = _gradients(config, body, rows, common, current, scale)
        current = current if step.keep is None else current.keep(state["z"], step.keep)
        current = _moved(current, common, gradients, scale, is_last=i == len(steps) - 1)
    network = current.network if current.first_inputs is None else current.first_inputs.network(current.network)
    change = {} if current.change is None else {"rows.change": current.change}
    return state | {"z": current.z} | change | network.leaves()


def entity_gradient(config: ScorerConfig, body: Params, state: State, rows: Interactions) -> Tensor:
    """Gradient [T, Z] of the support loss in z, where neither layers nor item vectors adapt."""
    network = perceptron_of(body, state)
    common = _common_rows(config, body, state, rows, network)
    scale = StepScale.of(InnerStep({"entity": state["z"].new_ones(())}))
    gradients = _gradients(config, body, rows, common, _DescentState(state["z"], None, network), scale)
    assert gradients.z is not None, "of a step of the entity's vector"
    return -gradients.z


def _common_rows(
    config: ScorerConfig, body: Params, state: State, rows: Interactions, network: Perceptron
) -> _CommonRows:
    e = functional.embedding(rows.item, body["vectors"])
    negatives = functional.embedding(body["negatives"], body["vectors"]) if config.objective == "ranking" else None
    if negatives is not None and isinstance(network.item, FreshLayer) and network.item.is_dual:  # few rows: join them
        e, negatives = torch.cat([e, negatives.expand(len(e), *negatives.shape)], 1), None
    slot = _slots(state, rows.item, e) if "rows.change" in state else None
    return _CommonRows(e, negatives, slot, _row_bias(config, body, rows), task_loss.row_weights(rows, e.dtype, state))


def _gradients(
    config: ScorerConfig,
    body: Params,
    rows: Interactions,
    common: _CommonRows,
    current: _DescentState,
    scale: StepScale,
) -> _StepGradients:
    z, network = current.z, current.network
    e = common.e if common.slot is None or current.change is None else common.e + common.slot @ current.change
    if current.first_inputs is None:
        first = current.layer_inputs[0] if current.layer_inputs else network.first(z, e, common.negatives)
    else:
        first = current.first_inputs.outputs()
    trace = network.trace(first, current.layer_inputs)
    scores = trace.scores if common.bias is None else trace.scores + common.bias
    gradient = _row_gradients(config, body, rows, common.weight, scores) * scale.scale
    layers = network.backward(gradient, trace, scale.lowest)
    moved_z, moved_rows = None, None
    if "entity" in scale.factors and layers.first is not None:
        moved_z = network.entity.backward(layers.first.sum(1, keepdim=True)).squeeze(1)
    if "rows" in scale.factors and layers.first is not None and common.slot is not None and network.item is not None:
        moved_rows = common.slot.transpose(1, 2) @ network.item.backward(layers.first[:, : e.shape[1]])
    return _StepGradients((z, e), trace, layers, moved_z, moved_rows)


def _moved(
    current: _DescentState, common: _CommonRows, gradients: _StepGradients, scale: StepScale, *, is_last: bool
) -> _DescentState:
    """State of the tasks after a step."""
    z, change, first_inputs = current.z, current.change, current.first_inputs
    if gradients.z is not None:
        z = z + scale.change(gradients.z, "entity")
    if gradients.change is not None and change is not None:
        change = change + scale.change(gradients.change, "rows")
    first = gradients.layers.first if layer_name(0) in scale.factors else None
    upper = [g if layer_name(i) in scale.factors else None for i, g in enumerate(gradients.layers.upper, 1)]
    rates = [scale.factors.get(layer_name(i)) for i in range(len(upper) + 1)]
    network = current.network.step_upper(gradients.trace, upper, rates[1:])
    if first_inputs is not None and first is not None:
        first_inputs = first_inputs.step(scale.change(first, layer_name(0)), is_last=is_last)
    elif first is not None:
        network = network.step_first(*gradients.inputs, common.negatives, first, rates[0])
    return _DescentState(z, change, network, first_inputs, gradients.trace.inputs[: scale.lowest])


def _row_gradients(config: ScorerConfig, body: Params, rows: Interactions, weight: Tensor, scores: Tensor) -> Tensor:
    """Gradient [T, S + N] of the support loss in the scores of its rows and, after them, of shared negatives."""
    if config.objective != "ranking":
        return task_loss.score_gradient(config, body, rows, weight, scores)[0]
    parts = torch.split(scores, [rows.item.shape[1], len(body["negatives"])], 1)
    return torch.cat(task_loss.score_gradient(config, body, rows, weight, *parts), 1)


def _slots(state: State, item: Tensor, e: Tensor) -> Tensor:
    """1 where a row of e [T, R, V] is of the item of a slot, [T, R, S]; rows beyond item [T, S] are of none."""
    slot = task_loss.is_slot(state, item, e.dtype) * (state["rows.item"] > 0)[:, None, :]
    return functional.pad(slot, (0, 0, 0, e.shape[1] - item.shape[1]))


def _row_bias(config: ScorerConfig, body: Params, rows: Interactions) -> Tensor | None:
    """Item biases [T, S + N] of the rows and of the shared negatives."""
    if not config.item_bias:
        return None
    own = body["bias"][rows.item]
    if config.objective != "ranking":
        return own
    return torch.cat([own, body["bias"][body["negatives"]].expand(len(own), -1)], 1)
