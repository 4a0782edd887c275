"""Mixtures of learners: two or more are trained side by side on the same episodes, and their scores are added.

    score = sum over members m of w_m(n) score_m + b(n),        w >= 0, n the size of the support

Weights and offset are chosen on meta-validation, whose entities no member has seen: for each support size those of
least log-loss, where rows of other sizes n' count with exp(-|log(1 + n) - log(1 + n')|), with a ridge towards equal
weights that sum to 1 and no offset. They need not end up with sum 1: that is a temperature; the offset is there because
new entities may have another click rate than past ones. Between sizes they are interpolated in log(1 + n). Members
whose errors differ are worth more together: that a mixture beats its best member is old (Wolpert 1992).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective, explain_errors
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.interpolation import support_size_weights
from recsys_meta.models.learners.bayesian.bernoulli import BernoulliPosterior
from recsys_meta.models.learners.warm_up.cvar import Cvar
from recsys_meta.models.learners.warm_up.meta_embedding import MetaEmbedding
from recsys_meta.models.learners.warm_up.mwuf import Mwuf
from recsys_meta.models.protocols import ParamGroup, PredictorConfig, UncertainPredictor

MEMBERS: dict[str, Any] = {kind.name: kind for kind in (BernoulliPosterior, Cvar, Mwuf, MetaEmbedding)}
"""Learners that can be mixed."""
MIXTURE_KEYS = ("sizes", "weights", "offset")
"""Parameters of the mixture itself: support sizes [K], weights [K, M], offset [K]."""
RIDGE = 200.0
"""Ridge towards equal weights and no offset, in rows."""
STEPS = 12
"""Newton steps."""


class MixtureMember(PredictorConfig):
    """One learner of a mixture. `rate` multiplies its learning rate; `tasks` and `query` bound the tasks and the query
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


class MixtureConfig(PredictorConfig):
    """Configuration of a mixture of at least two members."""

    objective: Objective = Field(default="click", description="objective of the data set")
    members: tuple[MixtureMember, ...] = Field(
        min_length=2, max_length=4, description="learners that are trained side by side, each with its own config"
    )

    @model_validator(mode="after")
    def _known(self) -> MixtureConfig:
        for member in self.members:
            if member.learner not in MEMBERS:
                raise ValueError(f"'{member.learner}' cannot be mixed; there are {', '.join(MEMBERS)}")
            if self.objective not in MEMBERS[member.learner].objectives:
                raise ValueError(f"'{member.learner}' does not serve the objective '{self.objective}'")
        return self

    @property
    def steps(self) -> int:
        """Number of inner steps of the member that takes most."""
        return max(int(getattr(m.config, "steps", 1)) for m in make_members(self))


def make_members(config: MixtureConfig) -> list[Any]:
    """Build the members as learners. Raises ConfigError for a wrong configuration of one."""
    members = []
    for member in config.members:
        kind = MEMBERS[member.learner]
        try:
            members.append(kind(kind.Config(**member.config)))
        except ValidationError as error:
            raise ConfigError(f"configuration of '{member.learner}': {explain_errors(error)}") from None
    return members


