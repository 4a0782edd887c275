"""Queries: the context that a caller asks in, and the rows that it wants scored, encoded for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, Schema
from recsys_meta.core.types import FIRST, UNKNOWN, Interactions
from recsys_meta.inference.requests.context_fields import ContextFields
from recsys_meta.inference.requests.encoder import RequestEncoder
from recsys_meta.inference.requests.entity import EncodedEntity, QueryContext, RawFeatures

HERE = ""
"""The item of its own catalogue that a location without a name becomes; no item has an empty name."""


@dataclass(frozen=True)
class EncodedQuery:
    """A context as a row [1, 1] without an item, to be scored with each of the `catalogue` ids.

    hidden: ids that are never an answer; met: ids that the actor met before.
    """

    rows: Interactions
    catalog_size: int
    hidden_items: frozenset[int] = frozenset()
    actor_items: frozenset[int] = frozenset()


@dataclass(frozen=True)
class QueryEncoder:
    """Encodes contexts and rows for one model."""

    schema: Schema
    fields: ContextFields
    encoder: RequestEncoder

    def encode(
        self, entity: EncodedEntity, context: QueryContext, item_features: Mapping[str, RawFeatures] | None = None
    ) -> tuple[EncodedEntity, EncodedQuery]:
        """Encode a context; return with it the entity, whose own catalogue has got the items and features of
        `item_features` (features by item).

        Raises DataError for a context or features that the model does not have, or a location where it knows of none.
        """
        features = item_features or {}
        self._check(context, features)
        where: RawFeatures = {} if context.at is None else dict(zip((LATITUDE, LONGITUDE), context.at, strict=True))
        by_item = {name: features.get(name, {}) for name in [*features, *(context.history or ())]}
        unknown = self._unknown_items(entity, by_item)
        if entity.catalog is not None:
            here = {HERE: where} if where and where.keys() <= self.fields.item_fields.keys() else {}
            entity = entity.with_item_features({n: by_item[n] for n in by_item if n not in unknown} | here)
        ids = self.encoder.item_ids if entity.catalog is None else entity.catalog.ids
        history = _history(entity, context, ids)
        hidden_items = frozenset([ids[HERE]]) if where and HERE in ids else frozenset[int]()
        values = {**context.context, **self.fields.row_values(where)}
        rows = self.encoder.rows([UNKNOWN], [values], [*hidden_items, *history])
        if not unknown <= set(entity.unknown_items):
            entity = replace(entity, unknown_items=tuple(sorted(unknown.union(entity.unknown_items))))
        return entity, EncodedQuery(rows, FIRST + len(ids), hidden_items, frozenset(history))

    def rows(self, entity: EncodedEntity, rows: Sequence[tuple[str, RawFeatures]]) -> Interactions:
        """Encode items with their contexts as rows [1, R] to be scored; an item that the model lacks is UNKNOWN.

        Raises DataError for a context that the model does not have.
        """
        for _, context in rows:
            self.fields.check(context, self.fields.row_fields)
        ids = self.encoder.item_ids if entity.catalog is None else entity.catalog.ids
        return self.encoder.rows([ids.get(item, UNKNOWN) for item, _ in rows], [context for _, context in rows])

    def check_context(self, context: RawFeatures) -> None:
        """Raise DataError for the context of an event that the model cannot read."""
        self.fields.check(context)
        self.encoder.check_values(self.fields.row_values(context), self.fields.item_values(context))

    def _unknown_items(self, entity: EncodedEntity, item_features: Mapping[str, RawFeatures]) -> set[str]:
        """Find the items without features that neither the model nor the entity's own catalogue has."""
        names = entity.catalog.ids.keys() if entity.catalog is not None else ()
        return {
            name
            for name, features in item_features.items()
            if not features and name not in self.encoder.item_ids and name not in names
        }

    def _check(self, context: QueryContext, item_features: Mapping[str, RawFeatures]) -> None:
        self.fields.check(context.context, self.fields.row_fields)
        if not self.schema.actor and (context.actor is not None or context.history is not None):
            raise DataError("the model's rows have no actors", field="actor" if context.actor else "history")
        for features in item_features.values():
            self.fields.check(features, self.fields.item_fields, "item feature")
        if context.at is not None and not {LATITUDE, LONGITUDE} <= self.fields.all_fields.keys():
            raise DataError("the model knows nothing of places", field=LATITUDE)


def _history(entity: EncodedEntity, context: QueryContext, ids: Mapping[str, int]) -> tuple[int, ...]:
    """Look up the items that the actor met, last first: those of the context, or else of the entity's events."""
    if context.history is not None:
        return tuple(ids[name] for name in reversed(context.history) if name in ids)
    return entity.actor_items.get(context.actor, ()) if context.actor is not None else ()
