"""Stored profile of an entity: the features and events that recommendations are computed from."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.store.entities.entities import find_entity
from recsys_meta.store.entities.events import support_events

MAX_EVENTS = 2000
"""Number of newest stored events of an entity that are read."""


def read_stored_profile(
    session: Session, kind: str, entity: str
) -> tuple[dict[str, Any], tuple[StoredInteraction, ...]]:
    """Return the features and the newest events of an entity, oldest first; both empty for an unknown entity."""
    row = find_entity(session, kind, entity)
    rows = support_events(session, kind, entity, MAX_EVENTS)
    interactions = tuple(StoredInteraction(e.event_id, e.item, e.label, e.time.timestamp(), e.context) for e in rows)
    return {} if row is None else dict(row.features), interactions
