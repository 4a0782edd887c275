"""Ensemble of predictors: a weighted sum of their scores, with weights for each number of support rows.

For a ranking the scores of a member are standardized over an entity's catalogue and added in two forms, as they are
and top-heavy (`functional.score_forms`); clicks (log-odds) and ratings are added as they are, with a bias. Between the
numbers of shots that weights were chosen for they are interpolated linearly in log(1 + n). How they are chosen:
`recsys_meta.evaluation.ensemble`.

Stacked generalization (Wolpert 1992); ensemble selection (Caruana 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from recsys_meta.core.schema import Objective
from recsys_meta.core.types import Interactions, Params, State, Support
from recsys_meta.models.functional.interpolation import support_size_weights
from recsys_meta.models.functional.prefixed_keys import add_prefix, select_prefix
from recsys_meta.models.functional.score_forms import RANKING_FORMS, standardize, top_heavy
from recsys_meta.models.protocols import Predictor, PredictorConfig, UncertainPredictor, WarmStartPredictor


class EnsembleMember(BaseModel):
    """Member: a registered learner or baseline, or with `per_shot` the baseline tuned for each number of shots."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    predictor: str
    config: dict[str, Any] = {}
    per_shot: bool = False


class EnsembleConfig(PredictorConfig):
    """Members, and their weights [K, F] and biases [K] at each of K numbers of shots.

    F is the number M of members or, for a ranking, 2 M: first the standardized forms, then the top-heavy ones.
    """

    objective: Objective = "ranking"
    members: tuple[EnsembleMember, ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)
    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        forms = RANKING_FORMS if self.objective == "ranking" else 1
        if list(self.shots) != sorted(set(self.shots)) or min(self.shots) < 0:
            raise ValueError("shots must be distinct, ascending and not negative")
        if len(self.weights) != len(self.shots) or any(len(w) != forms * len(self.members) for w in self.weights):
            raise ValueError(f"weights must have a row for each of shots, of {forms} numbers for each member")
        if self.bias and len(self.bias) != len(self.shots):
            raise ValueError("bias must have a number for each of shots")
        return self


class Ensemble:
    """Predictor that adds up the scores of its members. Keys of bodies and states are `<member>/<key>`."""

    name: ClassVar[str] = "ensemble"

    def __init__(self, config: EnsembleConfig, members: Sequence[Predictor]) -> None:
        self.config, self.members = config, tuple(members)
        self._weights = torch.tensor(config.weights)
        self._bias = torch.tensor(config.bias or (0.0,) * len(config.shots))
        self.coarse = frozenset(f"{i}/{leaf}" for i, m in enumerate(members) for leaf in getattr(m, "coarse", ()))
        self.reads_order = any(getattr(m, "reads_order", False) for m in members)

    def body(self, params: Params) -> Params:
        bodies: Params = {}
        for i, member in enumerate(self.members):
            bodies |= add_prefix(i, member.body(select_prefix(params, i)))
        return bodies

    def adapt(self, body: Params, support: Support) -> State:
        """States of the members under `<member>/`, and the numbers of support rows, size [T] int64."""
        state: State = {"size": support.rows.mask.sum(1)}
        for i, member in enumerate(self.members):
            state |= add_prefix(i, member.adapt(select_prefix(body, i), support))
        return state

    def rank(self, body: Params, state: State) -> Tensor:
        if self.config.objective == "ranking":
            return self._add_rankings(body, state)
        return self._add_scores(state, lambda i, m: m.rank(select_prefix(body, i), select_prefix(state, i)))

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        if self.config.objective == "ranking":
            return self._add_rankings(body, state).gather(1, rows.item)
        return self._add_scores(state, lambda i, m: m.score(select_prefix(body, i), select_prefix(state, i), rows))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Loss [T] of the first member, which is the loss that its adaptation descends: the sum has none, as item-item
        members leave the support's own items out."""
        return self.members[0].support_loss(select_prefix(body, 0), select_prefix(state, 0), support)

    def _add_rankings(self, body: Params, state: State) -> Tensor:
        weights, count = self._weights_for(state), len(self.members)
        total: Tensor | None = None
        for i, member in enumerate(self.members):
            plain, heavy = weights[:, i, None], weights[:, count + i, None]
            has_plain, has_heavy = bool(plain.any()), bool(heavy.any())
            if not (has_plain or has_heavy):
                continue
            z = standardize(member.rank(select_prefix(body, i), select_prefix(state, i)))
            for part in ([plain * z] if has_plain else []) + ([heavy * top_heavy(z)] if has_heavy else []):
                total = part if total is None else total + part
        if total is None:  # no member has any weight: all items score the same
            first = self.members[0]
            return torch.zeros_like(first.rank(select_prefix(body, 0), select_prefix(state, 0)))
        return total

    def _add_scores(self, state: State, scores: Callable[[int, Predictor], Tensor]) -> Tensor:
        """Add up scores(i, member) [T, R] of the members that have a weight for any of the tasks, and the bias."""
        weights = self._weights_for(state)
        total = (self._size_weights(state) @ self._bias)[:, None]
        for i, member in enumerate(self.members):
            if weights[:, i].any():
                total = total + weights[:, i, None] * scores(i, member)
        return total

    def _weights_for(self, state: State) -> Tensor:
        """Weights [T, F] of the forms, by the sizes of the supports."""
        return self._size_weights(state) @ self._weights

    def _size_weights(self, state: State) -> Tensor:
        return support_size_weights(state["size"].to(self._weights.dtype), self.config.shots)


