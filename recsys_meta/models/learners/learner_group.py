"""Group of learners that are trained side by side on the same episodes, as one learner.

Parameters, body and state of member i are under the prefix "i/". The loss is the sum of the members' losses, and no
gradient passes from one to another. What becomes of their scores is up to the class that derives from the group.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.prefixed_keys import PrefixedTensors, add_prefix, select_prefix
from recsys_meta.models.protocols import ParamGroup, PredictorConfig


class GroupMember(PredictorConfig):
    """One learner of a group. `rate` multiplies its learning rate; `tasks` and `query` bound the tasks and the query
    rows that it gets of a meta-batch (0: all), for members that need less than others."""

    learner: str
    config: dict[str, Any] = Field(default_factory=dict)
    rate: float = Field(default=1.0, gt=0)
    tasks: int = Field(default=0, ge=0)
    query: int = Field(default=0, ge=0)

    @field_validator("config")
    @classmethod
    def _plain(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Normalize to JSON types, so that a configuration equals itself after a round trip."""
        plain: dict[str, Any] = json.loads(json.dumps(config))
        return plain


class LearnerGroup(ABC):
    """Base class of learners that hold learners; `config.members` are their settings."""

    config: Any

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def make_members(self) -> list[Any]:
        """Build the member learners, in the order of the configuration."""

    @abstractmethod
    def init_group(self, data: Dataset, entities: IntArray) -> Params:
        """Fresh parameters of the group itself, which are not trained by gradient."""

    @cached_property
    def members(self) -> list[Any]:
        """The member learners, in the order of the configuration."""
        return self.make_members()

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters of the group and of all members."""
        params = self.init_group(data, entities)
        for i, member in enumerate(self.members):
            params |= add_prefix(i, member.init(data, entities, generator))
        return params

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> list[Any]:
        """Training states of the members."""
        return [member.training_state(data, entities, generator) for member in self.members]

    def is_frozen(self, key: str) -> bool:
        if _is_own(key):
            return True
        i, member_key = _member_of(key)
        return bool(self.members[i].is_frozen(member_key))

    def param_group(self, key: str) -> ParamGroup:
        i, member_key = _member_of(key)
        group: ParamGroup = self.members[i].param_group(member_key)
        return replace(group, rate=group.rate * self.config.members[i].rate)

    def body(self, params: Params) -> Params:
        body = {k: v for k, v in params.items() if _is_own(k)}
        for i, member in enumerate(self.members):
            body |= add_prefix(i, member.body(select_prefix(params, i)))
        return PrefixedTensors(body)

    def member_states(self, body: Params, support: Support) -> State:
        """States of all members."""
        # Copies: members may hold the same tensor of the support, but the leaves of a state must not share memory.
        states: State = {}
        for i, member in enumerate(self.members):
            state = member.adapt(select_prefix(body, i), support)
            states |= {k: v.clone() for k, v in add_prefix(i, state).items()}
        return states

    def member_scores(self, body: Params, state: State, rows: Interactions) -> list[Tensor]:
        """Scores [T, R] of rows by each member."""
        return [m.score(select_prefix(body, i), select_prefix(state, i), rows) for i, m in enumerate(self.members)]

    def member_rankings(self, body: Params, state: State) -> list[Tensor]:
        """Scores [T, C] of the catalogue by each member."""
        return [m.rank(select_prefix(body, i), select_prefix(state, i)) for i, m in enumerate(self.members)]

    def member_losses(self, body: Params, state: State, support: Support) -> list[Tensor]:
        """Support loss [T] of each member."""
        return [
            m.support_loss(select_prefix(body, i), select_prefix(state, i), support) for i, m in enumerate(self.members)
        ]

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: list[Any], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum of the members' losses; no gradient passes from one to another."""
        total, metrics = torch.zeros((), device=batch.entity.device), dict[str, Tensor]()
        for i, (member, settings) in enumerate(zip(self.members, self.config.members, strict=True)):
            member_batch = _limit_batch(batch, settings.tasks, settings.query)
            loss, logs = member.meta_loss(select_prefix(params, i), member_batch, training_state[i], generator)
            total = total + loss
            share = member_batch.share / batch.share
            metrics |= {f"{member.name}.{k}": v * share if share else torch.zeros_like(v) for k, v in logs.items()}
            metrics[f"{member.name}.loss"] = loss.detach() / batch.share
        return total, metrics

    def calibrate_members(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Calibrate each member; see `Learner.calibrate`."""
        for i, member in enumerate(self.members):
            params = params | add_prefix(i, member.calibrate(select_prefix(params, i), episodes))
        return params


def weighted_sum(parts: Sequence[Tensor], weights: Tensor, offset: Tensor | None = None) -> Tensor:
    """Weighted sum of the members' scores [T, ...] by each task's weights [T, M], plus its offset [T] if given."""
    axes = [1] * (parts[0].dim() - 1)
    total = torch.stack([p * weights[:, m].reshape(-1, *axes) for m, p in enumerate(parts)]).sum(0)
    return total if offset is None else total + offset.reshape(-1, *axes)


def _is_own(key: str) -> bool:
    """True for a parameter of the group itself."""
    return not key.partition("/")[0].isdecimal()


def _member_of(key: str) -> tuple[int, str]:
    i, _, member_key = key.partition("/")
    return int(i), member_key


def _limit_batch(batch: TaskBatch, tasks: int, query: int) -> TaskBatch:
    """The first tasks and the first query rows of a meta-batch, or of a part of one what is among them."""
    if batch.shard is not None:
        return batch.part_of(_limit_batch(batch.whole, tasks, query))
    if tasks and tasks < len(batch.entity):
        some = torch.arange(tasks, device=batch.entity.device)
        batch = TaskBatch(batch.entity[some], batch.support.of(some), batch.query.of(some))
    return replace(batch, query=batch.query.first(query)) if query else batch
