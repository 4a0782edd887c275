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
    catalogue: int
    hidden: frozenset[int] = frozenset()
    met: frozenset[int] = frozenset()


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
        past = list(context.history or ())
        names = entity.own.ids.keys() if entity.own is not None else ()
        unknown = {
            n for n in [*features, *past] if not features.get(n) and n not in self.encoder.ids and n not in names
        }
        if entity.own is not None:
            here = {HERE: where} if where and where.keys() <= self.fields.item.keys() else {}
            entity = entity.joined({n: features.get(n, {}) for n in [*features, *past] if n not in unknown} | here)
        ids = self.encoder.ids if entity.own is None else entity.own.ids
        history = _history(entity, context, ids)
        hidden = frozenset([ids[HERE]]) if where and HERE in ids else frozenset[int]()
        values = {**context.context, **self.fields.of_row(where)}
        rows = self.encoder.rows([UNKNOWN], [values], [*hidden, *history])
        if not unknown <= set(entity.unknown):
            entity = replace(entity, unknown=tuple(sorted(unknown.union(entity.unknown))))
        return entity, EncodedQuery(rows, FIRST + len(ids), hidden, frozenset(history))

    def rows(self, entity: EncodedEntity, rows: Sequence[tuple[str, RawFeatures]]) -> Interactions:
        """Encode items with their contexts as rows [1, R] to be scored; an item that the model lacks is UNKNOWN.

        Raises DataError for a context that the model does not have.
        """
        for _, context in rows:
            self.fields.check(context, self.fields.row)
        ids = self.encoder.ids if entity.own is None else entity.own.ids
        return self.encoder.rows([ids.get(item, UNKNOWN) for item, _ in rows], [context for _, context in rows])

    def check_context(self, context: RawFeatures) -> None:
        """Raise DataError for the context of an event that the model cannot read."""
        self.fields.check(context)
        self.encoder.check(self.fields.of_row(context), self.fields.of_item(context))

    def _check(self, context: QueryContext, item_features: Mapping[str, RawFeatures]) -> None:
        self.fields.check(context.context, self.fields.row)
        if not self.schema.actor and (context.actor is not None or context.history is not None):
            raise DataError("the model's rows have no actors", field="actor" if context.actor else "history")
        for features in item_features.values():
            self.fields.check(features, self.fields.item, "item feature")
        if context.at is not None and not {LATITUDE, LONGITUDE} <= self.fields.every.keys():
            raise DataError("the model knows nothing of places", field=LATITUDE)


def _history(entity: EncodedEntity, context: QueryContext, ids: Mapping[str, int]) -> tuple[int, ...]:
    """Look up the items that the actor met, last first: those of the context, or else of the entity's events."""
    if context.history is not None:
        return tuple(ids[name] for name in reversed(context.history) if name in ids)
    return entity.acts.get(context.actor, ()) if context.actor is not None else ()
