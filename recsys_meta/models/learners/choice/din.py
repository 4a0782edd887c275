"""The deep interest network as a learner of the objective "choice", with MAML over entities (Finn et al. 2017).

A few steps on the support adapt the perceptron ("head") or all dense layers ("all") of each entity; "none" is the same
network merely trained on many entities. During the steps the rows of half of the support's actors are counted and
those of the other half are targets, see `negative_sampling.split_halves`; after that all are counted. With a
curriculum (`training.curricula`) around it this is CHAML (Chen et al. 2021), with its hardness alone HAML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.functional.losses import mean_over_tasks
from recsys_meta.models.learners.choice import interest_network as interest
from recsys_meta.models.learners.choice import negative_sampling as candidates
from recsys_meta.models.learners.choice.interest_network import InterestConfig
from recsys_meta.models.protocols import ParamGroup

FAST_PREFIX = "fast."
LOGGED_ROWS = 16
"""Query rows of an entity on which the change of scores by adapting is logged."""


class DinConfig(InterestConfig):
    """Configuration of `Din`: the layers that adapt and the inner loop; the network's fields are those of
    `InterestConfig`."""

    objective: Literal["choice"] = Field(default="choice", description="objective of the data set")
    negatives: int = Field(default=1, ge=1, description="items drawn beside each item taken")
    adapts: Literal["none", "head", "all"] = Field(default="none", description="what the inner loop adapts")
    order: Literal[1, 2] = Field(default=1, description="order of the outer gradient: through the inner step, or not")
    steps: int = Field(default=1, ge=0, description="inner steps")
    rate: float = Field(default=1e-3, gt=0, description="inner rate at the start")
    learned_rate: bool = Field(default=False, description="whether inner rates are trained")
    inner_negatives: int = Field(default=1, ge=1, description="items drawn beside each item of the support")
    seasoned: int = Field(default=0, ge=0, description="history that a support row must have to be a target")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of all but biases and inner rates")

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of layers that adapt."""
        head = ("head", "wide") if self.wide else ("head",)
        return {"none": (), "head": head, "all": (*head, "attention", "item")}[self.adapts]


