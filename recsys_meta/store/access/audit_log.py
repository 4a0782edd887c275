"""The record of what administrators did: written in the transaction of the act, so that neither is without the other.

The target of an erasure is named by `entities.digest`, never by its id: what was erased stays erased.
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.store.access.tables import AuditRecord
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, after_cursor, decode_cursor, page_size, paginate


def record_action(
    session: Session,
    action: str,
    target: str,
    *,
    actor: str,
    request_id: str | None = None,
    now: datetime | None = None,
) -> None:
    """Write down an act of the transaction at hand."""
    session.add(AuditRecord(at=utcnow(now), actor=actor, action=action, target=target, request_id=request_id))


def list_audit(
    session: Session,
    *,
    action: str | None = None,
    actor: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> KeysetPage[AuditRecord]:
    """Acts, newest first. Raises ValueError for a limit outside 1 to 1000 or a strange cursor."""
    columns = (AuditRecord.at, AuditRecord.id)
    query = select(AuditRecord).order_by(*(c.desc() for c in columns)).limit(page_size(limit) + 1)
    if action is not None:
        query = query.where(AuditRecord.action == action)
    if actor is not None:
        query = query.where(AuditRecord.actor == actor)
    if cursor is not None:
        query = query.where(after_cursor(columns, decode_cursor("audit", cursor, (datetime, int)), descending=True))
    return paginate("audit", session.scalars(query).all(), limit, ("at", "id"))
