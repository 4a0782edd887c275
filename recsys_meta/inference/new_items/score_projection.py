"""Projection of an entity's scores of a model's own items on what is known of items, so that it scores new ones too.

With s [M] the scores of an entity, x_i [K] the content of item i, d_i how far its log popularity is from what content
says, and q_i [R] its place in the leading subspace of what both leave of scores, centred at their weighted mean m,

    s_i = m + beta . x_i + gamma d_i + h . q_i + rest

where beta, gamma and h [K + 1 + R] are linear in s: (beta, gamma, h) = (s - m) @ table. beta is a ridge regression, the
same as that from content to item vectors where scores are products of vectors. A new item has x and d, and its first
events say what its q is. All is fitted to the scores of probe entities, whose own rows have no part in it.

Nearest relatives: MARec (2024, closed-form content alignment), ridge regression to factors (Gantner 2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST

PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Penalties of the regression that are tried, in units of the mean square of a column."""

HALF_TRUST = 5.0
"""Events of an item at which its scores weigh half: a model knows little of rarer ones."""

LEAST_REMAINDER = 0.05
"""Least of 1 - leverage: an item that alone decides its own prediction is not predicted well without itself."""


@dataclass(frozen=True)
class ScoreProjection:
    """A fitted projection of scores [T, C].

    table [C, K + 2 + R]: its columns give beta, gamma, h and m; reduction [L, K]: what content of L columns is
    multiplied by, None where it has K; content [K]: mean of the items' content; popularity [K + 1]: regression of log
    popularity on content, its last number the mean; spread: standard deviation of log popularity around it; average
    [R]: mean h of the probes; explained: share of the scores' variance that content explains, each item left out in
    turn; places [C, D]: items in the space of the probes' scores, and axes [P, D] that project columns of such scores
    on it; probes [P, K + 1 + R]: their coordinates.
    """

    table: Tensor
    reduction: Tensor | None
    content: Tensor
    popularity: Tensor
    spread: float
    average: Tensor
    explained: float
    places: Tensor
    axes: Tensor
    probes: Tensor

    @property
    def rank(self) -> int:
        """Number of taste coordinates, R."""
        return len(self.average)

    def reduce(self, content: Tensor) -> Tensor:
        """Reduce content [N, L] to the columns [N, K] that the projection reads."""
        return content if self.reduction is None else content @ self.reduction

    def tastes(self, scores: Tensor) -> Tensor:
        """Taste coordinates h [T, R] of entities by their scores [T, C], in units of each one's deviation, less those
        of the average probe."""
        coordinates = scores @ self.table
        deviation = scores[:, FIRST:].std(1, correction=0).clamp(min=1e-9)
        first = self.table.shape[1] - 1 - self.rank
        return coordinates[:, first:-1] / deviation[:, None] - self.average