@dataclass(frozen=True)
class ScoreMixture:
    """The mixture that this module describes. Parameters and state of member i are under the prefix "i/"."""

    config: MixtureConfig
    name: ClassVar[str] = "blend"
    Config: ClassVar[type[MixtureConfig]] = MixtureConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset()

    @cached_property
    def members(self) -> list[Any]:
        """The member learners, in the order of the configuration."""
        return make_members(self.config)

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters of all members; their weights are equal until `calibrate`."""
        count = len(self.members)
        params: Params = {
            "sizes": torch.zeros(1),
            "weights": torch.full((1, count), 1 / count),
            "offset": torch.zeros(1),
        }
        for i, member in enumerate(self.members):
            params |= _prefixed(i, member.init(data, entities, generator))
        return params

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> list[Any]:
        """Training states of the members."""
        return [member.training_state(data, entities, generator) for member in self.members]

    def is_frozen(self, key: str) -> bool:
        if key in MIXTURE_KEYS:
            return True
        i, member_key = _member_of(key)
        return bool(self.members[i].is_frozen(member_key))

    def param_group(self, key: str) -> ParamGroup:
        i, member_key = _member_of(key)
        group: ParamGroup = self.members[i].param_group(member_key)
        return replace(group, rate=group.rate * self.config.members[i].rate)

    def body(self, params: Params) -> Params:
        body = {k: params[k] for k in MIXTURE_KEYS}
        for i, member in enumerate(self.members):
            body |= _prefixed(i, member.body(_of_member(params, i)))
        return body

    def adapt(self, body: Params, support: Support) -> State:
        """The states of all members, and size [T]."""
        state: State = {"size": support.rows.counts}
        for i, member in enumerate(self.members):
            # Copies: members may hold the same tensor of the support, but the leaves of a state must not share memory.
            state |= {k: v.clone() for k, v in _prefixed(i, member.adapt(_of_member(body, i), support)).items()}
        return state

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        parts = [m.score(_of_member(body, i), _of_member(state, i), rows) for i, m in enumerate(self.members)]
        return _mix_scores(parts, *_weights(body, state))

    def rank(self, body: Params, state: State) -> Tensor:
        parts = [m.rank(_of_member(body, i), _of_member(state, i)) for i, m in enumerate(self.members)]
        return _mix_scores(parts, *_weights(body, state))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        parts = [m.support_loss(_of_member(body, i), _of_member(state, i), support) for i, m in enumerate(self.members)]
        return _mix_scores(parts, _weights(body, state)[0])

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: list[Any], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Sum of the members' losses; no gradient passes from one to another."""
        total, metrics = torch.zeros((), device=batch.entity.device), dict[str, Tensor]()
        for i, (member, settings) in enumerate(zip(self.members, self.config.members, strict=True)):
            member_batch = _limit_batch(batch, settings.tasks, settings.query)
            loss, logs = member.meta_loss(_of_member(params, i), member_batch, training_state[i], generator)
            total = total + loss
            share = member_batch.share / batch.share
            metrics |= {f"{member.name}.{k}": v * share if share else torch.zeros_like(v) for k, v in logs.items()}
            metrics[f"{member.name}.loss"] = loss.detach() / batch.share
        return total, metrics

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Calibrate each member, then choose weights and offset by support size."""
        for i, member in enumerate(self.members):
            params = params | _prefixed(i, member.calibrate(_of_member(params, i), episodes))
        batches = sorted((b for b in episodes if b.query.mask.any()), key=_mean_size)
        if not batches:
            return params
        body = self.body(params)
        scores = [self._member_scores(body, b) for b in batches]
        label = [b.query.label[b.query.mask].double() for b in batches]
        sizes = torch.tensor([_mean_size(b) for b in batches])
        position = torch.log1p(sizes).double()
        rows = torch.tensor([len(y) for y in label])
        near = torch.exp(-(position[:, None] - position).abs()).repeat_interleave(rows, 1)
        lines = torch.stack([fit_weights(torch.cat(scores), torch.cat(label), row) for row in near]).float()
        return params | {"sizes": sizes, "weights": lines[:, :-1].contiguous(), "offset": lines[:, -1].contiguous()}

    def _member_scores(self, body: Params, batch: TaskBatch) -> Tensor:
        """Scores [N, M] of the query rows by each member, float64."""
        state, query = self.adapt(body, batch.support), batch.query
        parts = [m.score(_of_member(body, i), _of_member(state, i), query) for i, m in enumerate(self.members)]
        return torch.stack([p[query.mask] for p in parts], 1).double()


class ClickMixture(ScoreMixture):
    """A mixture of learners of clicks."""

    name: ClassVar[str] = "click-blend"
    objectives: ClassVar[frozenset[Objective]] = frozenset({"click"})

    class Config(MixtureConfig):
        """Configuration of `ClickMixture`; by default the exact posterior and CVAR on a frozen network."""

        objective: Literal["click"] = "click"
        members: tuple[MixtureMember, ...] = (
            MixtureMember(learner="bernoulli"),
            MixtureMember(learner="cvar", config={"dims": 32}, query=20),
        )

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the logit: that of the members with a posterior, by their weights."""
        parts = [
            m.score_std(_of_member(body, i), _of_member(state, i), rows)
            if isinstance(m, UncertainPredictor)
            else torch.zeros(rows.item.shape, device=rows.item.device)
            for i, m in enumerate(self.members)
        ]
        return _mix_scores(parts, _weights(body, state)[0])


def _prefixed(i: int, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{i}/{k}": v for k, v in values.items()}


def _of_member(values: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    return {k[len(f"{i}/") :]: v for k, v in values.items() if k.startswith(f"{i}/")}


def _member_of(key: str) -> tuple[int, str]:
    i, _, member_key = key.partition("/")
    return int(i), member_key


def _weights(body: Params, state: State) -> tuple[Tensor, Tensor]:
    """Weights of the members [T, M] and the offset [T], for each task's support size."""
    near = support_size_weights(state["size"].to(body["sizes"].dtype), body["sizes"])
    return near @ body["weights"], near @ body["offset"]


def _mix_scores(parts: Sequence[Tensor], weights: Tensor, offset: Tensor | None = None) -> Tensor:
    """Weighted sum of the members' scores [T, ...] by each task's weights [T, M], plus its offset [T] if given."""
    axes = [1] * (parts[0].dim() - 1)
    mixture = torch.stack([p * weights[:, m].reshape(-1, *axes) for m, p in enumerate(parts)]).sum(0)
    return mixture if offset is None else mixture + offset.reshape(-1, *axes)


def fit_weights(scores: Tensor, label: Tensor, row_weight: Tensor) -> Tensor:
    """Weights >= 0 of the members and an offset, [M + 1] float64, of least log-loss given the members' scores [N, M],
    labels [N] and row weights [N], with a ridge towards equal weights and no offset.

    Newton steps over the weights that are not 0; a weight that would fall below 0 stays at 0.
    """
    members = scores.shape[1]
    x = torch.cat([scores, torch.ones_like(scores[:, :1])], 1)
    start = torch.cat([scores.new_full((members,), 1 / members), scores.new_zeros(1)])
    line, free = start.clone(), torch.ones(members + 1, dtype=torch.bool)
    for _ in range(STEPS):
        probability = torch.sigmoid(x @ line)
        slope = x.T @ (row_weight * (probability - label)) + RIDGE * (line - start)
        curve = (x * (row_weight * probability * (1 - probability))[:, None]).T @ x + RIDGE * torch.eye(
            len(line), dtype=x.dtype
        )
        line[free] -= torch.linalg.solve(curve[free][:, free], slope[free])
        free[:-1] &= line[:-1] > 0
        line[:-1] = line[:-1].clamp(min=0)
    return line


def _mean_size(batch: TaskBatch) -> float:
    return float(batch.support.rows.counts.mean())


def _limit_batch(batch: TaskBatch, tasks: int, query: int) -> TaskBatch:
    """The first tasks and the first query rows of a meta-batch, or of a part of one what is among them."""
    if batch.shard is not None:
        return batch.part_of(_limit_batch(batch.whole, tasks, query))
    if tasks and tasks < len(batch.entity):
        some = torch.arange(tasks, device=batch.entity.device)
        batch = TaskBatch(batch.entity[some], batch.support.of(some), batch.query.of(some))
    return replace(batch, query=batch.query.first(query)) if query else batch
