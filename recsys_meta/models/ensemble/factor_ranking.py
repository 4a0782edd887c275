"""Rankings of an ensemble, or of the flagship alone, by products: a query that adds up the members' own, and the scores
of a few items.

The best items of a list are far above the mean of each member that has much weight, where the top-heavy form is all but
linear. So (plain + heavy) * z, summed over members, orders the catalogue roughly as the sum of both forms does, and is
one product of the standardized queries with all factors. Mean and deviation over the catalogue, for which every score
would be needed, follow from the moments of the factors. Members without factors are scored as elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, FloatArray, IntArray, Params, State
from recsys_meta.models.ensemble.ensemble import Ensemble
from recsys_meta.models.functional.prefixed_keys import PrefixedTensors, select_prefix
from recsys_meta.models.functional.score_forms import RANKING_FORMS
from recsys_meta.models.functional.standardized_scores import mixture_scales, weigh_forms
from recsys_meta.models.protocols import EvidenceMixture, FactorPredictor, FactorRanking, FactorScores, Predictor

BLOCK = 1 << 15
"""Items whose factors are in double precision at a time."""


def factor_ranking(predictor: Predictor, body: Params) -> FactorRanking | None:
    """Return the rankings of a predictor by factors; None where it has none."""
    if isinstance(predictor, Ensemble):
        return _EnsembleFactors.of(predictor, body)
    if isinstance(predictor, FactorPredictor) and (table := predictor.factor_table(body)) is not None:
        return _PlainFactors(predictor, body, [table])
    return None


@dataclass(frozen=True)
class _PlainFactors:
    """Rankings of a predictor whose scores are its evidence."""

    predictor: FactorPredictor
    body: Params
    tables: Sequence[Tensor]

    def scores(self, state: State) -> FactorScores:
        query = self.predictor.query(self.body, state).numpy()
        return FactorScores(query, None, lambda items: self.predictor.item_evidence(self.body, state, items))


class _Moments(NamedTuple):
    """Moments of factors over the catalogue: mean [D], covariance [D, D], and covariance with a level [D]."""

    mean: FloatArray
    covariance: FloatArray
    shared: FloatArray

    def of(self, query: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean, variance and covariance with the level [T] of the products of queries [T, D]; each of its own."""
        rows = query.astype(np.float64)[:, None]
        variance = np.matmul(np.matmul(rows, self.covariance), rows.swapaxes(1, 2))[:, 0, 0]
        return np.matmul(rows, self.mean)[:, 0], np.maximum(variance, 0), np.matmul(rows, self.shared)[:, 0]


class _MemberForm(NamedTuple):
    """A member's mixture, of queries [T, D] in place of evidence where it has factors, and mean, variance and
    covariance with the level [T] of its evidence."""

    mixture: EvidenceMixture
    mean: FloatArray
    variance: FloatArray
    shared: FloatArray


