"""Selector: which learner for this newcomer? Trained learners, and shares of them by the meta-features of the task.

    x = meta-features of the support, standardized;   share = softmax(x W + b), or all to the highest logit
    score_i = sum over members m of share_m z_m(i)

z_m are a member's scores, in a ranking standardized over the catalogue; log-odds and ratings are comparable as they
are. The members are trained side by side on the same episodes. The shares are fitted after it, on episodes of
meta-validation entities: on those that members were trained with, who knows them by heart would be trusted. By `way`
they are a gate trained by gradient (`gate`), a policy by Q-values or by evolution (`policy`), the best single learner,
or equal. Each level from the best single learner to all meta-features is taken only where it is better on held-out
entities (`cross_fitting`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.plugin_registry import PluginRegistry
from recsys_meta.core.schema import Objective, explain_errors
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.prefixed_keys import add_prefix, select_prefix
from recsys_meta.models.functional.score_forms import standardize
from recsys_meta.models.functional.task_meta_features import META_FEATURES, init_meta_features, task_meta_features
from recsys_meta.models.learners.learner_group import GroupMember, LearnerGroup, weighted_sum
from recsys_meta.models.learners.selection.cross_fitting import (
    Fit,
    FittedShares,
    SelectionLevel,
    choose_level,
    fit_best_single,
)
from recsys_meta.models.learners.selection.gate import fit_gate
from recsys_meta.models.learners.selection.linear_shares import LinearShares, equal_shares
from recsys_meta.models.learners.selection.policy import fit_evolution, fit_q_values
from recsys_meta.models.learners.selection.selection_episodes import (
    SelectionEpisodes,
    ranking_episodes,
    row_episodes,
)
from recsys_meta.models.protocols import PredictorConfig

SHARED_SETTINGS = ("dropout", "decay", "negatives")
"""Settings of the selector that hold for each member which has them."""
BOUND = 3.0
"""Standard deviations at which a meta-feature is cut off: a task unlike all others is not to decide by that alone."""
BY_SIZE = ("log_size", "empty")
"""Meta-features that depend on the size of the support alone."""
STRENGTHS: dict[str, tuple[Fit, tuple[float, ...]]] = {
    "gate": (fit_gate, (0.003, 0.03)),
    "q-values": (fit_q_values, (0.01, 0.1, 1.0, 10.0)),
    "evolution": (fit_evolution, (0.0, 0.03)),
}
"""Fit of each way, and strengths of its regularisation to choose from."""

log = logging.getLogger(__name__)


class SelectorConfig(PredictorConfig):
    """Configuration of `LearnerSelector`: at least two members, and the way that shares are chosen."""

    objective: Literal["ranking", "rating", "click"] = Field(default="ranking", description="objective of the data set")
    way: Literal["gate", "q-values", "evolution", "best", "equal"] = Field(
        default="gate", description="how shares are chosen: mixed by a gate, picked by a policy, the best one, or equal"
    )
    members: tuple[GroupMember, ...] = Field(
        default=(
            GroupMember(learner="ridge-head"),
            GroupMember(learner="maml"),
            GroupMember(learner="prototypical"),
            GroupMember(learner="neural-process"),
        ),
        min_length=2,
        max_length=8,
        description="learners that are trained side by side, each with its own config",
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="dropout of each member that has one; none: its own"
    )
    decay: float | None = Field(default=None, ge=0, description="weight decay of each member; none: its own")
    negatives: int = Field(
        default=0, ge=0, description="sampled softmax of each member with so many; 0: its own setting"
    )

    @model_validator(mode="after")
    def _known(self) -> SelectorConfig:
        learners = _registry()
        for member in self.members:
            if member.learner not in learners or member.learner == LearnerSelector.name:
                names = ", ".join(name for name in learners if name != LearnerSelector.name)
                raise ValueError(f"'{member.learner}' is no learner to choose; there are {names}")
            if self.objective not in learners[member.learner].objectives:
                raise ValueError(f"'{member.learner}' does not serve the objective '{self.objective}'")
        return self

    @property
    def steps(self) -> int:
        """Number of inner steps of the member that takes most."""
        return max(int(getattr(m.config, "steps", 1)) for m in make_members(self))


def make_members(config: SelectorConfig) -> list[Any]:
    """Build the members as learners. Raises ConfigError for a wrong configuration of one."""
    members, learners = [], _registry()
    shared = {k: v for k in SHARED_SETTINGS if (v := getattr(config, k)) or (k != "negatives" and v is not None)}
    for member in config.members:
        kind = learners[member.learner]
        known = {k: v for k, v in shared.items() if k in kind.Config.model_fields}
        try:
            members.append(kind(kind.Config(**{"objective": config.objective, **known, **member.config})))
        except ValidationError as error:
            raise ConfigError(f"configuration of '{member.learner}': {explain_errors(error)}") from None
    return members


def _registry() -> PluginRegistry[type[Any]]:
    """Learners by name, those of installed packages too."""
    from recsys_meta.models.learners import LEARNERS  # it holds this learner as well, so it is read when it is complete

    return LEARNERS


class LearnerSelector(LearnerGroup):
    """The learner that this module describes."""

    config: SelectorConfig
    name: ClassVar[str] = "selector"
    Config: ClassVar[type[SelectorConfig]] = SelectorConfig
    objectives: ClassVar[frozenset[Objective]] = frozenset({"ranking", "rating", "click"})

    @property
    def reads_order(self) -> bool:
        """True where a member reads the order of the rows."""
        return any(getattr(member, "reads_order", False) for member in self.members)

    def make_members(self) -> list[Any]:
        return make_members(self.config)

    def init_group(self, data: Dataset, entities: IntArray) -> Params:
        """Tables of the meta-features, their mean and deviation [D], and equal shares, until `calibrate`."""
        data.schema.require_objective(self.config.objective, self.name)
        width = len(META_FEATURES)
        moments = {"gate.mean": torch.zeros(width), "gate.deviation": torch.ones(width)}
        shares = equal_shares(width, len(self.config.members))
        return {**init_meta_features(data, entities), **moments, **_share_params(shares)}

    def adapt(self, body: Params, support: Support) -> State:
        """Shares of the members, share [T, M], and their states. A member without a share of any task is not asked: its
        state is that of no rows."""
        share = _shares(body).of(self.meta_features(body, support)).contiguous()
        state: State = {"share": share}
        used = self._used(share)
        for i, member in enumerate(self.members):
            own = member.adapt(select_prefix(body, i), support if i in used else support.empty())
            state |= {k: v.clone() for k, v in add_prefix(i, own).items()}
        return state

    def meta_features(self, body: Params, support: Support) -> Tensor:
        """Standardized meta-features [T, D] of T supports, cut off at BOUND."""
        plain = task_meta_features(body, support)
        return ((plain - body["gate.mean"]) / body["gate.deviation"]).clamp(-BOUND, BOUND)

    def _used(self, share: Tensor) -> list[int]:
        """Members with a share of any task; all where reading the shares would stall, and one in any case."""
        count = len(self.members)
        return [i for i in range(count) if not is_readable(share) or bool((share[:, i] > 0).any())] or [0]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        if self.config.objective == "ranking":
            return self.rank(body, state).gather(1, rows.item)
        return self._mix(body, state, lambda m, own, part: m.score(own, part, rows))

    def rank(self, body: Params, state: State) -> Tensor:
        is_ranking = self.config.objective == "ranking"
        return self._mix(
            body, state, lambda m, own, part: standardize(m.rank(own, part)) if is_ranking else m.rank(own, part)
        )

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Losses [T] of the members, by their shares."""
        return self._mix(body, state, lambda m, own, part: m.support_loss(own, part, support))

    def _mix(self, body: Params, state: State, scores: Callable[[Any, Params, State], Tensor]) -> Tensor:
        """Sum of scores(member, body, state) [T, ...] of the members by the shares of a state."""
        used = self._used(state["share"])
        parts = [scores(self.members[i], select_prefix(body, i), select_prefix(state, i)) for i in used]
        return weighted_sum(parts, state["share"][:, used])

    @torch.no_grad()
    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Calibrate each member, then fit the shares."""
        params = self.calibrate_members(params, episodes)
        params, collected = self.selection_episodes(params, episodes)
        if collected is None or len(set(collected.entity.tolist())) < 2:
            return params
        fitted = fit_shares(collected, self.config.way)
        log.info(
            "shares of learners: %s, %+.4f over the best single one on held-out entities", fitted.level, fitted.gain
        )
        return params | _share_params(fitted.shares)

    def selection_episodes(
        self, params: Params, episodes: Sequence[TaskBatch]
    ) -> tuple[Params, SelectionEpisodes | None]:
        """Standardize the meta-features on episodes. Returns the parameters with their moments and, for fitting shares,
        the episodes with the members' scores; None where no episode has anything to score."""
        batches = [b for b in episodes if b.query.mask.any()]
        if not batches:
            return params, None
        plain = torch.cat([task_meta_features(params, b.support) for b in batches])
        deviation = plain.std(0, correction=0)
        moments = {"gate.mean": plain.mean(0), "gate.deviation": torch.where(deviation > 1e-6, deviation, 1.0)}
        params = params | moments
        body = self.body(params)
        features = [self.meta_features(body, b.support) for b in batches]
        states = [self.member_states(body, b.support) for b in batches]
        if self.config.objective == "ranking":
            scores = [self.member_rankings(body, s) for s in states]
            return params, ranking_episodes(batches, features, scores)
        scores = [self.member_scores(body, s, b.query) for s, b in zip(states, batches, strict=True)]
        return params, row_episodes(batches, features, scores, self.config.objective == "click")


def fit_shares(episodes: SelectionEpisodes, way: str, seed: int = 0) -> FittedShares:
    """Fit shares to episodes in one of the ways of `SelectorConfig`."""
    width, members = episodes.features.shape[1], episodes.members
    if way == "equal":
        return FittedShares(equal_shares(width, members), "equal", 0.0)
    levels = [SelectionLevel("best single", fit_best_single, torch.zeros(width), (0.0,))]
    if way != "best":
        fit, strengths = STRENGTHS[way]
        by_size = torch.tensor([float(name in BY_SIZE) for name in META_FEATURES])
        if way == "gate":
            levels.append(SelectionLevel("same for all", fit, torch.zeros(width), strengths[:1]))
        levels.append(SelectionLevel("by size", fit, by_size, strengths))
        levels.append(SelectionLevel("by meta-features", fit, torch.ones(width), strengths))
    return choose_level(episodes, levels, seed)


def _shares(body: Params) -> LinearShares:
    return LinearShares(body["gate.weight"], body["gate.bias"], body["gate.pick"])


def _share_params(shares: LinearShares) -> Params:
    return {"gate.weight": shares.weight, "gate.bias": shares.bias, "gate.pick": shares.pick}
