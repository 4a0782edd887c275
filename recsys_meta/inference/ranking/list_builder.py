"""From scores to a list: what is left out of it, which items it may hold, and its best n.

The API, the command line and batch jobs make their lists here, so that equal requests get equal lists.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.inference.ranking.filters import FeatureFilter, filter_mask, unknown_values
from recsys_meta.inference.ranking.fresh_slots import (
    MOST_CANDIDATES,
    FreshDraw,
    FreshPolicy,
    deviations,
    draw_slots,
    merge_slots,
)
from recsys_meta.inference.ranking.item_catalog import ItemCatalog, ScoredItem
from recsys_meta.inference.ranking.list_cursor import ListPosition
from recsys_meta.inference.ranking.topk import TopK, top_k_array, top_k_rows
from recsys_meta.inference.requests.encoder import RequestEncoder
from recsys_meta.inference.requests.entity import EncodedEntity, EntityCatalogSpec, QueryContext, RawFeatures
from recsys_meta.inference.requests.query_context import EncodedQuery, QueryEncoder

SKIP_COST = 8
"""Items of a catalogue that cost as much to copy as it costs to look at one more of the best."""


class TopKRequest(NamedTuple):
    """The n best of the model's catalogue, without some of its ids: a list that can be made for many at once."""

    n: int
    exclude: Collection[int] = ()


@dataclass(frozen=True)
class ListRequest:
    """A list as a caller asks for it; items are raw names.

    candidates: the only items that may be listed (None: all); exclude: items that may not; filters: what features of
    items must be; include_seen: list items that the entity has met, but none that it disliked (None: only where
    entities have catalogues of their own, as those choose the same item again); context: when and by whom;
    item_features: features of candidates and of the context's history, by item, where the caller gives some; fresh: the
    places for items with few events (None: every item stands where its score puts it).
    """

    n: int = 10
    candidates: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    filters: Mapping[str, FeatureFilter] = field(default_factory=dict)
    include_seen: bool | None = None
    context: QueryContext | None = None
    item_features: Mapping[str, RawFeatures] = field(default_factory=dict)
    fresh: FreshPolicy | None = None


class ItemList(NamedTuple):
    """A list, best first. unknown_items: items of the support and of the candidates that the model lacks; end: the
    position of the last item where more items follow it, else None."""

    items: list[ScoredItem]
    unknown_items: list[str]
    end: ListPosition | None


def shortfall(request: ListRequest, count: int, entity: EncodedEntity, query: EncodedQuery | None = None) -> str | None:
    """Say why a list for an entity has fewer items than were asked for; None where it has all."""
    if count >= request.n:
        return None
    omitted = bool(_omitted_ids(request, entity, query))
    bounds = {
        "candidates": request.candidates is not None,
        "filters": bool(request.filters),
        "exclude": bool(request.exclude),
        "what was met": omitted and not request.include_seen,
        "what was disliked": omitted and bool(request.include_seen),
    }
    names = [name for name, in_force in bounds.items() if in_force]
    return f"no other item is left by {', '.join(names)}" if names else "the catalogue has no other item"


def _omitted_ids(request: ListRequest, entity: EncodedEntity, query: EncodedQuery | None) -> frozenset[int]:
    """Collect the ids that a list leaves out because the entity, or the actor of the context, met or disliked them."""
    if entity.catalog is None:
        return frozenset(entity.dislikes) if request.include_seen else entity.seen_items
    if request.include_seen is not False:  # an entity that chooses may well choose the same item again
        return frozenset()
    context = request.context
    by_actor = context is not None and (context.actor is not None or context.history is not None)
    return query.actor_items if query and by_actor else entity.seen_items


