"""What is stored of an entity, in one model's words, joined with what is told of it just now.

What is stored may have been sent for another model: what this one cannot read is left out. What is told must fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_meta.core.schema import Schema
from recsys_meta.inference.requests.context_fields import invalid_coordinates
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.requests.support_reader import SupportReader, is_valid_label


@dataclass(frozen=True)
class StoredInteraction:
    """An interaction in the database; `time` in seconds since 1970 UTC."""

    event_id: str
    item: str
    label: float
    time: float
    context: Mapping[str, Any] | None = None


def merge_events(
    reader: SupportReader,
    features: Mapping[str, Any],
    events: Sequence[StoredInteraction],
    told: EntityRequest,
    ids: Collection[str] = (),
) -> EntityRequest:
    """The newcomer that stored features and events and those `told` make together. Told features come before stored
    ones; `ids` are the event ids that were told, so that no event counts twice."""
    if not events and not features:
        return told
    schema, fields = reader.schema, reader.fields
    kept = [
        fields.interaction(e.item, e.label, e.time, fields.readable(e.context) if e.context else None)
        for e in events
        if e.event_id not in ids and is_valid_label(schema, e.label)
    ]
    if told.events and reader.repeats:
        # Sent without an id, an event is known again by its content; else it would count twice.
        same = {_content(e) for e in told.events if e.time is not None}
        kept = [e for e in kept if _content(e) not in same]
    return EntityRequest({**_readable(schema, features), **told.features}, [*kept, *told.events])


def content_id(
    kind: str, entity: str, item: str, label: float, time: float | None, context: Mapping[str, Any] | None
) -> str:
    """The id of an event that was sent without one: its content stands for it."""
    parts = [kind, entity, item, label, time, *([context] if context else [])]
    return "content-" + hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def implicit_label(schema: Schema) -> float:
    """The label that stands for "it happened"."""
    if schema.positive is not None:
        return schema.positive
    return 1.0 if is_valid_label(schema, 1.0) or schema.label_range is None else schema.label_range[1]


def _content(event: Interaction) -> tuple[Any, ...]:
    words = sorted((k, v) for k, v in (event.context or {}).items() if v is not None)
    return event.item, event.actor, None if event.time is None else round(event.time, 6), str(words)


def _readable(schema: Schema, features: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {f.name: f.kind for f in schema.entity_features}
    return {k: v for k, v in features.items() if k in kinds and (kinds[k] != "numeric" or _is_number(k, v))}


def _is_number(name: str, value: Any) -> bool:
    if invalid_coordinates(name, value):
        return False
    try:
        return value is None or abs(float(value)) < 3e38  # beyond, a float32 is infinite
    except (TypeError, ValueError):
        return False
