"""The body of `POST /v1/recommendations` as the request for a list that the library answers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from itertools import chain

from recsys_meta.inference.ranking.filters import FeatureFilter
from recsys_meta.inference.ranking.fresh_slots import FreshPolicy
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.requests.entity import QueryContext
from recsys_meta.wire.requests import Filter, FreshOptions, ItemWithFeatures, QueryContextInput, RecommendationRequest


def to_list_request(body: RecommendationRequest, default: FreshPolicy | None = None) -> ListRequest:
    """Convert a validated body to the request for its list; without places for new items it has the default ones."""
    history = (body.moment and body.moment.history) or ()
    return ListRequest(
        body.n,
        None if body.candidates is None else _names(body.candidates),
        body.exclude,
        {name: _feature_filter(one) for name, one in body.filters.items()},
        body.include_seen,
        None if body.moment is None else _query_context(body.moment),
        _item_features(chain(body.candidates or (), history)),
        default if body.fresh is None else _fresh_policy(body.fresh),
    )


def _fresh_policy(body: FreshOptions) -> FreshPolicy:
    seed = secrets.randbits(53) if body.seed is None else body.seed
    return FreshPolicy(body.slots, body.share, body.events, seed)


def _names(items: Iterable[str | ItemWithFeatures]) -> list[str]:
    return [one if isinstance(one, str) else one.item for one in items]


def _item_features(items: Iterable[str | ItemWithFeatures]) -> dict[str, Mapping[str, object]]:
    """Collect the features by item; of an item that comes twice the later value of a feature counts."""
    features: dict[str, Mapping[str, object]] = {}
    for one in items:
        if isinstance(one, ItemWithFeatures) and one.features:
            features[one.item] = {**features.get(one.item, {}), **one.features}
    return features


def _query_context(body: QueryContextInput) -> QueryContext:
    location = None if body.lat is None or body.lon is None else (body.lat, body.lon)
    return QueryContext(body.context, body.actor, location, None if body.history is None else _names(body.history))


def _feature_filter(body: Filter) -> FeatureFilter:
    values = None if body.any is None else tuple(body.any)
    return FeatureFilter(values, tuple(body.all), tuple(body.none), body.min, body.max)
