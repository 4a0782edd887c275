"""Mixtures of learners: two or more are trained side by side on the same episodes, and their scores are added.

    score = sum over members m of w_m(n) score_m + b(n),        w >= 0, n the size of the support

Weights and offset are chosen on meta-validation, whose entities no member has seen: for each support size those of
least log-loss, where rows of other sizes n' count with exp(-|log(1 + n) - log(1 + n')|), with a ridge towards equal
weights that sum to 1 and no offset. They need not end up with sum 1: that is a temperature; the offset is there because
new entities may have another click rate than past ones. Between sizes they are interpolated in log(1 + n). Members
whose errors differ are worth more together: that a mixture beats its best member is old (Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective, explain_errors
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.interpolation import support_size_weights
from recsys_meta.models.functional.prefixed_keys import select_prefix
from recsys_meta.models.learners.bayesian.bernoulli import BernoulliPosterior
from recsys_meta.models.learners.learner_group import GroupMember, LearnerGroup, weighted_sum
from recsys_meta.models.learners.warm_up.cvar import Cvar
from recsys_meta.models.learners.warm_up.meta_embedding import MetaEmbedding
from recsys_meta.models.learners.warm_up.mwuf import Mwuf
from recsys_meta.models.protocols import PredictorConfig, UncertainPredictor

MEMBERS: dict[str, Any] = {kind.name: kind for kind in (BernoulliPosterior, Cvar, Mwuf, MetaEmbedding)}
"""Learners that can be mixed."""
RIDGE = 200.0
"""Ridge towards equal weights and no offset, in rows."""
STEPS = 12
"""Newton steps."""


class MixtureConfig(PredictorConfig):
    """Configuration of a mixture of at least two members."""

    objective: Objective = Field(default="click", description="objective of the data set")
    members: tuple[GroupMember, ...] = Field(
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


class ScoreMixture(LearnerGroup):
    """The mixture that this module describes."""

    config: MixtureConfig
    name: ClassVar[str] = "blend"
    Config: ClassVar[type[MixtureConfig]] = MixtureConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset()

    def make_members(self) -> list[Any]:
        return make_members(self.config)

    def init_group(self, data: Dataset, entities: IntArray) -> Params:
        """Support sizes [K], weights [K, M] and offset [K]; weights are equal until `calibrate`."""
        count = len(self.members)
        return {
            "sizes": torch.zeros(1),
            "weights": torch.full((1, count), 1 / count),
            "offset": torch.zeros(1),
        }

    def adapt(self, body: Params, support: Support) -> State:
        """The states of all members, and size [T]."""
        return {"size": support.rows.counts, **self.member_states(body, support)}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return weighted_sum(self.member_scores(body, state, rows), *_weights(body, state))

    def rank(self, body: Params, state: State) -> Tensor:
        return weighted_sum(self.member_rankings(body, state), *_weights(body, state))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return weighted_sum(self.member_losses(body, state, support), _weights(body, state)[0])

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Calibrate each member, then choose weights and offset by support size."""
        params = self.calibrate_members(params, episodes)
        batches = sorted((b for b in episodes if b.query.mask.any()), key=_mean_size)
        if not batches:
            return params
        body = self.body(params)
        scores = [self._row_scores(body, b) for b in batches]
        label = [b.query.label[b.query.mask].double() for b in batches]
        sizes = torch.tensor([_mean_size(b) for b in batches])
        position = torch.log1p(sizes).double()
        rows = torch.tensor([len(y) for y in label])
        near = torch.exp(-(position[:, None] - position).abs()).repeat_interleave(rows, 1)
        lines = torch.stack([fit_weights(torch.cat(scores), torch.cat(label), row) for row in near]).float()
        return params | {"sizes": sizes, "weights": lines[:, :-1].contiguous(), "offset": lines[:, -1].contiguous()}

    def _row_scores(self, body: Params, batch: TaskBatch) -> Tensor:
        """Scores [N, M] of the query rows by each member, float64."""
        scores = self.member_scores(body, self.adapt(body, batch.support), batch.query)
        return torch.stack([s[batch.query.mask] for s in scores], 1).double()


class ClickMixture(ScoreMixture):
    """A mixture of learners of clicks."""

    name: ClassVar[str] = "click-blend"
    objectives: ClassVar[frozenset[Objective]] = frozenset({"click"})

    class Config(MixtureConfig):
        """Configuration of `ClickMixture`; by default the exact posterior and CVAR on a frozen network."""

        objective: Literal["click"] = "click"
        members: tuple[GroupMember, ...] = (
            GroupMember(learner="bernoulli"),
            GroupMember(learner="cvar", config={"dims": 32}, query=20),
        )

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the logit: that of the members with a posterior, by their weights."""
        parts = [
            m.score_std(select_prefix(body, i), select_prefix(state, i), rows)
            if isinstance(m, UncertainPredictor)
            else torch.zeros(rows.item.shape, device=rows.item.device)
            for i, m in enumerate(self.members)
        ]
        return weighted_sum(parts, _weights(body, state)[0])


def _weights(body: Params, state: State) -> tuple[Tensor, Tensor]:
    """Weights of the members [T, M] and the offset [T], for each task's support size."""
    near = support_size_weights(state["size"].to(body["sizes"].dtype), body["sizes"])
    return near @ body["weights"], near @ body["offset"]


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