def fit_projection(
    scores: Tensor, content: Tensor, counts: Tensor, rank: int, dims: int, most_content: int = 128
) -> ScoreProjection:
    """Fit a projection to scores [P, C] of P probes, content [M, L] of the M items without the reserved ids, and counts
    [C] of their events; with at most `rank` taste coordinates, places of at most `dims` numbers, and content reduced to
    `most_content` columns where it has more."""
    weight = (counts[FIRST:] / (counts[FIRST:] + HALF_TRUST)).double()
    weight = weight / weight.sum() if weight.sum() > 0 else torch.full_like(weight, 1 / len(weight))
    s = _standardized(scores[:, FIRST:].double(), weight)
    mean_content = weight @ content.double()
    x = content.double() - mean_content
    solver, leverage, ridge = _fit_ridge(s, x, weight)
    remainder = (1 - leverage).clamp(min=LEAST_REMAINDER)
    p = counts[FIRST:].double().log1p()
    level = weight @ p
    reduction = None
    if x.shape[1] > most_content:
        coefficients = torch.cat([(p - level)[None] @ solver, s @ solver])
        reduction, inverse = _leading_content(coefficients, (weight @ x.square() + ridge).sqrt(), most_content)
        x, solver, mean_content = x @ reduction, solver @ inverse, mean_content @ reduction
    residual = s - (s @ solver) @ x.T
    alone = s - residual / remainder
    slope = solver.T @ (p - level)
    excess = p - level - x @ slope
    spread = float((weight @ (excess / remainder).square()).sqrt())
    gain = weight * excess / (weight @ excess.square()).clamp(min=1e-12)
    rest = residual - (residual @ gain)[:, None] * excess
    taste = _leading_rows(rest, min(rank, len(s) // 4))
    columns = torch.cat([solver, _of_residual(gain[:, None], x, solver), _of_residual(taste, x, solver)], 1)
    columns = torch.cat([columns - weight[:, None] * columns.sum(0), weight[:, None]], 1)
    return ScoreProjection(
        table=torch.nn.functional.pad(columns, (0, 0, FIRST, 0)).float().contiguous(),
        reduction=None if reduction is None else reduction.float(),
        content=mean_content.float(),
        popularity=torch.cat([slope, level[None]]).float(),
        spread=spread,
        average=(s @ columns[:, -1 - taste.shape[1] : -1]).mean(0).float(),
        explained=float(1 - ((s - alone).square() @ weight).sum() / (s.square() @ weight).sum().clamp(min=1e-12)),
        **_places(s, columns[:, :-1], dims),
    )


def _standardized(scores: Tensor, weight: Tensor) -> Tensor:
    """Centre scores [P, M] at their weighted mean and divide them by their standard deviation."""
    centred = scores - (scores @ weight)[:, None]
    return centred / scores.std(1, correction=0).clamp(min=1e-9)[:, None]


def _fit_ridge(s: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the penalty with the least error with each item left out; return the solver [M, K], with which
    beta = s @ solver, the leverage [M] of each item, and what was added to the mean squares of columns."""
    weighted = weight[:, None] * x
    gram = weighted.T @ x
    scale = gram.diagonal().mean() if len(gram) else torch.tensor(1.0)
    least, best = math.inf, (weighted, weight, scale)
    for penalty in PENALTIES:
        ridge = penalty * scale + 1e-9
        matrix = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        solver = weighted @ torch.linalg.inv(matrix)
        leverage = weight + (solver * x).sum(1)
        alone = (s - (s @ solver) @ x.T) / (1 - leverage).clamp(min=LEAST_REMAINDER)
        error = float((alone.square() @ weight).sum())
        if error < least:
            least, best = error, (solver, leverage, ridge)
    return best


def _leading_content(coefficients: Tensor, width: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Find the few columns of content by which it predicts nearly as it does by all: those of the leading singular
    vectors of regressions' coefficients [B, L], each in units of its column's `width` [L]; the first regression is kept
    as it is. Return what content is multiplied by [L, K], and what coefficients are [L, K]."""
    scaled = coefficients * width
    leading = torch.linalg.eigh(scaled.T @ scaled)[1][:, 1 - columns :].flip(1)
    basis = torch.linalg.qr(torch.cat([scaled[:1].T, leading], 1))[0]
    return basis / width[:, None], basis * width[:, None]


def _of_residual(columns: Tensor, x: Tensor, solver: Tensor) -> Tensor:
    """Change columns [M, N] that are meant for what the regression leaves of scores into such for the scores."""
    return columns - solver @ (x.T @ columns)


def _leading_rows(rest: Tensor, rank: int) -> Tensor:
    """Leading right singular vectors [M, R] of [P, M]."""
    if rank < 1:
        return rest.new_zeros(rest.shape[1], 0)
    value, vector = torch.linalg.eigh(rest @ rest.T)
    keep = value[-rank:] > 1e-9 * value[-1].clamp(min=1e-12)
    value, vector = value[-rank:][keep], vector[:, -rank:][:, keep]
    rows: Tensor = rest.T @ (vector / value.sqrt())
    return rows


def _places(s: Tensor, columns: Tensor, dims: int) -> dict[str, Tensor]:
    """Items in the space of the probes' scores s [P, M], less what all probes think of them; see `ScoreProjection`."""
    centred = s - s.mean(0)
    vector = torch.linalg.eigh(centred @ centred.T)[1][:, -dims:]
    axes = vector - vector.mean(0)  # projects columns that were not centred
    return {
        "places": torch.nn.functional.pad(s.T @ axes, (0, 0, FIRST, 0)).float(),
        "axes": axes.float(),
        "probes": (s @ columns).float(),
    }