@dataclass(frozen=True)
class _EnsembleFactors:
    """Rankings of an ensemble. members: those that have factors, and their moments; tables: their factors, and last
    the levels that they are mixed with, [L, C]; level_row: the row of each member's level."""

    ensemble: Ensemble
    body: Params
    members: dict[int, tuple[FactorPredictor, _Moments]]
    tables: Sequence[Tensor]
    level_row: IntArray

    @classmethod
    def of(cls, ensemble: Ensemble, body: Params) -> FactorRanking | None:
        """None for other objectives than rankings, and where no member has factors."""
        if ensemble.config.objective != "ranking" or "mixture/level" not in body:
            return None
        factors = _factors_of(ensemble, body)
        if not factors:
            return None
        level = body["mixture/level"]
        if not level.shape[1]:  # no member is mixed with popularity
            level = torch.zeros(len(level), next(iter(factors.values())).shape[1])
        rows, row = torch.unique(level[list(factors)], dim=0, return_inverse=True)
        members = {i: (_factor_member(ensemble, i), _moments(table, level[i])) for i, table in factors.items()}
        return cls(ensemble, body, members, [*factors.values(), rows], row.numpy())

    def scores(self, state: State) -> FactorScores:
        ensemble, size = self.ensemble, state["size"]
        state = PrefixedTensors(state)  # each member's part is read twice
        used = ensemble.members_with_weight(size)
        plain, heavy = ensemble.weights_at(size).reshape(len(size), RANKING_FORMS, -1)[:, :, used].swapaxes(0, 1)
        forms = [self._form(i, state) for i in used]
        mean, variance, shared, weight, gain = np.array(
            [(f.mean, f.variance, f.shared, f.mixture.weight, f.mixture.gain) for f in forms], np.float32
        ).transpose(1, 2, 0)
        count = float(max(self.tables[0].shape[1] - FIRST, 1))
        moments = self.body["mixture/moments"].numpy()[used]
        slope, share = mixture_scales(mean, variance, shared, weight, gain, moments, count)
        evidence = [form.mixture.evidence.numpy() for form in forms]
        top = plain + heavy
        steepness, level = top * slope, top * share
        return FactorScores(
            self._query(used, evidence, steepness, level),
            self._rest(used, evidence, steepness, level),
            lambda items: self._of_items(used, evidence, state, items, (slope, mean, share), (plain, heavy)),
        )

    def _form(self, i: int, state: State) -> _MemberForm:
        body, own = select_prefix(self.body, i), select_prefix(state, i)
        if i in self.members:
            member, moments = self.members[i]
            mixture = member.mix(own, member.query(body, own))
            return _MemberForm(mixture, *moments.of(mixture.evidence.numpy()))
        mixture = self.ensemble.mixture_of(i, body, own)
        values = mixture.evidence.numpy()[:, FIRST:]
        count = np.float32(max(values.shape[1], 1))
        mean = values.sum(1) / count
        centred = values - mean[:, None]
        level = self.body["mixture/level"].numpy()
        shared = np.vecdot(centred, level[i, FIRST:]) / count if level.size else np.zeros_like(mean)
        return _MemberForm(mixture, mean, np.vecdot(centred, centred) / count, shared)

    def _query(
        self, used: Sequence[int], evidence: Sequence[FloatArray], slope: FloatArray, share: FloatArray
    ) -> FloatArray:
        """Query [T, D] for all tables: the members' own by their slopes, and the share of each level."""
        tasks = len(slope)
        levels = np.zeros((tasks, len(self.tables[-1])), np.float32)
        parts: list[FloatArray] = []
        for position, (i, table) in enumerate(zip(self.members, self.tables, strict=False)):
            if i not in used:
                parts.append(np.zeros((tasks, len(table)), np.float32))
                continue
            m = used.index(i)
            parts.append(evidence[m] * slope[:, m, None])
            levels[:, self.level_row[position]] += share[:, m]
        return np.concatenate([*parts, levels], 1)

    def _rest(
        self, used: Sequence[int], evidence: Sequence[FloatArray], slope: FloatArray, share: FloatArray
    ) -> FloatArray | None:
        """Sum [T, C] of the members without factors."""
        level, rest = self.body["mixture/level"].numpy(), None
        for m, i in enumerate(used):
            if i in self.members:
                continue
            part = evidence[m] * slope[:, m, None]
            if level.size and share[:, m].any():
                part += share[:, m, None] * level[i]
            rest = part if rest is None else rest + part
        return rest

    def _of_items(
        self,
        used: Sequence[int],
        evidence: Sequence[FloatArray],
        state: State,
        items: IntArray,
        scales: tuple[FloatArray, FloatArray, FloatArray],
        weights: tuple[FloatArray, FloatArray],
    ) -> FloatArray:
        """Scores [T, K] of items [T, K], both forms of all members."""
        slope, mean, share = scales
        level = self.body["mixture/level"].numpy()
        z = np.empty((len(items), len(used), items.shape[1]), np.float32)
        for m, i in enumerate(used):
            if i in self.members:
                own = select_prefix(self.body, i), select_prefix(state, i)
                z[:, m] = self.members[i][0].item_evidence(*own, items)
            else:
                z[:, m] = np.take_along_axis(evidence[m], items, 1)
            z[:, m] -= mean[:, m, None]
            z[:, m] *= slope[:, m, None]
            if level.size:
                z[:, m] += share[:, m, None] * level[i][items]
        return weigh_forms(z, *weights)


def _factor_member(ensemble: Ensemble, i: int) -> FactorPredictor:
    member = ensemble.members[i]
    if not isinstance(member, FactorPredictor):
        raise TypeError(f"'{member.name}' has no factors")
    return member


def _factors_of(ensemble: Ensemble, body: Params) -> dict[int, Tensor]:
    """Factors of the members that have some and a weight at any size of support."""
    tables: dict[int, Tensor] = {}
    for i, member in enumerate(ensemble.members):
        if ensemble.is_used(i) and isinstance(member, FactorPredictor):
            table = member.factor_table(select_prefix(body, i))
            if table is not None:
                tables[i] = table
    return tables


def _moments(table: Tensor, level: Tensor) -> _Moments:
    """Moments of factors [D, C] over the items, and with a level [C] whose mean is 0."""
    columns = table[:, FIRST:]
    count, dims = max(columns.shape[1], 1), len(columns)
    total, square, shared = torch.zeros(dims).double(), torch.zeros(dims, dims).double(), torch.zeros(dims).double()
    for start in range(0, columns.shape[1], BLOCK):
        block = columns[:, start : start + BLOCK].double()
        total += block.sum(1)
        square += block @ block.T
        shared += block @ level[FIRST + start : FIRST + start + BLOCK].double()
    mean = total / count
    covariance = square / count - mean[:, None] * mean
    return _Moments(mean.numpy(), covariance.numpy(), (shared / count).numpy())
