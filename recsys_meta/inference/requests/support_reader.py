"""Raw events and features become support rows in a model's words. Nothing here adapts.

The order in which events are told never matters: they are put in the order of their times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import ARRIVAL, Schema
from recsys_meta.core.types import UNKNOWN
from recsys_meta.episodes.event_index import HISTORY
from recsys_meta.inference.requests.context_fields import DEGREES, ContextFields, check_degrees
from recsys_meta.inference.requests.entity import (
    EncodedEntity,
    EntityCatalogSpec,
    EntityRequest,
    Interaction,
    RawFeatures,
    canonical,
)

MAX_SUPPORT = 500
"""Most recent rows that an adaptation looks at."""

MAX_CHOICES = 2000
"""The same where rows are choices of several actors."""

LATEST = 253_402_300_799.0
"""A time after every other (the end of the year 9999): numbers beyond the training range count as its end."""


class SupportReader:
    """Reads newcomers for one model: its schema, and the padded ids of the items it has."""

    def __init__(self, schema: Schema, ids: Mapping[str, int]) -> None:
        self.schema, self.ids, self.fields = schema, ids, ContextFields.of(schema)
        self.repeats = schema.objective in ("click", "choice")  # whether every event is a row
        self._degrees = [f.name for f in schema.entity_features if f.kind == "numeric" and f.name in DEGREES]

    def read(self, newcomer: EntityRequest) -> EncodedEntity:
        """Translate a newcomer. Items that the model does not have are listed, not guessed.

        An event without a time is the latest. For rankings and ratings the last word on an item counts (of events at
        the same time the one with the higher label); for clicks and choices every event is a row. Raises DataError
        for a label that is not finite or not one of the schema's, a time that is not finite, a place beyond the globe,
        or an unknown context.
        """
        for event in newcomer.events:
            if event.context:
                self.fields.check(event.context)
        features = self._features(newcomer)
        if self.schema.home is not None:
            return self._choices(newcomer.events, features)
        return self._every(newcomer.events, features) if self.repeats else self._last(newcomer.events, features)

    def _last(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        last: dict[int, tuple[float, float, str]] = {}
        told: dict[int, RawFeatures] = {}
        unknown = set()
        happens = self._happens
        for event in events:
            item, label, time, told_of, _ = event
            # The usual event is told without either.
            when = math.inf if time is None else self._time(event)
            word = when, math.inf if label is None and happens else self._label(event), ""
            padded = self.ids.get(item, UNKNOWN)
            if padded == UNKNOWN:
                unknown.add(item)
                continue
            if told_of:
                word = *word[:2], canonical(told_of)
            # The last word on an item counts, and a repetition is no second positive.
            if padded not in last or word >= last[padded]:
                last[padded], told[padded] = word, told_of or {}
        rows = [(when, item, label) for item, (when, label, _) in last.items() if self._counts(label)]
        if len(rows) > MAX_SUPPORT:
            rows = sorted(rows)[-MAX_SUPPORT:]
        # By item, as the digest has them: sums in another order differ in the last bit.
        recent = sorted((item, label) for _, item, label in rows)
        items = tuple([item for item, _ in recent])
        ranking = self.schema.objective == "ranking"
        labels = (1.0,) * len(recent) if ranking else tuple([label for _, label in recent])
        context = tuple(self.fields.of_row(told[item]) for item in items) if self.fields.row else ()
        return EncodedEntity(items, labels, frozenset(last), tuple(sorted(unknown)), features, context)

    def _every(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        """Every event is a row; one whose item the model lacks still tells what its context and label do."""
        rows = self._sorted(events)
        ids = [self.ids.get(e.item, UNKNOWN) for e in rows]
        unknown = {e.item for e, i in zip(rows, ids, strict=True) if i == UNKNOWN}
        seen = frozenset(i for i in ids if i != UNKNOWN)
        return self._known(rows, ids, seen, unknown, features, None, MAX_SUPPORT)

    def _choices(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        """Every event is a row, out of a catalogue of the items that were met."""
        rows = self._sorted(events)
        told: dict[str, dict[str, object]] = {}
        for event in rows:
            told.setdefault(event.item, {}).update(self.fields.of_item(event.context))
        own = EntityCatalogSpec().joined(told)
        unknown = {name for name, words in told.items() if not words and name not in self.ids}
        liked = [e for e in rows if e.label is None or self._counts(e.label)]
        ids = [own.ids[e.item] for e in liked]
        return self._known(liked, ids, frozenset(own.ids.values()), unknown, features, own, MAX_CHOICES)

    def _known(
        self,
        rows: Sequence[Interaction],
        ids: Sequence[int],
        seen: frozenset[int],
        unknown: Iterable[str],
        features: RawFeatures,
        own: EntityCatalogSpec | None,
        most: int,
    ) -> EncodedEntity:
        acts, history = _histories(rows, ids) if self.schema.actor else ({}, [])
        chosen = self.schema.objective == "choice"
        return EncodedEntity(
            tuple(ids[-most:]),
            tuple(1.0 if chosen else float(e.label or 0) for e in rows[-most:]),
            seen,
            tuple(sorted(unknown)),
            features,
            tuple(self.fields.of_row(e.context) for e in rows[-most:]) if self.fields.row else (),
            tuple(history[-most:]),
            acts,
            own,
        )

    def _sorted(self, events: Sequence[Interaction]) -> list[Interaction]:
        def key(event: Interaction) -> tuple[float, str, float, str]:
            return self._time(event), event.item, self._label(event), event.actor or ""

        rows = sorted(events, key=key)
        keys = [key(event) for event in rows]
        if all(a != b for a, b in pairwise(keys)):
            return rows
        # Only their contexts tell some of them apart: written out, and so a hundred times as slow to compare.
        return sorted(events, key=lambda e: (*key(e), canonical(e.context) if e.context else ""))

    def _features(self, newcomer: EntityRequest) -> dict[str, object]:
        """The caller's features; an arrival that was not given is the first known time, or else later than all."""
        features = dict(newcomer.features)
        for name in self._degrees:
            check_degrees(name, features.get(name))
        if self.schema.arrival and features.get(ARRIVAL.name) is None:
            features[ARRIVAL.name] = min((e.time for e in newcomer.events if e.time is not None), default=LATEST)
        return features

    def _counts(self, label: float) -> bool:
        """Whether a row of such a label belongs to the support."""
        return not self._happens or self.schema.positive is None or label >= self.schema.positive

    @property
    def _happens(self) -> bool:
        """Whether a row without a label says that something happened."""
        return self.schema.objective in ("ranking", "choice")

    def _time(self, event: Interaction) -> float:
        if event.time is None:
            return math.inf
        if not math.isfinite(event.time):
            remedy = "Give seconds since 1970 or leave it out"
            raise DataError(f"{event.time} is not a time", field="time", remedy=remedy)
        return event.time

    def _label(self, event: Interaction) -> float:
        if event.label is None:
            if not self._happens:
                remedy = f"This model predicts {self.schema.objective}s"
                raise DataError("a label is needed", field="label", remedy=remedy)
            return math.inf
        if not is_valid_label(self.schema, event.label):
            raise DataError(f"{event.label} is not {describe_labels(self.schema)}", field="label")
        return float(event.label)


def is_valid_label(schema: Schema, label: float) -> bool:
    """Whether a label is one of the schema's."""
    low, high = schema.label_range or (-math.inf, math.inf)
    return math.isfinite(label) and low <= label <= high and (schema.objective != "click" or label in (0, 1))


def describe_labels(schema: Schema) -> str:
    """What labels of the schema are, in words."""
    if schema.objective == "click":
        return "a click: 1 or 0 is expected"
    low, high = schema.label_range or (-math.inf, math.inf)
    return f"a label from {low:g} to {high:g}"


def _histories(
    rows: Sequence[Interaction], ids: Sequence[int]
) -> tuple[dict[str, tuple[int, ...]], list[tuple[int, ...]]]:
    """Items that each actor met, and those it had met before each row; the last one first."""
    acts: dict[str, list[int]] = {}
    before: list[tuple[int, ...]] = []
    for event, item in zip(rows, ids, strict=True):
        if event.actor is None:
            before.append(())
            continue
        own = acts.setdefault(event.actor, [])
        before.append(tuple(own[: -HISTORY - 1 : -1]))
        own.append(item)
    return {actor: tuple(items[::-1]) for actor, items in acts.items()}, before