class WarmStartEnsemble(Ensemble):
    """Ensemble whose first member has a start that many entities share, as they do states that rows do not change."""

    def start(self, body: Params, support: Support) -> State:
        """Start of the first member, and states of the members that do not read the rows."""
        start = add_prefix(0, self._first.start(select_prefix(body, 0), support))
        for i in self._shared:
            start |= add_prefix(i, self.members[i].adapt(select_prefix(body, i), support))
        return start

    def adapt_from(self, body: Params, start: State, support: Support) -> State:
        """State of `adapt`, from a start of `start`."""
        state: State = {"size": support.rows.mask.sum(1)}
        state |= add_prefix(0, self._first.adapt_from(select_prefix(body, 0), select_prefix(start, 0), support))
        for i, member in enumerate(self.members[1:], 1):
            if i in self._shared:
                state |= {k: v for k, v in start.items() if k.startswith(f"{i}/")}
            else:
                state |= add_prefix(i, member.adapt(select_prefix(body, i), support))
        return state

    @cached_property
    def _shared(self) -> list[int]:
        return [i for i, member in enumerate(self.members) if not getattr(member, "reads_rows", True)]

    @property
    def _first(self) -> WarmStartPredictor:
        first = self.members[0]
        if not isinstance(first, WarmStartPredictor):
            raise TypeError(f"'{first.name}' has no start")
        return first


class UncertainEnsemble(Ensemble):
    """Ensemble whose first member has a posterior. Its uncertainty stands for that of the sum."""

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the first member's scores of rows."""
        first = self.members[0]
        if not isinstance(first, UncertainPredictor):
            raise TypeError(f"'{first.name}' has no posterior")
        return first.score_std(select_prefix(body, 0), select_prefix(state, 0), rows)


class UncertainWarmStartEnsemble(WarmStartEnsemble, UncertainEnsemble):
    """Ensemble whose first member has both."""


def make_ensemble(config: EnsembleConfig, members: Sequence[Predictor]) -> Ensemble:
    """Build the ensemble of a configuration from its members, in their order; it can what its first member can."""
    has_start = isinstance(members[0], WarmStartPredictor)
    has_posterior = isinstance(members[0], UncertainPredictor)
    if has_start and has_posterior:
        return UncertainWarmStartEnsemble(config, members)
    if has_start:
        return WarmStartEnsemble(config, members)
    return UncertainEnsemble(config, members) if has_posterior else Ensemble(config, members)


def member_params(params: Sequence[Mapping[str, Tensor]]) -> Params:
    """Parameters of an ensemble from those of its members."""
    return {key: value for i, part in enumerate(params) for key, value in add_prefix(i, part).items()}
