"""A block of new items: their vectors beside the scores of a model's own items."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.inference.new_items.item_relevance import EntityInputs, ItemRelevance, SignalInputs
from recsys_meta.inference.new_items.known_content import KnownContent
from recsys_meta.inference.new_items.known_histories import KnownHistories, KnownLevels
from recsys_meta.inference.new_items.relevance_choices import event_bin
from recsys_meta.inference.new_items.score_projection import ScoreProjection
from recsys_meta.inference.new_items.stored_items import Evidence, ItemEvidence
from recsys_meta.models.functional.linear_algebra import batch_invariant_product
from recsys_meta.models.new_items.catalogue_placement import place_scores
from recsys_meta.models.new_items.content_profiles import Rows

TARGET = 1.5
"""Deviations by which an item is above what content and popularity say of it, for an entity that liked it."""

NOISE = 1.0
"""Variance of that."""

MOST_SPREAD = 3.0
"""Deviation of log popularity beyond which the prior grows no wider."""

MOST_GUIDES = 20
"""Entities that liked an item whose tastes are looked at: the first ones."""

Basis = Literal["content", "popularity"]
"""What a new item was placed by, beside its first events."""


@dataclass(frozen=True)
class NewItemBlock:
    """N new items. vectors [K + 1 + R, N] for coordinates of `projection`; popularity [N]: expected log counts; events
    [N]: likes that were counted; has_content [N]: True where a feature is one that items of the model have; places
    [N, D]: as those of the projection; ranking: where scores only order items, else None."""

    projection: ScoreProjection
    names: Sequence[str]
    vectors: Tensor
    popularity: Tensor
    events: Sequence[int]
    has_content: Sequence[bool]
    places: Tensor
    ranking: NewItemRanking | None

    def extend(self, scores: Tensor, histories: KnownHistories | None = None) -> Tensor:
        """Append scores of the new items to scores [T, C]: [T, C + N]. Without histories nothing is known of what
        entities met."""
        coordinates = batch_invariant_product(scores, self.projection.table)
        if self.ranking is None:
            new = self._expected(coordinates)
        else:
            new = self.ranking.scores(scores[:, FIRST:], coordinates[:, :-1], histories)
        return torch.cat([scores, new], 1)

    def _expected(self, coordinates: Tensor) -> Tensor:
        """Expected scores [T, N] of the new items, in the units of the model."""
        # The product of one column is another program of the library, with other last bits for other batches.
        columns = self.vectors if len(self.names) > 1 else self.vectors.expand(-1, 2)
        return batch_invariant_product(coordinates[:, :-1], columns)[:, : len(self.names)] + coordinates[:, -1:]

    def digest(self) -> bytes:
        """Digest of all that scores of the new items depend on beside the model."""
        digest = hashlib.blake2b(repr(list(self.names)).encode(errors="replace"), digest_size=16)
        digest.update(self.vectors.numpy().tobytes())
        if self.ranking is not None:
            digest.update(self.ranking.relevance.content)
        return digest.digest()

    def basis(self, position: int) -> tuple[Basis, int]:
        """Return what a new item was placed by, and the number of its first events."""
        return "content" if self.has_content[position] else "popularity", self.events[position]


@dataclass(frozen=True)
class NewItemRanking:
    """Ranking of new items among known ones: their relevance, and the scale, offset and lift [3, N] of each one's
    place (`CataloguePlacement`)."""

    relevance: ItemRelevance
    places: Tensor

    def scores(self, known: Tensor, coordinates: Tensor, histories: KnownHistories | None) -> Tensor:
        """Scores [T, N] of new items beside those of known ones [T, M], of which coordinates are given."""
        if histories is None:
            none = sp.csr_matrix(tuple(known.shape), dtype=np.float32)
            histories = KnownHistories(none, np.ones(tuple(known.shape), bool))
        z = torch.from_numpy(self.relevance.scores(entity_inputs(known, coordinates, histories))).double()
        levels = KnownLevels.of(known, histories.unmet)
        mean, spread, tenth = (torch.from_numpy(level) for level in levels)
        return (mean + spread * place_scores(z, (tenth - mean) / spread, *self.places)).float()


def entity_inputs(known: Tensor, coordinates: Tensor, histories: KnownHistories) -> EntityInputs:
    """Collect what relevance depends on, of entities with scores [T, M] of known items."""
    whole = KnownLevels.of(known, np.ones(tuple(known.shape), bool)).deviation
    return EntityInputs(coordinates.numpy() / whole, histories.liked, histories.unmet)


def build_block(
    projection: ScoreProjection,
    names: Sequence[str],
    content: Tensor,
    evidence: Evidence,
    known: KnownContent | None = None,
    rows: Rows | None = None,
) -> NewItemBlock:
    """Place new items by their content [N, K] and first events; where scores only order items also by `rows` of their
    features, as the model's own are `known`."""
    x = content - projection.content
    has_content = content.any(1) if content.shape[1] else torch.zeros(len(names), dtype=torch.bool)
    x = x * has_content[:, None]  # without content an item is an average one
    expected = projection.popularity[-1] + x @ projection.popularity[:-1]
    first = [evidence.get(name) for name in names]
    shape = _gamma_shape(projection.spread)
    excess = _popularity_excess(expected, first, shape)
    taste = _taste_vectors(projection, first)
    events = [0 if one is None else one.events for one in first]
    vectors = torch.cat([x, excess[:, None], taste], 1)
    columns = projection.probes @ vectors.T
    ranking = None
    if known is not None:
        inputs = _signal_inputs(projection, vectors, expected + excess, first, known, rows or {})
        places = [known.choices.of(b).placement for b in inputs.bins.tolist()]
        relevance = ItemRelevance(inputs, known.choices)
        ranking = NewItemRanking(relevance, torch.tensor(places, dtype=torch.float64).reshape(-1, 3).T)
    return NewItemBlock(
        projection,
        list(names),
        vectors.T.contiguous(),
        expected + excess,
        events,
        has_content.tolist(),
        columns.T @ projection.axes,
        ranking,
    )


