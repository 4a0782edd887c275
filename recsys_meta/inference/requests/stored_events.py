"""The stored events and features of an entity, merged with those of a request.

Stored ones may have been sent for another model: what this one cannot read is left out. Those of a request must fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys_meta.core.schema import Schema
from recsys_meta.inference.requests.context_fields import is_invalid_coordinate
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
    request: EntityRequest,
    event_ids: Collection[str] = (),
) -> EntityRequest:
    """Merge stored features and events with those of a request, whose features replace stored ones. `event_ids` are the
    ids of the request's events, so that no event counts twice."""
    if not events and not features:
        return request
    schema, fields = reader.schema, reader.fields
    interactions = [
        fields.interaction(e.item, e.label, e.time, fields.readable_values(e.context) if e.context else None)
        for e in events
        if e.event_id not in event_ids and is_valid_label(schema, e.label)
    ]
    if request.events and reader.keeps_repeats:
        # An event that was sent without an id is recognised by its content; else it would count twice.
        contents = {_content(e) for e in request.events if e.time is not None}
        interactions = [e for e in interactions if _content(e) not in contents]
    return EntityRequest({**_readable_features(schema, features), **request.features}, [*interactions, *request.events])


def content_id(
    kind: str, entity: str, item: str, label: float, time: float | None, context: Mapping[str, Any] | None
) -> str:
    """Make the id of an event that was sent without one from its content."""
    parts = [kind, entity, item, label, time, *([context] if context else [])]
    return "content-" + hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def implicit_label(schema: Schema) -> float:
    """Return the label that stands for "it happened": never that of a dislike."""
    if schema.positive is not None:
        return schema.positive
    is_like = is_valid_label(schema, 1.0) and not schema.is_disliked(1.0)
    return 1.0 if is_like or schema.label_range is None else schema.label_range[1]


def _content(event: Interaction) -> tuple[Any, ...]:
    context = sorted((name, value) for name, value in (event.context or {}).items() if value is not None)
    return event.item, event.actor, None if event.time is None else round(event.time, 6), str(context)


def _readable_features(schema: Schema, features: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {f.name: f.kind for f in schema.entity_features}
    return {
        name: value
        for name, value in features.items()
        if name in kinds and (kinds[name] != "numeric" or _is_number(name, value))
    }


def _is_number(name: str, value: Any) -> bool:
    if is_invalid_coordinate(name, value):
        return False
    try:
        return value is None or abs(float(value)) < 3e38  # beyond, a float32 is infinite
    except (TypeError, ValueError):
        return False
