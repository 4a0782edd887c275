"""The deep interest network as a learner of the objective "choice", with MAML over entities (Finn et al. 2017).

A few steps on the support adapt the perceptron ("head") or all dense layers ("all") of each entity; "none" is the same
network merely trained on many entities. During the steps the rows of half of the support's actors are counted and
those of the other half are targets, see `negative_sampling.split_halves`; after that all are counted. With a
curriculum (`training.curricula`) around it this is CHAML (Chen et al. 2021), with its hardness alone HAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.choice_features import CANDIDATE_FEATURES, candidate_features
from recsys_meta.models.functional.choice_statistics import gather_by_task
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.functional.losses import mean_over_tasks
from recsys_meta.models.learners.choice import interest_network as interest
from recsys_meta.models.learners.choice import negative_sampling as candidates
from recsys_meta.models.learners.choice.interest_network import InterestConfig
from recsys_meta.models.learners.maml.gradient_learner import GradientLearner, is_recorded
from recsys_meta.models.learners.maml.inner_step import InnerStep
from recsys_meta.models.protocols import ParamGroup

FAST_PREFIX = "fast."
HALF_PREFIX = "half."
CHOICES = "query.candidates"
"""Key of a body under which the meta-loss puts the candidates of the queries [T, R, K]."""
KEPT_PREFIX = "query.kept."
"""Prefix of keys of a body under which the meta-loss puts the units that dropout keeps, by layer."""
LOGGED_ROWS = 16
"""Query rows of an entity on which the change of scores by adapting is logged."""


class DinConfig(InterestConfig):
    """Configuration of `Din`: the layers that adapt and the inner loop; the network's fields are those of
    `InterestConfig`."""

    objective: Literal["choice"] = Field(default="choice", description="objective of the data set")
    negatives: int = Field(default=1, ge=1, description="items drawn beside each item taken")
    adapts: Literal["none", "entity", "head", "last", "body", "all"] = Field(
        default="none",
        description="what the inner loop adapts: the vector of the entity, layers of the perceptron (the last one is "
        "ANIL, all below it are BOIL), or all layers",
    )
    order: Literal[1, 2] = Field(default=1, description="order of the outer gradient: through the inner step, or not")
    steps: int = Field(default=1, ge=0, description="inner steps")
    rate: float = Field(default=1e-3, gt=0, description="inner rate at the start")
    learned_rate: bool = Field(default=False, description="whether inner rates are trained")
    inner_negatives: int = Field(default=1, ge=1, description="items drawn beside each item of the support")
    seasoned: int = Field(default=0, ge=0, description="history that a support row must have to be a target")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of all but biases and inner rates")

    @model_validator(mode="after")
    def _entity(self) -> Self:
        if self.entity_dims and not self.hidden:
            raise ValueError("an entity's vector (entity_dims) needs hidden layers to enter")
        if self.adapts == "entity" and not self.entity_dims:
            raise ValueError("adapts 'entity' needs a vector of the entity: set entity_dims")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the model that adapt: the entity's vector, or tensors of weights."""
        last, hidden = self.last_layer, self.hidden_layers
        parts = {"none": (), "entity": ("entity",), "last": last, "head": (*hidden, *last)}
        parts |= {"body": (*hidden, *interest.LOWER_LAYERS), "all": (*hidden, *last, *interest.LOWER_LAYERS)}
        return parts[self.adapts]

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of parts that adapt, each with a rate of its own."""
        return tuple(dict.fromkeys(part.partition(".")[0] for part in self.parts))

    @property
    def rates(self) -> tuple[str, ...]:
        """Names of the inner rates."""
        return self.groups

    @property
    def first_rate(self) -> float:
        """Initial inner rate."""
        return self.rate


@dataclass(frozen=True)
class Din(GradientLearner):
    """The learner of choices that this module describes; what methods of `gradient` vary as they do `Maml`."""

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
        return params | self.init_rates(params)

    def is_frozen(self, key: str) -> bool:
        return is_buffer(key) or (key.startswith("rate.") and not self.config.learned_rate)

    def param_group(self, key: str) -> ParamGroup:
        # A level, or a logarithm, must not shrink to 0.
        plain = key == "start" or key.startswith(("rate.", "log_")) or key.endswith("bias")
        return ParamGroup(decay=0.0 if plain else self.config.decay)

    def body(self, params: Params) -> Params:
        return params

    def start_state(self, body: Params, support: Support) -> State:
        """The state of `encode_history`; the entity's vector z; under "fast." the weights that adapt, each with a
        leading T; and under "half." the state of `encode_history` that the steps see."""
        state = interest.encode_history(self.config, body, support)
        if self.config.entity_dims:
            state["z"] = interest.entity_vectors(body, support)
        weights = [part for part in self.config.parts if part != "entity"]
        state |= {f"{FAST_PREFIX}{k}": body[k].expand(support.size, *body[k].shape) for k in weights}
        if self.config.parts and self.config.steps:
            counted, targets = candidates.split_halves(support.rows, self.config.seasoned)
            if targets.item.shape[1]:
                half = interest.encode_history(self.config, body, replace(support, rows=counted))
                state |= {f"{HALF_PREFIX}{k}": v for k, v in half.items()}
        return state

    def inner_rows(self, support: Support) -> Interactions:
        return candidates.split_halves(support.rows, self.config.seasoned)[1]

    def query_rows(self, batch: TaskBatch) -> Interactions:
        return batch.query

    def final_state(self, state: State, support: Support) -> State:
        return {k: v.contiguous() for k, v in state.items() if not k.startswith(HALF_PREFIX)}

    def take_steps(
        self, body: Params, state: State, rows: Interactions, steps: Sequence[InnerStep], *, first_order: bool
    ) -> State:
        """Steps down the gradient of each task's own loss: tasks share no leaf, so it is that of the sum."""
        if not rows.item.shape[1] or not self.config.parts:
            return state
        second = is_recorded(body) and not first_order
        if not second:
            body, still = ({k: v.detach() for k, v in x.items()} for x in (body, state))
        loss = self._row_loss(body, state if second else still, rows)
        own = start = self.own_leaves(body, state)
        for step in steps:
            moving = [k for k in own if _part(k) in step.rates]
            with torch.enable_grad():
                leaves = {k: v if second and v.requires_grad else v.detach().requires_grad_() for k, v in own.items()}
                gradients = torch.autograd.grad(loss(leaves).sum(), [leaves[k] for k in moving], create_graph=second)
            after = dict(own)
            for key, gradient in zip(moving, gradients, strict=True):
                before = own[key] if step.keep is None else start[key] + (own[key] - start[key]) * step.keep
                after[key] = before - step.rates[_part(key)] * gradient
            own = after
        return state | own

    def _row_loss(self, body: Params, state: State, rows: Interactions) -> Callable[[State], Tensor]:
        """Function from leaves of a state to the loss [T] of rows: what does not depend on them is computed once."""
        half = {k.removeprefix(HALF_PREFIX): v for k, v in state.items() if k.startswith(HALF_PREFIX)}
        summary = half or state
        choices = candidates.fixed_negatives(rows, summary["listed"], self.config.inner_negatives)
        inputs = interest.ChoiceInputs.of(summary, rows, choices)

        def loss(leaves: State) -> Tensor:
            at = summary | leaves
            scores = interest.network_scores(self.config, _weights(body, at), at, rows, inputs)
            return candidates.choice_loss(scores, rows, choices)

        return loss

    def inner_loss(self, body: Params, state: State, rows: Interactions) -> Tensor:
        if not rows.item.shape[1]:
            return torch.zeros(len(rows.item), device=rows.item.device)
        leaves = {k: v for k, v in state.items() if k == "z" or k.startswith(FAST_PREFIX)}
        return self._row_loss(body, state, rows)(leaves)

    def entity_gradient(self, body: Params, state: State, rows: Interactions) -> Tensor:
        z = state["z"].detach().requires_grad_()
        if not rows.item.shape[1]:
            return torch.zeros_like(z, requires_grad=False)
        with torch.enable_grad():
            return torch.autograd.grad(self.inner_loss(body, state | {"z": z}, rows).sum(), z)[0]

    def entity_width(self, params: Params) -> int:
        return len(params["first.entity"])

    def part_shapes(self, params: Params) -> dict[str, tuple[int, ...]]:
        return {k: (self.entity_width(params),) if k == "entity" else params[k].shape for k in self.config.parts}

    def own_leaves(self, body: Params, state: State) -> State:
        names = ["z" if part == "entity" else f"{FAST_PREFIX}{part}" for part in self.config.parts]
        return {name: state[name] for name in names}

    def adapted_pairs(self, body: Params, start: State, end: State) -> list[tuple[Tensor, Tensor]]:
        return [(value, end[key]) for key, value in self.own_leaves(body, start).items()]

    def with_constant_steps(self, body: Params, start: State, end: State) -> tuple[Params, State]:
        return body, start | self.own_leaves(body, end)

    def row_width(self, body: Params) -> int:
        return self.config.dims + len(CANDIDATE_FEATURES) + 1

    def row_inputs(self, body: Params, start: State, support: Support) -> tuple[Tensor, Tensor]:
        """Vectors and features of the items that were taken."""
        rows = support.rows
        vectors = interest.item_vectors(body, start)
        own, real = rows.item[:, :, None], (rows.mask & (rows.item >= FIRST))[:, :, None].to(vectors.dtype)
        features = candidate_features(start, rows, own).squeeze(2)
        x = torch.cat([gather_by_task(vectors, own).squeeze(2), features, torch.ones_like(real)], 2)
        return x * real, real.squeeze(2) / real.sum(1).clamp(min=1)

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
        catalogue = batch.support.catalogue
        assert catalogue is not None, "start_state raises without a catalogue"
        choices = candidates.sample_negatives(batch, catalogue.mask, self.config.negatives, generator)
        masks = interest.draw_kept_units(self.config, batch, choices, generator)
        draws = {CHOICES: choices} | {f"{KEPT_PREFIX}{i}": mask for i, mask in enumerate(masks)}
        losses, state = self.task_losses(self.body(params) | draws, batch)
        metrics = self._adaptation_metrics(params, state, batch, choices) if self.config.parts else {}
        return mean_over_tasks(losses, batch.whole.query.mask.any(1), batch.shard), metrics

    def query_loss(self, body: Params, state: State, batch: TaskBatch) -> Tensor:
        """Loss [T] of the queries against the items that the meta-loss has drawn, with its dropout."""
        query, choices = batch.query, body[CHOICES]
        masks = [body[f"{KEPT_PREFIX}{i}"] for i in range(len(self.config.hidden)) if f"{KEPT_PREFIX}{i}" in body]
        inputs = interest.ChoiceInputs.of(state, query, choices)
        scores = interest.network_scores(self.config, _weights(body, state), state, query, inputs, masks)
        return candidates.choice_loss(scores, query, choices)

    @torch.no_grad()
    def _adaptation_metrics(self, params: Params, state: State, batch: TaskBatch, choices: Tensor) -> dict[str, Tensor]:
        body, own = self.body(params), self.own_leaves(params, state)
        initial = {k: params[k.removeprefix(FAST_PREFIX)].expand_as(v) for k, v in own.items() if k != "z"}
        if "z" in own:
            initial["z"] = self.start_state(body, batch.support)["z"]
        change = torch.cat([(own[k] - initial[k]).flatten(1) for k in own], 1)
        some, choices = batch.query.first(LOGGED_ROWS), choices[:, :LOGGED_ROWS]
        score_change = self.choose(body, state, some, choices) - self.choose(body, state | initial, some, choices)
        rates = {f"inner_{k}": v.exp().mean() for k, v in params.items() if k.startswith("rate.")}
        return {"change": change.norm(dim=1).mean(), "moved": score_change.abs().mean(), **rates}


def _part(leaf: str) -> str:
    """Part that a leaf of a state is of."""
    return "entity" if leaf == "z" else leaf.removeprefix(FAST_PREFIX)


def _weights(body: Params, state: State) -> Params:
    """The network's weights; those that a state has adapted have a leading T."""
    return {k: state.get(f"{FAST_PREFIX}{k}", v) for k, v in body.items()}
