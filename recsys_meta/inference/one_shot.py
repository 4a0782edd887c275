"""A list for one entity in one call, without a cache: what the command line prints and the API must equal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from recsys_meta.inference.ranking.fresh_slots import FreshDraw, FreshPolicy
from recsys_meta.inference.ranking.item_catalog import ScoredItem
from recsys_meta.inference.ranking.list_builder import ListRequest, shortfall
from recsys_meta.inference.ranking.list_cursor import ListPosition
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, QueryContext


@dataclass(frozen=True)
class RecommendedList:
    """A list for one entity, and how it came about.

    served_by: adapted or prior; unknown_items: items that the model lacks; unknown_features: names of features of
    which the model lacks the value; entity: what was adapted to; end: the position of the last item where more items
    follow it; shortfall: why the list has fewer items than were asked for; draws: what was drawn for places for new
    items, by name, None where there are no such places.
    """

    items: list[ScoredItem]
    served_by: str
    support_size: int
    unknown_items: tuple[str, ...]
    unknown_features: tuple[str, ...]
    milliseconds: float
    entity: EncodedEntity
    end: ListPosition | None
    shortfall: str | None = None
    draws: tuple[tuple[str, FreshDraw], ...] | None = None

    @property
    def support_digest(self) -> str:
        """Digest of the support."""
        return self.entity.digest


def recommend(
    recommender: Recommender,
    request: EntityRequest,
    n: int = 10,
    candidates: Sequence[str] | None = None,
    context: QueryContext | None = None,
    fresh: FreshPolicy | None = None,
) -> RecommendedList:
    """Adapt to an entity and rank for it: all items or some candidates, in a context and with places for new items
    where there are such.

    Raises DataError for features, events or a context that the model cannot read.
    """
    start = time.perf_counter()
    list_request = ListRequest(n, candidates, context=context, fresh=fresh)
    entity, query = recommender.lists.encode_query(recommender.read_support(request), list_request)
    state = recommender.adapt([entity])
    best_matter = query is None and recommender.lists.has_whole_catalogue(entity, list_request)
    scores = (
        recommender.best_scores(state, [entity])[0] if best_matter else recommender.score_catalog(state, query, entity)
    )
    draws: list[FreshDraw] = []
    if fresh is None:
        items, unknown_items, end = recommender.lists.build(scores, entity, list_request, query)
    else:
        (items, unknown_items, end), draws = recommender.lists.build_fresh(scores, entity, list_request, query)
    return RecommendedList(
        items,
        "adapted" if entity.support_size else "prior",
        entity.support_size,
        tuple(unknown_items),
        tuple(recommender.encoder.unknown_features(entity.features)),
        1000 * (time.perf_counter() - start),
        entity,
        end,
        shortfall(list_request, len(items), entity, query),
        None if fresh is None else tuple((recommender.catalog.item_name(one.item), one) for one in draws),
    )
