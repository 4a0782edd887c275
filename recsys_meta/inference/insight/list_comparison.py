"""A list beside the one that the same entity would get before its first event: what adapting moved, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from recsys_meta.core.types import FIRST, FloatArray
from recsys_meta.inference.insight.explanations import ItemExplanation, explain_items, without_rows
from recsys_meta.inference.ranking.item_catalog import ScoredItem
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.ranking.topk import top_k
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.inference.requests.query_context import EncodedQuery


@dataclass(frozen=True)
class ComparedItem:
    """An item of a list. value: the probability of a click, the share of a choice or the expected rating, None for a
    ranking, whose scores have no unit; other_rank: its rank in the other list, however long that would be."""

    item: str
    title: str | None
    rank: int
    value: float | None
    other_rank: int | None
    explanation: ItemExplanation | None = None


@dataclass(frozen=True)
class ListComparison:
    """The list of an entity, and the one before its first event, among the same items."""

    adapted: list[ComparedItem]
    unadapted: list[ComparedItem]
    support_size: int
    unknown_items: tuple[str, ...]


@dataclass(frozen=True)
class _ScoredEntity:
    """An entity with the scores [C] of what may be listed, minus infinity elsewhere."""

    entity: EncodedEntity
    query: EncodedQuery | None
    scores: FloatArray

    def ranks(self, ids: list[int]) -> list[int | None]:
        """Count the items before each of some, ties by id; None for one that may not be listed."""
        listed = [self.scores[i] for i in ids if self.scores[i] > -np.inf]
        # Of a large catalogue few items are as high as these.
        high = np.flatnonzero(self.scores >= min(listed, default=np.inf))
        values = self.scores[high]

        def rank(i: int) -> int:
            score = self.scores[i]
            return 1 + int((values > score).sum() + ((values == score) & (high < i)).sum())

        return [rank(i) if self.scores[i] > -np.inf else None for i in ids]


def compare_lists(
    recommender: Recommender, request: EntityRequest, list_request: ListRequest, *, explain: bool = False
) -> ListComparison:
    """Rank for an entity with its events and without them. Items that it met are in neither list, where lists leave
    them out. Filters are not looked at.

    Raises DataError for features, events or a context that the model cannot read.
    """
    lists = recommender.lists
    entity, query = lists.encode_query(recommender.read_support(request), list_request)
    excluded = [
        recommender.catalog.item_name(i, entity.catalog) for i in lists.excluded_ids(entity, list_request, query)
    ]
    newcomer, first_query = lists.encode_query(
        _without_events(recommender, request, entity, list_request), list_request
    )
    adapted = _side(recommender, entity, query, list_request, excluded)
    unadapted = _side(recommender, newcomer, first_query, list_request, excluded)
    return ListComparison(
        _compared(recommender, adapted, unadapted, list_request.n, explain=explain and entity.support_size > 0),
        _compared(recommender, unadapted, adapted, list_request.n),
        entity.support_size,
        entity.unknown_items,
    )


def _without_events(
    recommender: Recommender, request: EntityRequest, entity: EncodedEntity, list_request: ListRequest
) -> EncodedEntity:
    """Return the entity as it was at first. Its own catalogue is what its events told, and stays where the caller names
    no candidates: else there would be nothing to list."""
    if entity.catalog is not None and list_request.candidates is None:
        return without_rows(entity, range(entity.support_size))
    return recommender.read_support(EntityRequest(request.features))


def _side(
    recommender: Recommender,
    entity: EncodedEntity,
    query: EncodedQuery | None,
    request: ListRequest,
    excluded: list[str],
) -> _ScoredEntity:
    catalog = recommender.catalog
    size = catalog.size(entity.catalog)
    allowed = np.full(size, request.candidates is None)
    allowed[catalog.known_item_ids(request.candidates or (), entity.catalog)] = True
    allowed[catalog.known_item_ids(excluded, entity.catalog)] = False
    allowed[:FIRST] = False
    if entity.catalog is None:
        allowed[catalog.hidden_ids] = False
    if not allowed.any():
        return _ScoredEntity(entity, query, np.full(size, -np.inf))
    scores = recommender.score_catalog(recommender.adapt([entity]), query, entity).numpy()
    return _ScoredEntity(entity, query, np.where(allowed & np.isfinite(scores), scores, -np.inf))


def _compared(
    recommender: Recommender, side: _ScoredEntity, other: _ScoredEntity, n: int, *, explain: bool = False
) -> list[ComparedItem]:
    best = top_k(torch.from_numpy(side.scores), n)
    items = recommender.catalog.to_items(best, side.entity.catalog)
    ids = [i for _, i in best]
    whys = explain_items(recommender, side.entity, ids, side.query) if explain and ids else [None] * len(ids)
    values = _values(recommender, side, items)
    other_ids = recommender.catalog.item_ids([one.item for one in items], other.entity.catalog)
    rows = zip(items, values, other.ranks(other_ids), whys, strict=True)
    return [
        ComparedItem(one.item, one.title, rank, value, other_rank, why)
        for rank, (one, value, other_rank, why) in enumerate(rows, 1)
    ]


def _values(recommender: Recommender, side: _ScoredEntity, items: list[ScoredItem]) -> list[float | None]:
    """Turn the scores of some items into probabilities, shares or ratings, where they are such."""
    scores = torch.tensor([one.score for one in items], dtype=torch.float64)
    match recommender.bundle.schema.objective:
        case "click":
            return list(scores.sigmoid().tolist())
        case "choice":
            total = torch.logsumexp(torch.from_numpy(side.scores).double(), 0)
            return list((scores - total).exp().tolist())
        case "rating":
            return list(scores.tolist())
        case _:
            return [None] * len(items)