@dataclass(frozen=True)
class Din:
    """The learner of choices that this module describes."""

    config: DinConfig = field(default_factory=DinConfig)
    name: ClassVar[str] = "din"
    Config: ClassVar[type[DinConfig]] = DinConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"choice"})

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters. Raises ConfigError unless the data set is one of choices."""
        homes = data.ownership
        data.schema.require_objective("choice", self.name)
        assert homes is not None
        params = interest.init_network(self.config, data, homes, entities, generator)
        return params | {f"rate.{group}": torch.tensor(math.log(self.config.rate)) for group in self.config.groups}

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""

    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Return the parameters: nothing is chosen after training."""
        return params

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or (key.startswith("rate.") and not self.config.learned_rate)

    def param_group(self, key: str) -> ParamGroup:
        plain = key.startswith("rate.") or key.endswith("bias")
        return ParamGroup(decay=0.0 if plain else self.config.decay)

    def body(self, params: Params) -> Params:
        return params

    def adapt(self, body: Params, support: Support) -> State:
        """The state of `encode_history` and, under "fast.", the entity's own weights of the layers that adapt, each
        with a leading T."""
        state = interest.encode_history(self.config, body, support)
        fast = {f"{FAST_PREFIX}{k}": v.expand(support.size, *v.shape) for k, v in body.items() if self._adapts(k)}
        history_rows, targets = candidates.split_halves(support.rows, self.config.seasoned)
        if fast and self.config.steps and targets.item.shape[1]:
            half = interest.encode_history(self.config, body, replace(support, rows=history_rows))
            outer = torch.is_grad_enabled() and any(v.requires_grad for v in body.values())
            for _ in range(self.config.steps):
                fast = self._step(body, half, fast, targets, outer)
        return {k: v.contiguous() for k, v in (state | fast).items()}

    def _adapts(self, key: str) -> bool:
        return _part(key) in self.config.groups

    def _step(self, body: Params, half: State, fast: State, targets: Interactions, outer: bool) -> State:
        """One step down the gradient of each task's own loss: tasks share no fast weight, so it is that of the sum."""
        second, rates = outer and self.config.order == 2, body
        if not second:
            body, half = ({k: v.detach() for k, v in x.items()} for x in (body, half))
        with torch.enable_grad():
            leaves = fast if second else {k: v.detach() for k, v in fast.items()}
            leaves = {k: v if v.requires_grad else v.requires_grad_() for k, v in leaves.items()}
            choices = candidates.fixed_negatives(targets, half["listed"], self.config.inner_negatives)
            total = candidates.choice_loss(self.choose(body, half | leaves, targets, choices), targets, choices).sum()
            gradients = torch.autograd.grad(total, list(leaves.values()), create_graph=second)
        return {
            key: fast[key] - rates[f"rate.{_part(key.removeprefix(FAST_PREFIX))}"].exp() * gradient
            for key, gradient in zip(leaves, gradients, strict=True)
        }

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        return interest.candidate_scores(self.config, _weights(body, state), state, rows, candidates)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.choose(body, state, rows, rows.item[:, :, None]).squeeze(2)

    def rank(self, body: Params, state: State) -> Tensor:
        """Scores [T, C] for an actor without a history, in a row without context."""
        tasks, items = state["listed"].shape
        nothing = torch.zeros(tasks, 1, dtype=torch.int64, device=state["listed"].device)
        rows = Interactions(nothing, nothing.float(), nothing > 0)
        every = torch.arange(items, device=nothing.device).expand(tasks, 1, -1)
        return self.choose(body, state, rows, every).squeeze(1)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Loss [T] against items chosen by a hash of the rows, so that it is deterministic."""
        rows = support.rows
        if not rows.item.shape[1]:
            return torch.zeros(support.size, device=rows.item.device)
        choices = candidates.fixed_negatives(rows, state["listed"], self.config.inner_negatives)
        return candidates.choice_loss(self.choose(body, state, rows, choices), rows, choices)

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean query loss after adapting, against items drawn uniformly; logs the changes of weights and query scores
        by adapting, and the inner rates."""
        state, query = self.adapt(params, batch.support), batch.query
        choices = candidates.sample_negatives(batch, state["listed"], self.config.negatives, generator)
        weights = _weights(params, state)
        scores = interest.network_scores(self.config, weights, state, query, choices, generator, batch.shard)
        loss = candidates.choice_loss(scores, query, choices)
        metrics = self._adaptation_metrics(params, state, query, choices) if self.config.groups else {}
        return mean_over_tasks(loss, batch.whole.query.mask.any(1), batch.shard), metrics

    @torch.no_grad()
    def _adaptation_metrics(
        self, params: Params, state: State, query: Interactions, choices: Tensor
    ) -> dict[str, Tensor]:
        fast = {k: v for k, v in state.items() if k.startswith(FAST_PREFIX)}
        initial = {k: params[k.removeprefix(FAST_PREFIX)].expand_as(v) for k, v in fast.items()}
        change = torch.cat([(fast[k] - initial[k]).flatten(1) for k in fast], 1)
        some, choices = query.first(LOGGED_ROWS), choices[:, :LOGGED_ROWS]
        score_change = self.choose(params, state, some, choices) - self.choose(params, state | initial, some, choices)
        rates = {f"inner_rate.{g}": params[f"rate.{g}"].exp() for g in self.config.groups}
        return {"change": change.norm(dim=1).mean(), "moved": score_change.abs().mean(), **rates}


def _part(key: str) -> str:
    return key.split(".", 1)[0]


def _weights(body: Params, state: State) -> Params:
    """The network's weights; those that a state has adapted have a leading T."""
    return {k: state.get(f"{FAST_PREFIX}{k}", v) for k, v in body.items()}
