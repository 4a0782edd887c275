"""From raw events and features to the rows of a support, encoded for one model. Nothing here adapts.

Events are put in the order of their times. The order in which they are given matters only to a model that reads the
order of rows, and there only among events at the same time or without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter

from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import ARRIVAL, Schema
from recsys_meta.core.types import UNKNOWN
from recsys_meta.episodes.event_index import HISTORY
from recsys_meta.inference.requests.context_fields import MAX_DEGREES, ContextFields, check_degrees
from recsys_meta.inference.requests.entity import (
    EncodedEntity,
    EntityCatalogSpec,
    EntityRequest,
    Interaction,
    RawFeatures,
    canonical_json,
)

MAX_SUPPORT = 500
"""Most recent rows that an adaptation looks at."""

MAX_CHOICES = 2000
"""Most recent rows that an adaptation looks at where rows are choices of several actors."""

LATEST = 253_402_300_799.0
"""A time after every other (the end of the year 9999): numbers beyond the training range count as its end."""


class SupportReader:
    """Reads entities for one model: its schema, and the padded ids of its items by name.

    keeps_repeats: every event is a row; elsewhere the last event on an item replaces those before. keeps_order: rows
    of a ranking are in the order of their times, for a model that reads it. new_ids: ids of items that came after the
    training: they count as met, and are no rows.
    """

    def __init__(self, schema: Schema, item_ids: Mapping[str, int], *, keeps_order: bool = False) -> None:
        self.schema, self.item_ids, self.fields = schema, item_ids, ContextFields.of_schema(schema)
        self.new_ids: Mapping[str, int] = {}
        self.keeps_order = keeps_order
        self.keeps_repeats = schema.objective in ("click", "choice")
        self._coordinates = [f.name for f in schema.entity_features if f.kind == "numeric" and f.name in MAX_DEGREES]

    def with_new_items(self, new_ids: Mapping[str, int]) -> SupportReader:
        """Return the same reader for other new items."""
        other = copy(self)
        other.new_ids = new_ids
        return other

    def read(self, request: EntityRequest) -> EncodedEntity:
        """Encode an entity. Items that the model does not have are listed, not guessed.

        Of a ranking the schema says which events are likes and which dislikes (`Schema.is_disliked`). An event without
        a time is the latest. For rankings and ratings the last event on an item counts (of events at
        the same time the one with the higher label); for clicks and choices every event is a row. Raises DataError
        for a label that is not finite or not one of the schema's, a time that is not finite, degrees beyond the globe,
        or an unknown context.
        """
        for event in request.events:
            if event.context:
                self.fields.check(event.context)
        features = self._features(request)
        if self.schema.home is not None:
            return self._read_choices(request.events, features)
        read = self._read_every_event if self.keeps_repeats else self._read_last_events
        entity = read(request.events, features)
        return entity if not entity.unknown_items or not self.new_ids else self._with_new_items_met(entity)

    def _with_new_items_met(self, entity: EncodedEntity) -> EncodedEntity:
        """Count items that came after the training as met instead of unknown."""
        met = frozenset(self.new_ids[name] for name in entity.unknown_items if name in self.new_ids)
        unknown = tuple(name for name in entity.unknown_items if name not in self.new_ids)
        return replace(entity, seen_items=entity.seen_items | met, unknown_items=unknown)

    def _read_plain_events(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        """Encode events of which only the item is said, as most are: each is a like, and their order says nothing."""
        ids = {self.item_ids.get(event.item, UNKNOWN) for event in events}
        known = ids - {UNKNOWN}
        items = tuple(sorted(known))
        unknown = {event.item for event in events if event.item not in self.item_ids} if len(ids) > len(known) else ()
        return EncodedEntity(items, (1.0,) * len(items), frozenset(items), tuple(sorted(unknown)), features)

    def _are_plain(self, events: Sequence[Interaction]) -> bool:
        """True for events of a ranking of which only the item is said and counts."""
        if self.schema.objective != "ranking" or self.keeps_order or self.fields.row_fields:
            return False
        for _, label, time, context, _ in events:
            if label is not None or time is not None or context:
                return False
        return len(events) <= MAX_SUPPORT

    def _read_last_events(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        if self._are_plain(events):
            return self._read_plain_events(events, features)
        last: dict[int, tuple[float, float, str]] = {}
        contexts: dict[int, RawFeatures] = {}
        unknown = set()
        implicit = self._allows_no_label
        for event in events:
            name, label, time, context, _ = event
            # The usual event has neither a label nor a time.
            when = math.inf if time is None else self._time(event)
            rank = when, math.inf if label is None and implicit else self._label(event), ""
            item = self.item_ids.get(name, UNKNOWN)
            if item == UNKNOWN:
                unknown.add(name)
                continue
            if context:
                rank = *rank[:2], canonical_json(context)
            # The last event on an item counts, and a repetition is no second positive.
            if item not in last or rank >= last[item]:
                if self.keeps_order:
                    last.pop(item, None)  # the place of an event is that of the last one on its item
                last[item], contexts[item] = rank, context or {}
        rows: list[tuple[float, int, float]] = []
        dislikes: list[tuple[float, int, float]] = []
        # Asked once for each label: most events have none, and so the same.
        disliked = {label for label in {label for _, label, _ in last.values()} if self.schema.is_disliked(label)}
        for item, (when, label, _) in last.items():
            (dislikes if label in disliked else rows).append((when, item, label))
        if self.keeps_order:
            # Stable: events at the same time, or without one, stay in the order in which they were given.
            recent = [(item, label) for _, item, label in sorted(rows, key=itemgetter(0))[-MAX_SUPPORT:]]
        else:
            if len(rows) > MAX_SUPPORT:
                rows = sorted(rows)[-MAX_SUPPORT:]
            # By item, as the digest has them: sums in another order differ in the last bit.
            recent = sorted((item, label) for _, item, label in rows)
        items = tuple([item for item, _ in recent])
        ranking = self.schema.objective == "ranking"
        labels = (1.0,) * len(recent) if ranking else tuple([label for _, label in recent])
        context_rows = tuple(self.fields.row_values(contexts[item]) for item in items) if self.fields.row_fields else ()
        return EncodedEntity(
            items,
            labels,
            frozenset(last),
            tuple(sorted(unknown)),
            features,
            context_rows,
            keeps_order=self.keeps_order,
            dislikes=tuple(sorted(item for _, item, _ in sorted(dislikes)[-MAX_SUPPORT:])),
        )

    def _read_every_event(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        """Encode every event as a row; one whose item the model lacks still has its context and label."""
        rows = self._sort(events)
        ids = [self.item_ids.get(e.item, UNKNOWN) for e in rows]
        unknown = {e.item for e, i in zip(rows, ids, strict=True) if i == UNKNOWN}
        return self._encode(rows, ids, unknown, features, None)

    def _read_choices(self, events: Sequence[Interaction], features: RawFeatures) -> EncodedEntity:
        """Encode every positive event as a row, out of a catalogue of all items that were met."""
        rows = self._sort(events)
        item_features: dict[str, dict[str, object]] = {}
        for event in rows:
            item_features.setdefault(event.item, {}).update(self.fields.item_values(event.context))
        catalog = EntityCatalogSpec().with_item_features(item_features)
        unknown = {name for name, values in item_features.items() if not values and name not in self.item_ids}
        least = -math.inf if self.schema.positive is None else self.schema.positive
        positives = [e for e in rows if e.label is None or e.label >= least]
        return self._encode(positives, [catalog.ids[e.item] for e in positives], unknown, features, catalog)

    def _encode(
        self,
        rows: Sequence[Interaction],
        ids: Sequence[int],
        unknown: Iterable[str],
        features: RawFeatures,
        catalog: EntityCatalogSpec | None,
    ) -> EncodedEntity:
        """Encode the latest of some rows, whose items have these ids."""
        actor_items, history = _histories(rows, ids) if self.schema.actor else ({}, [])
        limit = MAX_SUPPORT if catalog is None else MAX_CHOICES
        latest, is_choice = rows[-limit:], self.schema.objective == "choice"
        return EncodedEntity(
            tuple(ids[-limit:]),
            tuple(1.0 if is_choice else float(e.label or 0) for e in latest),
            frozenset(i for i in ids if i != UNKNOWN) if catalog is None else frozenset(catalog.ids.values()),
            tuple(sorted(unknown)),
            features,
            tuple(self.fields.row_values(e.context) for e in latest) if self.fields.row_fields else (),
            tuple(history[-limit:]),
            actor_items,
            catalog,
        )

    def _sort(self, events: Sequence[Interaction]) -> list[Interaction]:
        """Sort events by time, and equal times by all that tells events apart."""

        def key(event: Interaction) -> tuple[float, str, float, str]:
            return self._time(event), event.item, self._label(event), event.actor or ""

        rows = sorted(events, key=key)
        keys = [key(event) for event in rows]
        if all(a != b for a, b in pairwise(keys)):
            return rows
        # Only their contexts tell some of them apart: written out, and so a hundred times as slow to compare.
        return sorted(events, key=lambda e: (*key(e), canonical_json(e.context) if e.context else ""))

    def _features(self, request: EntityRequest) -> dict[str, object]:
        """Return the caller's features; an arrival that was not given is the first known time, or else later than
        all."""
        features = dict(request.features)
        for name in self._coordinates:
            check_degrees(name, features.get(name))
        if self.schema.arrival and features.get(ARRIVAL.name) is None:
            features[ARRIVAL.name] = min((e.time for e in request.events if e.time is not None), default=LATEST)
        return features

    @property
    def _allows_no_label(self) -> bool:
        """True where a row without a label says that something happened."""
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
            if not self._allows_no_label:
                remedy = f"This model predicts {self.schema.objective}s"
                raise DataError("a label is needed", field="label", remedy=remedy)
            return math.inf
        if not is_valid_label(self.schema, event.label):
            raise DataError(f"{event.label} is not {describe_labels(self.schema)}", field="label")
        return float(event.label)


def is_valid_label(schema: Schema, label: float) -> bool:
    """Return True for a finite label in the schema's range; of clicks for 1 and 0, of rankings also for 0."""
    low, high = schema.label_range or (-math.inf, math.inf)
    if schema.objective == "ranking" and label == 0:
        return True  # "not for me", whatever the scale
    return math.isfinite(label) and low <= label <= high and (schema.objective != "click" or label in (0, 1))


def describe_labels(schema: Schema) -> str:
    """Describe the labels of a schema, for error messages."""
    if schema.objective == "click":
        return "a click: 1 or 0 is expected"
    low, high = schema.label_range or (-math.inf, math.inf)
    return f"a label from {low:g} to {high:g}" + (', or 0 for "not for me"' if schema.objective == "ranking" else "")


def _histories(
    rows: Sequence[Interaction], ids: Sequence[int]
) -> tuple[dict[str, tuple[int, ...]], list[tuple[int, ...]]]:
    """Collect the items that each actor met, and those it had met before each row; the last one first."""
    actor_items: dict[str, list[int]] = {}
    before: list[tuple[int, ...]] = []
    for event, item in zip(rows, ids, strict=True):
        if event.actor is None:
            before.append(())
            continue
        items = actor_items.setdefault(event.actor, [])
        before.append(tuple(items[: -HISTORY - 1 : -1]))
        items.append(item)
    return {actor: tuple(items[::-1]) for actor, items in actor_items.items()}, before
