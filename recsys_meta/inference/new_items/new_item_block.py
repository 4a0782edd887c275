"""A block of new items: their vectors beside the scores of a model's own items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys_meta.inference.new_items.exposure import EVENT_BINS
from recsys_meta.inference.new_items.score_projection import ScoreProjection
from recsys_meta.inference.new_items.stored_items import Evidence, ItemEvidence
from recsys_meta.models.functional.linear_algebra import batch_invariant_product

TARGET = 1.5
"""Deviations by which an item is above what content and popularity say of it, for an entity that liked it."""

NOISE = 1.0
"""Variance of that."""

MOST_SPREAD = 3.0
"""Deviation of log popularity beyond which the prior grows no wider."""

MOST_GUIDES = 20
"""Entities that liked an item whose tastes are looked at: the first ones."""

MOST_SAMPLED = 5000
"""Items that a factor is chosen on, about."""

Basis = Literal["content", "popularity"]
"""What a new item was placed by, beside its first events."""


@dataclass(frozen=True)
class NewItemBlock:
    """N new items. vectors [K + 1 + R, N] for coordinates of `projection`; popularity [N]: expected log counts; events
    [N]: likes that were counted; has_content [N]: True where a feature is one that items of the model have; places
    [N, D]: as those of the projection."""

    projection: ScoreProjection
    names: Sequence[str]
    vectors: Tensor
    popularity: Tensor
    events: Sequence[int]
    has_content: Sequence[bool]
    places: Tensor

    def extend(self, scores: Tensor) -> Tensor:
        """Append scores of the new items to scores [T, C]: [T, C + N]."""
        coordinates = batch_invariant_product(scores, self.projection.table)
        # The product of one column is another program of the library, with other last bits for other batches.
        columns = self.vectors if len(self.names) > 1 else self.vectors.expand(-1, 2)
        new = batch_invariant_product(coordinates[:, :-1], columns)[:, : len(self.names)] + coordinates[:, -1:]
        return torch.cat([scores, new], 1)

    def basis(self, position: int) -> tuple[Basis, int]:
        """Return what a new item was placed by, and the number of its first events."""
        return "content" if self.has_content[position] else "popularity", self.events[position]


def build_block(
    projection: ScoreProjection, names: Sequence[str], content: Tensor, evidence: Evidence, *, stretched: bool = True
) -> NewItemBlock:
    """Place new items by their content [N, K] and first events; `stretched` where scores only order items, so that
    lists hold the new ones as often as others of their popularity."""
    x = content - projection.content
    has_content = content.any(1) if content.shape[1] else torch.zeros(len(names), dtype=torch.bool)
    x = x * has_content[:, None]  # without content an item is an average one
    expected = projection.popularity[-1] + x @ projection.popularity[:-1]
    first = [evidence.get(name) for name in names]
    shape = _gamma_shape(projection.spread)
    excess = _popularity_excess(expected, first, shape)
    taste = _taste_vectors(projection, first)
    events = torch.tensor([0 if one is None else one.events for one in first])
    popularity, doubt = expected + excess, shape / (shape + events)
    vectors = torch.cat([x, excess[:, None], taste], 1)
    rate = projection.exposure.expected(popularity, projection.spread * doubt.sqrt())
    if stretched:
        vectors = vectors * _stretch(projection, vectors, events, rate)[:, None]
    columns = projection.probes @ vectors.T
    return NewItemBlock(
        projection,
        list(names),
        vectors.T.contiguous(),
        popularity,
        events.tolist(),
        has_content.tolist(),
        columns.T @ projection.axes,
    )


def _stretch(projection: ScoreProjection, vectors: Tensor, events: Tensor, rate: Tensor) -> Tensor:
    """Factors [N] that make lists hold items with about as many events as often as their rates [N] say."""
    factor = torch.ones(len(vectors))
    group = torch.bucketize(events, torch.tensor(EVENT_BINS), right=True)
    for one in set(group.tolist()):
        rows = (group == one).nonzero()[:, 0]
        sample = rows[:: max(1, len(rows) // MOST_SAMPLED)]
        factor[rows] = projection.exposure.stretch(projection.probes @ vectors[sample].T, rate[sample])
    return factor


def _popularity_excess(expected: Tensor, evidence: Sequence[ItemEvidence | None], shape: float) -> Tensor:
    """Expected log popularity [N] of items beyond that of their content, from the number of their events.

    Counts are Poisson with a rate whose prior is a gamma distribution: its mean is what content says, its shape that of
    the model's own items. Without events and traffic it is 0.
    """
    prior = expected.double().expm1().clamp(min=1e-3)
    events = torch.tensor([0 if one is None else one.events for one in evidence], dtype=torch.float64)
    traffic = torch.tensor([0.0 if one is None else one.traffic for one in evidence], dtype=torch.float64)
    posterior = (shape + events) / (shape / prior + traffic)
    return (posterior.log1p() - prior.log1p()).float()


def _gamma_shape(spread: float) -> float:
    """Shape of the gamma distribution with the coefficient of variation of a log-normal one whose logarithm has this
    standard deviation."""
    return 1 / max(math.expm1(min(spread, MOST_SPREAD) ** 2), 1e-3)


def _taste_vectors(projection: ScoreProjection, evidence: Sequence[ItemEvidence | None]) -> Tensor:
    """Posterior means [N, R] of the items' taste coordinates given those of entities that liked them.

    h . q = TARGET + noise for each of them, and the prior of q is that of the model's own items, whose coordinates are
    orthonormal columns. What moves the average entity is taken out: popularity says that already.
    """
    items, rank = len(projection.table), projection.rank
    vectors = torch.zeros(len(evidence), rank)
    rows = [i for i, one in enumerate(evidence) if one is not None and len(one.tastes)]
    if not rows or not rank:
        return vectors
    tastes = [one.tastes[:MOST_GUIDES] for i in rows if (one := evidence[i]) is not None]
    h = torch.nn.utils.rnn.pad_sequence(tastes, batch_first=True)  # [n, G, R], 0 where there is none
    matrix = h.transpose(1, 2) @ h / NOISE + items * torch.eye(rank)
    q = torch.linalg.solve(matrix, h.sum(1) * (TARGET / NOISE))
    average = projection.average
    q = q - (q @ average / average.square().sum().clamp(min=1e-9))[:, None] * average
    vectors[rows] = q
    return vectors


def nearest_items(places: Tensor, position: int, allowed: Tensor, n: int) -> list[tuple[float, int]]:
    """Find the n items [C] of which places [C, D] point most nearly where one of them does, among those allowed [C]
    bool: cosines and positions, best first. An item at the origin is near none: its taste is not known."""
    length = places.norm(dim=1)
    is_known = length > 0
    if not is_known[position]:
        return []
    cosine = (places @ places[position]) / (length * length[position]).clamp(min=1e-12)
    cosine[~(allowed & is_known)] = -torch.inf
    cosine[position] = -torch.inf
    best = torch.topk(cosine, min(n, len(cosine)))
    return [(v, i) for v, i in zip(best.values.tolist(), best.indices.tolist(), strict=True) if v > -torch.inf]