class ListBuilder:
    """Makes the lists of one model."""

    def __init__(self, catalog: ItemCatalog, encoder: RequestEncoder, queries: QueryEncoder) -> None:
        self.catalog, self._encoder, self._queries = catalog, encoder, queries

    def encode_query(self, entity: EncodedEntity, request: ListRequest) -> tuple[EncodedEntity, EncodedQuery | None]:
        """Encode the context of a request, None where the list is for no context, and add items that the request
        describes to the entity's own catalogue.

        Raises DataError for a context or for features that the model does not have.
        """
        candidates = request.candidates or ()
        if request.context is None and (entity.catalog is None or not candidates):
            if entity.catalog is None and any(request.item_features.get(name) for name in candidates):
                raise DataError(
                    "only entities with items of their own can be told of new ones",
                    field="features",
                    remedy="PUT /v1/items/{id} makes an item known to all",
                )
            return entity, None
        features: dict[str, RawFeatures] = {name: {} for name in candidates}
        features.update(request.item_features)
        return self._queries.encode(entity, request.context or QueryContext(), features)

    def excluded_ids(
        self, entity: EncodedEntity, request: ListRequest, query: EncodedQuery | None = None
    ) -> Collection[int]:
        """Collect the ids that a list leaves out: what was met, what the caller excludes, what is never an answer."""
        ids = _omitted_ids(request, entity, query)
        if entity.catalog is not None and query is not None:
            ids |= query.hidden_items
        if not request.exclude:
            return ids
        return ids.union(self.catalog.known_item_ids(request.exclude, entity.catalog))

    @staticmethod
    def has_whole_catalogue(entity: EncodedEntity, request: ListRequest) -> bool:
        """Return True for a list that may hold any of the model's items, of which only the best matter."""
        whole = entity.catalog is None and request.candidates is None and not request.filters
        return whole and request.fresh is None

    def batch_request(self, entity: EncodedEntity, request: ListRequest) -> TopKRequest | None:
        """Return the request in the form that can be answered for many entities at once, with one item more to tell
        whether any follow; None for a list of candidates or with filters, or of a catalogue of the entity's own."""
        if not self.has_whole_catalogue(entity, request):
            return None
        return TopKRequest(request.n + 1, self.excluded_ids(entity, request))

    def build(
        self,
        scores: Tensor,
        entity: EncodedEntity,
        request: ListRequest,
        query: EncodedQuery | None = None,
        after: ListPosition | None = None,
    ) -> ItemList:
        """Make the list that a request asks for from scores [C], behind a position where the list goes on.

        Raises DataError for a filter that is wrong for its feature.
        """
        candidates, unknown = None, list(entity.unknown_items)
        if request.candidates is not None:
            candidates = self.catalog.item_ids(request.candidates, entity.catalog)
            missing = {name for name, i in zip(request.candidates, candidates, strict=True) if i < FIRST}
            unknown = sorted(missing.union(unknown))
        items = self.top_k(
            scores,
            request.n + 1,
            exclude=self.excluded_ids(entity, request, query),
            candidates=candidates,
            entity_catalog=entity.catalog,
            mask=self.filter_mask(request.filters, entity) if request.filters else None,
            after=after,
        )
        return self._cut(items, unknown, entity, request)

    def build_fresh(
        self, scores: Tensor, entity: EncodedEntity, request: ListRequest, query: EncodedQuery | None = None
    ) -> tuple[ItemList, list[FreshDraw]]:
        """Make a list with the slots for items with few events that its request asks for, and say what was drawn for
        them. Nothing follows such a list. Raises DataError as `build`, and for a catalogue of the entity's own."""
        policy, catalog = request.fresh, self.catalog
        if policy is None or entity.catalog is not None:
            raise DataError("entities with items of their own have no fresh ones", field="fresh", remedy="Leave it out")
        own = torch.zeros(catalog.size() - len(catalog.new_events), dtype=torch.bool)
        mask = torch.cat([own, catalog.new_events < policy.events])
        open_for = self.filter_mask(request.filters, entity) if request.filters else torch.ones_like(mask)
        candidates = None if request.candidates is None else catalog.item_ids(request.candidates)
        best = partial(self.top_k, scores, exclude=self.excluded_ids(entity, request, query), candidates=candidates)
        few = self._pairs(best(MOST_CANDIDATES, mask=mask & open_for))
        deviation = deviations(scores[FIRST:], catalog.new_events[[i - len(own) for _, i in few]])
        draws = draw_slots(policy, request.n, few, deviation)
        rest = self._pairs(best(request.n, mask=~mask & open_for))
        missing = sorted({n for n in request.candidates or () if n not in catalog.ids}.union(entity.unknown_items))
        items = catalog.to_items(merge_slots(rest, draws, request.n))
        return ItemList(items, missing, None), draws

    def _pairs(self, items: Sequence[ScoredItem]) -> TopK:
        ids = self.catalog.item_ids([one.item for one in items])
        return [(one.score, i) for one, i in zip(items, ids, strict=True)]

    def build_from_top_k(self, top_k: TopK, entity: EncodedEntity, request: ListRequest) -> ItemList:
        """Make the list of a request whose `batch_request` has been answered."""
        return self._cut(self.catalog.to_items(top_k), list(entity.unknown_items), entity, request)

    def _cut(
        self, items: list[ScoredItem], unknown: list[str], entity: EncodedEntity, request: ListRequest
    ) -> ItemList:
        """Cut the one item more than was asked for, which shows that items follow."""
        if len(items) <= request.n or request.n < 1:
            return ItemList(items[: request.n], unknown, None)
        last = items[request.n - 1]
        (item,) = self.catalog.item_ids([last.item], entity.catalog)
        return ItemList(items[: request.n], unknown, ListPosition(last.score, item))

    def top_k(
        self,
        scores: Tensor,
        n: int,
        *,
        exclude: Collection[int] = (),
        candidates: Collection[int] | None = None,
        entity_catalog: EntityCatalogSpec | None = None,
        mask: Tensor | None = None,
        after: tuple[float, int] | None = None,
    ) -> list[ScoredItem]:
        """Select the n best of scores [C], best first, ties by id; fewer when fewer remain.

        candidates: the only ids that may be listed, reserved ones are skipped; mask [C] bool: ids that may be listed;
        after: the score and the id of the item that the list goes on behind.
        """
        # In NumPy: for one entity its operations cost a third of torch's.
        values = scores.numpy()
        if candidates is None and mask is None and after is None:
            hidden = self.catalog.hidden_ids if entity_catalog is None else ()
            if (skip := _few_to_skip(hidden, exclude, len(values))) is not None:
                return self.catalog.to_items(top_k_array(values, n, skip), entity_catalog)
        candidate_scores = values.copy()
        candidate_scores[:FIRST] = -np.inf
        if entity_catalog is None and len(self.catalog.hidden_ids):
            candidate_scores[self.catalog.hidden_ids] = -np.inf
        if mask is not None:
            candidate_scores[~mask.numpy()] = -np.inf
        if after is not None:
            score, last = after
            candidate_scores[(values > score) | ((values == score) & (np.arange(len(values)) <= last))] = -np.inf
        if exclude:
            candidate_scores[list(exclude)] = -np.inf
        if candidates is None:
            return self.catalog.to_items(top_k_array(candidate_scores, n), entity_catalog)
        # Of few among many only these are looked at.
        ids = np.array(sorted({c for c in candidates if c >= FIRST}), np.int64)
        best = [(score, int(ids[i])) for score, i in top_k_array(candidate_scores[ids], n)]
        return self.catalog.to_items(best, entity_catalog)

    def top_k_batch(self, scores: Tensor, n: int, entities: Sequence[EncodedEntity]) -> list[list[ScoredItem]]:
        """Select the n best of scores [T, C] for each of T entities, as `build` does for a request of n items."""
        request = ListRequest(n)
        exclude = [self.excluded_ids(entity, request) for entity in entities]
        if all(entity.catalog is None for entity in entities):
            requests = [TopKRequest(n, ids) for ids in exclude]
            return [self.catalog.to_items(best) for best in self.top_k_ids(scores, requests)]
        return [
            self.top_k(row[: self.catalog.size(entity.catalog)], n, exclude=ids, entity_catalog=entity.catalog)
            for row, entity, ids in zip(scores, entities, exclude, strict=True)
        ]

    def top_k_ids(self, scores: Tensor, requests: Sequence[TopKRequest]) -> list[TopK]:
        """Select what `top_k` selects from each row of scores [T, C] of the model's catalogue: scores and ids."""
        if len(requests) == 1:  # what is left out is passed over, instead of a copy and its search by rows
            (request,) = requests
            skip = _few_to_skip(self.catalog.hidden_ids, request.exclude, scores.shape[1])
            if skip is not None:
                return [top_k_array(scores.numpy()[0], request.n, skip)]
        candidate_scores = scores.numpy().copy()
        candidate_scores[:, :FIRST] = -np.inf
        candidate_scores[:, self.catalog.hidden_ids] = -np.inf
        row = [i for i, request in enumerate(requests) for _ in request.exclude]
        candidate_scores[row, [item for request in requests for item in request.exclude]] = -np.inf
        best = top_k_rows(torch.from_numpy(candidate_scores), max(request.n for request in requests))
        return [pairs[: request.n] for pairs, request in zip(best, requests, strict=True)]

    def unknown_filter_values(self, filters: Mapping[str, FeatureFilter]) -> dict[str, list[str]]:
        """Return the values of filters that the model never met, by feature."""
        return unknown_values(filters, self._encoder.schema.item_features, self._encoder.vocab) if filters else {}

    def filter_mask(self, filters: Mapping[str, FeatureFilter], entity: EncodedEntity) -> Tensor:
        """Mark the items of the entity's catalogue that pass all filters, [C] bool. Raises DataError for a wrong
        filter."""
        features: Mapping[str, Tensor] = self.catalog.features
        if entity.catalog is not None:
            features = {
                name: values[0] for name, values in self._encoder.entity_catalogs([entity.catalog]).features.items()
            }
        return filter_mask(filters, self._encoder.schema.item_features, self._encoder.vocab, features)


def _few_to_skip(hidden: IntArray | tuple[()], exclude: Collection[int], size: int) -> list[int] | None:
    """List the ids that no list of a catalogue of some size may hold, where it costs less to look at as many more of
    the best than to copy all scores; else None."""
    if (len(hidden) + len(exclude)) * SKIP_COST >= size:
        return None
    return [*range(FIRST), *hidden, *exclude]
