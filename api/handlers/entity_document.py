"""Document of an entity: what is stored of it, as it is shown."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from api.http.problem_details import ProblemError
from recsys_meta.store.entities import adaptations, entities, events


def entity_document(session: Session, kind: str, entity: str, limit: int) -> dict[str, Any]:
    """Return features, the newest `limit` events and the figures of the last adaptation. Raises ProblemError 404 where
    nothing is stored."""
    row = entities.find_entity(session, kind, entity)
    total = events.count_events(session, kind, entity)
    if row is None and not total:
        raise ProblemError(404, f"Nothing is stored of the {kind} with this id")
    last = adaptations.page_adaptations(session, kind=kind, entity=entity, limit=1).items
    newest = events.support_events(session, kind, entity, limit)
    return {
        "kind": kind,
        "id": entity,
        "features": row.features if row else {},
        "created": row.created if row else None,
        "updated": row.updated if row else None,
        "events": [
            {
                "event_id": e.event_id,
                "item": e.item,
                "label": e.label,
                "time": e.time.timestamp(),
                "context": e.context,
            }
            for e in newest
        ],
        "events_total": total,
        "last_adaptation": last[0].as_dict() if last else None,
    }
