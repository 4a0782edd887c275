"""Audit log of administrative actions, written in the transaction of the action: neither is stored without the other.

The target of an erasure is the digest of `entities.entity_digest`, never the id, which the erasure has removed.
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.store.access.tables import AuditRecord
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, newest_page


def record_action(
    session: Session,
    action: str,
    target: str,
    *,
    actor: str,
    request_id: str | None = None,
    now: datetime | None = None,
) -> None:
    """Add an audit entry to the current transaction."""
    session.add(AuditRecord(at=utcnow(now), actor=actor, action=action, target=target, request_id=request_id))


def list_audit(
    session: Session,
    *,
    action: str | None = None,
    actor: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> KeysetPage[AuditRecord]:
    """Return a page of audit entries, newest first.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    query = select(AuditRecord)
    if action is not None:
        query = query.where(AuditRecord.action == action)
    if actor is not None:
        query = query.where(AuditRecord.actor == actor)
    return newest_page(session, query, "audit", {AuditRecord.at: datetime, AuditRecord.id: int}, limit, cursor)
