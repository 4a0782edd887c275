"""Questions: a moment told by a caller, in a model's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import LATITUDE, LONGITUDE, Schema
from recsys_meta.core.types import FIRST, UNKNOWN, Interactions
from recsys_meta.inference.requests.context_fields import ContextFields
from recsys_meta.inference.requests.encoder import RequestEncoder
from recsys_meta.inference.requests.entity import EncodedEntity, QueryContext, RawFeatures

HERE = ""
"""The item of its own catalogue that a place without a name becomes; no item has an empty name."""


@dataclass(frozen=True)
class EncodedQuery:
    """A moment in a model's words: a row [1, 1] without an item, to be asked of a catalogue of so many ids. `hidden`
    is never an answer; `met` is what the actor met before."""

    rows: Interactions
    catalogue: int
    hidden: frozenset[int] = frozenset()
    met: frozenset[int] = frozenset()


@dataclass(frozen=True)
class QueryEncoder:
    """Understands moments for one model."""

    schema: Schema
    fields: ContextFields
    encoder: RequestEncoder

    def encode(
        self, known: EncodedEntity, moment: QueryContext, told: Mapping[str, RawFeatures]
    ) -> tuple[EncodedEntity, EncodedQuery]:
        """A question, and the newcomer with what was told of items (name to features).

        Raises DataError for a context or features that the model does not have, or a place where it knows of none.
        """
        self._check(moment, told)
        where: RawFeatures = {} if moment.at is None else dict(zip((LATITUDE, LONGITUDE), moment.at, strict=True))
        past = list(moment.history or ())
        met = known.own.ids.keys() if known.own is not None else ()
        strange = {n for n in [*told, *past] if not told.get(n) and n not in self.encoder.ids and n not in met}
        if known.own is not None:
            here = {HERE: where} if where and where.keys() <= self.fields.item.keys() else {}
            known = known.joined({n: told.get(n, {}) for n in [*told, *past] if n not in strange} | here)
        ids = self.encoder.ids if known.own is None else known.own.ids
        if moment.history is None:
            history = known.acts.get(moment.actor, ()) if moment.actor is not None else ()
        else:
            history = tuple(ids[n] for n in past[::-1] if n in ids)
        hidden = frozenset([ids[HERE]]) if where and HERE in ids else frozenset[int]()
        words = {**moment.context, **self.fields.of_row(where)}
        rows = self.encoder.rows([UNKNOWN], [words], [*hidden, *history])
        if not strange <= set(known.unknown):
            known = replace(known, unknown=tuple(sorted(strange.union(known.unknown))))
        return known, EncodedQuery(rows, FIRST + len(ids), hidden, frozenset(history))

    def _check(self, moment: QueryContext, told: Mapping[str, RawFeatures]) -> None:
        self.fields.check(moment.context, self.fields.row)
        if not self.schema.actor and (moment.actor is not None or moment.history is not None):
            raise DataError("the model's rows have no actors", field="actor" if moment.actor else "history")
        for words in told.values():
            self.fields.check(words, self.fields.item, "item feature")
        if moment.at is not None and not {LATITUDE, LONGITUDE} <= self.fields.every.keys():
            raise DataError("the model knows nothing of places", field=LATITUDE)
