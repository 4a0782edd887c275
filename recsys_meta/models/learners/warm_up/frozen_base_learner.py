"""Learners on a frozen base model: they generate the ID embedding z [T, D] of a new entity, and the support warms it
up. No other part of the base model ever changes.

A warm-up goes over the support once in mini-batches of `warm_batch` rows, in row order. `adam` is what Adam (Kingma &
Ba 2015) does to one row of a table that it has trained for long: bias corrections are 1, the whole step of a mini-batch
takes effect by momentum while other rows are trained, and the second moment adds up (its decay in that time is left
out):

    v += (1 - 0.999) g^2        z -= share warm_rate g / sqrt(v)

so the first step is 32 warm_rate in every coordinate, whatever the gradient: far too much on the evidence of one row.
The papers know full mini-batches only, of which `share` is 1; a smaller one steps by its share of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.host_reads import may_hold
from recsys_meta.models.functional.losses import logistic_loss, mean_over_tasks
from recsys_meta.models.learners.warm_up import ctr_models, entity_intercept
from recsys_meta.models.learners.warm_up.ctr_models import ENTITY, ClickConfig
from recsys_meta.models.learners.warm_up.pretraining import pretrain
from recsys_meta.models.protocols import ParamGroup

SECOND_MOMENT_RATE = 1 - 0.999
"""Share of a new squared gradient in Adam's second moment."""


class WarmUpConfig(ClickConfig):
    """Configuration of the base model and of the warm-up of an embedding."""

    warm_up: Literal["adam", "sgd"] = Field(default="adam", description="optimiser of the steps that warm an entity up")
    warm_rate: float = Field(default=1e-3, gt=0, description="rate of the steps that warm an entity up")
    warm_batch: int = Field(default=20, ge=1, description="rows of a step")
    decay: float = Field(default=0.0, ge=0, description="weight decay of what is meta-trained")
    own_level: bool = Field(default=False, description="intercepts of entities, see `entity_intercept`")