def _signal_inputs(
    projection: ScoreProjection,
    vectors: Tensor,
    popularity: Tensor,
    evidence: Sequence[ItemEvidence | None],
    known: KnownContent,
    rows: Rows,
) -> SignalInputs:
    """Collect what the signals are made of; the reference items are as new ones without events."""
    x = known.content[known.positions] - projection.content
    width = x.shape[1] + 1
    level, spread = projection.popularity[-1], max(float(np.log1p(known.counts).std()), 1e-3)
    log_counts = torch.cat([level + x @ projection.popularity[:-1], popularity])
    return SignalInputs(
        profiles=known.profiles.known,
        targets=known.targets(rows),
        vectors=torch.cat([torch.nn.functional.pad(x, (0, 1)), vectors[:, :width]]).numpy(),
        popularity=((log_counts - level) / spread).numpy(),
        taste=vectors[:, width:].numpy(),
        shared=known.shared_entities(evidence),
        reference=known.positions,
        bins=np.array([event_bin(0 if one is None else one.events) for one in evidence], np.int64),
    )


def _popularity_excess(expected: Tensor, evidence: Sequence[ItemEvidence | None], shape: float) -> Tensor:
    """Expected log popularity [N] of items beyond that of their content, from the number of their events.

    Counts are Poisson with a rate whose prior is a gamma distribution: its mean is what content says, its shape that of
    the model's own items. Without traffic it is 0.
    """
    prior = expected.double().expm1().clamp(min=1e-3)
    rows = [(0.0, 0.0) if one is None or one.traffic is None else (one.events, one.traffic) for one in evidence]
    counts = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)
    posterior = (shape + counts[:, 0]) / (shape / prior + counts[:, 1])
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
