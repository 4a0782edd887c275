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

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FloatArray, IntArray, Interactions, Params, State, Support
from recsys_meta.models.functional.host_reads import is_readable
from recsys_meta.models.functional.interpolation import support_size_weights
from recsys_meta.models.functional.prefixed_keys import PrefixedTensors, add_prefix, select_prefix
from recsys_meta.models.functional.score_forms import RANKING_FORMS, standardize, top_heavy
from recsys_meta.models.functional.standardized_scores import popularity_table, sum_of_forms
from recsys_meta.models.protocols import (
    EvidenceMixture,
    MixturePredictor,
    Predictor,
    PredictorConfig,
    UncertainPredictor,
    WarmStartPredictor,
    constant_mixture,
)


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
        self._weight_table, self._bias_table = _tables_by_size(config)
        # Checked once: an isinstance of a protocol takes as long as a small adaptation.
        self._mixes = {i: m for i, m in enumerate(members) if isinstance(m, MixturePredictor)}
        self.coarse = frozenset(f"{i}/{leaf}" for i, m in enumerate(members) for leaf in getattr(m, "coarse", ()))
        self.reads_order = any(getattr(m, "reads_order", False) for m in members)

    def body(self, params: Params) -> Params:
        bodies: Params = {}
        for i, member in enumerate(self.members):
            bodies |= add_prefix(i, member.body(select_prefix(params, i)))
        if self.config.objective == "ranking":
            bodies |= self._mixture_tables(bodies)
        return PrefixedTensors(bodies)

    def _mixture_tables(self, bodies: Params) -> Params:
        """Tables of the members for `MixturePredictor.mixture`, and those of `popularity_table`."""
        tables: Params = {}
        for i, member in self._mixes.items():
            tables |= add_prefix(i, member.mixture_tables(select_prefix(bodies, i)))
        popularity = [tables.get(f"{i}/mixture/popularity") for i in range(len(self.members))]
        return tables | add_prefix("mixture", popularity_table(popularity))

    def adapt(self, body: Params, support: Support) -> State:
        """States of the members under `<member>/`, and the numbers of support rows, size [T] int64."""
        state: State = {"size": support.rows.sizes}
        used = self.members_with_weight(state["size"])
        for i, member in enumerate(self.members):
            state |= add_prefix(i, _adapt_member(member, select_prefix(body, i), support, is_used=i == 0 or i in used))
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
        size, count = state["size"], len(self.members)
        row = self._row(size)
        used = self._members_of(row)
        if not used:  # no member has any weight: all items score the same
            first = self.members[0]
            return torch.zeros_like(first.rank(select_prefix(body, 0), select_prefix(state, 0)))
        if is_readable(size) and "mixture/level" in body:
            mixtures = [self.mixture_of(i, select_prefix(body, i), select_prefix(state, i)) for i in used]
            shares = self._weight_table[row].T.reshape(RANKING_FORMS, count, -1)
            rows = used if len(used) < count else slice(None)
            return sum_of_forms(
                [m.evidence for m in mixtures],
                np.array([m.weight for m in mixtures]),
                np.array([m.gain for m in mixtures]),
                body["mixture/level"].numpy()[rows],
                body["mixture/moments"].numpy()[rows],
                *shares[:, rows],
            )
        weights = self._weights_for(state)
        total = torch.zeros(())
        for i in used:
            z = standardize(self.members[i].rank(select_prefix(body, i), select_prefix(state, i)))
            total = total + weights[:, i, None] * z + weights[:, count + i, None] * top_heavy(z)
        return total

    def mixture_of(self, i: int, body: Params, state: State) -> EvidenceMixture:
        """Score the catalogue as a mixture of a member; scores are their own evidence where it has no mixture."""
        if i in self._mixes:
            return self._mixes[i].mixture(body, state)
        return constant_mixture(self.members[i].rank(body, state))

    def _add_scores(self, state: State, scores: Callable[[int, Predictor], Tensor]) -> Tensor:
        """Add up scores(i, member) [T, R] of the members that have a weight for any of the tasks, and the bias."""
        weights = self._weights_for(state)
        total = torch.from_numpy(self._bias_table[self._row(state["size"])]).to(weights.device)[:, None]
        for i in self.members_with_weight(state["size"]):
            total = total + weights[:, i, None] * scores(i, self.members[i])
        return total

    def _weights_for(self, state: State) -> Tensor:
        """Weights [T, F] of the forms, by the sizes of the supports."""
        size = state["size"]
        return torch.from_numpy(self.weights_at(size)).to(size.device)

    def weights_at(self, size: Tensor) -> FloatArray:
        """Look up the weights [T, F] of the forms for support sizes [T]."""
        weights: FloatArray = self._weight_table[self._row(size)]
        return weights

    def members_with_weight(self, size: Tensor) -> list[int]:
        """Find the members that have a weight at one of the support sizes [T]."""
        return self._members_of(self._row(size))

    def _members_of(self, row: IntArray) -> list[int]:
        if len(row) == 1:  # a list that is held costs a tenth of a search
            return self._used_members[row[0]]
        return np.flatnonzero(self._has_weight[row].any(0)).tolist()

    def is_used(self, i: int) -> bool:
        """Return True for a member that has a weight at any support size."""
        return bool(self._has_weight[:, i].any())

    @cached_property
    def _used_members(self) -> list[list[int]]:
        """Members that have a weight, by support size."""
        return [np.flatnonzero(mask).tolist() for mask in self._has_weight]

    @cached_property
    def _has_weight(self) -> npt.NDArray[np.bool_]:
        """Mask [N, M] of the members that have a weight, by support size."""
        forms = self._weight_table != 0
        mask: npt.NDArray[np.bool_] = forms.reshape(len(forms), -1, len(self.members)).any(1)
        return mask

    def _row(self, size: Tensor) -> IntArray:
        """Rows of the tables by size for support sizes [T]."""
        # In NumPy: for one entity its operations cost a third of torch's.
        row: IntArray = np.minimum(size.cpu().numpy(), len(self._weight_table) - 1)
        return row


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
        state: State = {"size": support.rows.sizes}
        state |= add_prefix(0, self._first.adapt_from(select_prefix(body, 0), select_prefix(start, 0), support))
        used = self.members_with_weight(state["size"])
        for i, member in enumerate(self.members[1:], 1):
            if i in self._shared:
                state |= {k: v for k, v in start.items() if k.startswith(f"{i}/")}
            else:
                state |= add_prefix(i, _adapt_member(member, select_prefix(body, i), support, is_used=i in used))
        return state

    @cached_property
    def _shared(self) -> list[int]:
        return [i for i, member in enumerate(self.members) if not getattr(member, "reads_rows", True)]

    @cached_property
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


def _tables_by_size(config: EnsembleConfig) -> tuple[FloatArray, FloatArray]:
    """Weights [N, F] and bias [N] for supports of 0 to N - 1 rows; the last ones are those of larger supports, too."""
    interpolation = support_size_weights(torch.arange(max(config.shots) + 1.0), config.shots)
    bias = torch.tensor(config.bias or (0.0,) * len(config.shots))
    return (interpolation @ torch.tensor(config.weights)).numpy(), (interpolation @ bias).numpy()


def _adapt_member(member: Predictor, body: Params, support: Support, *, is_used: bool) -> State:
    """State of a member. Without a weight for any of the entities it is not asked, and its state is that of no rows."""
    return member.adapt(body, support if is_used else support.empty())


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