class FrozenBaseLearner(ABC):
    """Base class of learners whose parameters under 'base.' are trained in `init` and then frozen."""

    config: WarmUpConfig
    name: ClassVar[str]
    objectives: ClassVar[frozenset[Objective]] = frozenset({"click"})

    @abstractmethod
    def init_meta(self, params: Params, generator: torch.Generator) -> Params:
        """Fresh parameters that are meta-trained, given those of the base model, and buffers stored beside them."""

    @abstractmethod
    def embed(self, body: Params, support: Support) -> State:
        """ID embeddings z [T, D] of T entities and the vectors of their features [T, F, D]."""

    @abstractmethod
    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: None, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of a meta-batch, and values to log."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Train the base model on all rows of the given entities (minutes, for millions of rows), and add fresh
        parameters of the method. Raises ConfigError unless the data set is of clicks."""
        data.schema.require_objective("click", self.name)
        params = pretrain(self.config, data, entities, generator)
        meta_params = self.init_meta(params, generator)
        intercepts = entity_intercept.init_intercepts() if self.config.own_level else {}
        return {k: v for k, v in params.items() if not k.startswith("past.")} | meta_params | intercepts

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> None:
        """None: training needs nothing beside the parameters."""
        return

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """With `own_level`, choose the share of the warm-up and the variance of intercepts; else change nothing."""
        batches = [b for b in episodes if b.query.mask.any()]
        if not self.config.own_level or not batches:
            return params
        body = self.body(params)
        return params | entity_intercept.choose_shrinkage([self._errors(body, b) for b in batches])

    def _errors(self, body: Params, batch: TaskBatch) -> Tensor:
        """Summed log-loss of the query under each share of the warm-up and variance of intercepts, [STEP_SHARES,
        VARIANCES]."""
        rows, query, errors = batch.support.rows, batch.query, []
        for step_share in entity_intercept.STEP_SHARES:
            state = self.embed({**body, "own.kept": torch.tensor(step_share)}, batch.support)
            before, after = self.score(body, state, rows), self.score(body, state, query)
            for variance in entity_intercept.VARIANCES:
                logit = after + entity_intercept.entity_intercepts(before, rows, torch.tensor(variance))[:, None]
                errors.append((logistic_loss(logit, query) * query.counts).sum())
        return torch.stack(errors).reshape(len(entity_intercept.STEP_SHARES), -1)

    def is_frozen(self, key: str) -> bool:
        return key.startswith(("base.", "catalogue.", "past.", "own."))

    def param_group(self, key: str) -> ParamGroup:
        return ParamGroup(decay=self.config.decay)

    def body(self, params: Params) -> Params:
        return ctr_models.ctr_body(self.config, params)

    def adapt(self, body: Params, support: Support) -> State:
        """z [T, D], features [T, F, D] and, once a variance of intercepts has been chosen, level [T]."""
        state = self.embed(body, support)
        if not self.config.own_level or not may_hold(body["own.variance"] > 0):
            return state
        before = self.score(body, state, support.rows)
        return {**state, "level": entity_intercept.entity_intercepts(before, support.rows, body["own.variance"])}

    def features(self, body: Params, support: Support) -> Tensor:
        """Frozen vectors [T, F, D] of the entities' features."""
        return ctr_models.fields_of(body, ENTITY, support.features).expand(support.size, -1, -1)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        entity = ctr_models.entity_contribution(self.config, body, state["z"], state["features"])
        logit = ctr_models.ctr_logits(self.config, body, entity, self._row_side(body, rows))
        return logit + state["level"][:, None] if "level" in state else logit

    def _row_side(self, body: Params, rows: Interactions) -> ctr_models.FieldContribution:
        return ctr_models.row_contribution(self.config, body, rows.item, rows.context)

    def rank(self, body: Params, state: State) -> Tensor:
        entity = ctr_models.entity_contribution(self.config, body, state["z"], state["features"])
        logit = ctr_models.ctr_rank(self.config, body, entity)
        return logit + state["level"][:, None] if "level" in state else logit

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return logistic_loss(self.score(body, state, support.rows), support.rows)

    def query_loss(self, body: Params, state: State, batch: TaskBatch) -> Tensor:
        """Mean log-loss of the query over the tasks that have one."""
        loss = logistic_loss(self.score(body, state, batch.query), batch.query)
        return mean_over_tasks(loss, batch.whole.query.mask.any(1), batch.shard)

    def gradient(self, body: Params, z: Tensor, features: Tensor, rows: Interactions, *, outer: bool = False) -> Tensor:
        """Gradient [T, D] in z of each task's mean log-loss of its rows; with `outer` it can be differentiated again.
        The base model gets no gradient."""
        with torch.enable_grad():
            at = z if outer and z.requires_grad else z.detach().requires_grad_()
            losses = logistic_loss(self.score(body, {"z": at, "features": features}, rows), rows)
            return torch.autograd.grad(losses.sum(), at, create_graph=outer)[0]

    def warm_up(self, body: Params, z: Tensor, features: Tensor, rows: Interactions) -> Tensor:
        """Warm z [T, D] up by one pass over the rows. Steps are constants to an outer gradient."""
        moment, start = torch.zeros_like(z), z
        for first in range(0, rows.item.shape[1], self.config.warm_batch):
            some = rows.columns(first, first + self.config.warm_batch)
            gradient = self.gradient(body, z, features, some)
            rate = self.config.warm_rate * some.counts[:, None] / self.config.warm_batch
            if self.config.warm_up == "sgd":
                z = z - rate * gradient
            else:
                moment = moment + SECOND_MOMENT_RATE * gradient.square()
                z = z - rate * gradient / (moment.sqrt() + 1e-8)
        if not self.config.own_level:
            return z
        return start + body["own.kept"] * (z - start)


def flatten_fields(features: Tensor) -> Tensor:
    """Flatten the features [T, F, D] of each entity to [T, F D]; a constant [T, 1] where there are none."""
    return features.flatten(1) if features.shape[1] else features.new_ones(len(features), 1)


def flat_width(config: ClickConfig, params: Params) -> int:
    """Length of the vectors of `flatten_fields`."""
    return max(1, ctr_models.entity_count(params) * config.dims)
