"""Learner of the gradient family: steps down the loss of the support, and an outer loss on the query after them.

A learner is a *method* in front of a *network*, both of which derive from `GradientLearner`:

    class MetaSgd(MetaSgdMethod, Maml)                 pairs of an entity and an item: rankings, ratings, clicks
    class MetaSgdChoice(MetaSgdMethod, Din)            choices out of an entity's own catalogue

The network has parameters, losses and the leaves of a state that steps move; the method says where steps begin, at what
rates they go, and what the outer loop minimizes. It reaches the network by the functions below alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.protocols import ParamGroup


class GradientLearner:
    """Base class of networks and methods; `config` has the settings of both, of which neither knows all."""

    config: Any

    # What a method may vary.

    def init_rates(self, params: Params) -> Params:
        """Logarithms of the inner rates before training, under "rate.": rates stay positive."""
        return {f"rate.{name}": torch.tensor(math.log(self.config.first_rate)) for name in self.config.rates}

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""

    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Return the parameters: nothing is chosen after training."""
        return params

    def adapt(self, body: Params, support: Support) -> State:
        """State after the method's steps on the support.

        Works with and without an outer graph, which is built only if a tensor of the body requires a gradient.
        """
        state = self.descend(body, self.start_state(body, support), self.inner_rows(support))
        return self.final_state(state, support)

    def descend(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep] | None = None
    ) -> State:
        """State after steps on rows [T, S], those of the method where none are given."""
        steps = self.inner_steps(body) if steps is None else steps
        first_order = is_recorded(body) and self.config.order == 1
        return self.take_steps(body, state, rows, steps, first_order=first_order)

    def inner_steps(self, body: Params) -> list[InnerStep]:
        """Steps of the inner loop, with the rates of all that they move."""
        rates = {name: body[f"rate.{name}"].exp() for name in self.config.rates}
        return [self.inner_step(body, rates)] * self.config.steps

    def inner_step(self, body: Params, rates: Mapping[str, Tensor]) -> InnerStep:
        """Step at the rates of groups or parts."""
        return InnerStep({p: rates[p if p in rates else p.partition(".")[0]] for p in self.config.parts})

    def task_losses(self, body: Params, batch: TaskBatch) -> tuple[Tensor, State]:
        """Loss [T] of each task that the outer loop minimizes, and the tasks' states."""
        state = self.adapt(body, batch.support)
        return self.query_loss(body, state, batch), state

    # What a network is asked for.

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters, inner rates among them; raises ConfigError when the objective is not the data set's."""
        raise NotImplementedError

    def is_frozen(self, key: str) -> bool:
        """True for a parameter that is not trained by gradient."""
        raise NotImplementedError

    def param_group(self, key: str) -> ParamGroup:
        """Learning rate factor and weight decay of a parameter."""
        raise NotImplementedError

    def body(self, params: Params) -> Params:
        """All that tasks share, from the parameters."""
        raise NotImplementedError

    def start_state(self, body: Params, support: Support) -> State:
        """State before the first step; z [T, Z] is the entity's vector, where the network has one."""
        raise NotImplementedError

    def final_state(self, state: State, support: Support) -> State:
        """Leaves of a state that an adapted entity keeps; no two share memory."""
        raise NotImplementedError

    def inner_rows(self, support: Support) -> Interactions:
        """Rows [T, S] of a support whose loss is descended."""
        raise NotImplementedError

    def query_rows(self, batch: TaskBatch) -> Interactions:
        """Rows of the queries whose loss could be descended."""
        raise NotImplementedError

    def take_steps(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep], *, first_order: bool
    ) -> State:
        """State after steps down the loss of rows [T, S]; in `first_order` their gradients are constants to an outer
        one."""
        raise NotImplementedError

    def inner_loss(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Loss [T] of rows [T, S] that the steps descend."""
        raise NotImplementedError

    def query_loss(self, body: Params, state: State, batch: TaskBatch) -> Tensor:
        """Loss [T] of the query rows under a state."""
        raise NotImplementedError

    def entity_gradient(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Gradient [T, Z] of the loss of rows [T, S] in z, where nothing else adapts; 0 without rows."""
        raise NotImplementedError

    def entity_width(self, params: Params) -> int:
        """Length Z of the entity's vector."""
        raise NotImplementedError

    def part_shapes(self, params: Params) -> Mapping[str, tuple[int, ...]]:
        """Shape of the rates of each part that adapts, where each of its numbers has its own."""
        raise NotImplementedError

    def own_leaves(self, body: Params, state: State) -> State:
        """Values [T, ...] of all that adapts, by the names of the leaves of a state, as plain tensors."""
        raise NotImplementedError

    def adapted_pairs(self, body: Params, start: State, end: State) -> Iterable[tuple[Tensor, Tensor]]:
        """Shared and task's value [T, ...] of all that adapts; a value that all tasks share has no leading T."""
        raise NotImplementedError

    def with_constant_steps(self, body: Params, start: State, end: State) -> tuple[Params, State]:
        """Body and state of the end of some steps in which what adapts is constant, and no other part is."""
        raise NotImplementedError

    def row_width(self, body: Params) -> int:
        """Numbers that `row_inputs` tells of a row."""
        raise NotImplementedError

    def row_inputs(self, body: Params, start: State, support: Support) -> tuple[Tensor, Tensor]:
        """Inputs [T, S, V] from the rows of a support before any step, and their weights [T, S] in a mean."""
        raise NotImplementedError


def is_recorded(tensors: Params) -> bool:
    """True where autograd records what is computed from these tensors."""
    return torch.is_grad_enabled() and any(v.requires_grad for v in tensors.values())
