"""Features of entities, and the erasure of all that is known of one."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.bulk_insert import insert_into, table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.tables import (
    AdaptationRecord,
    EntityRecord,
    ErasureRecord,
    EventRecord,
    ExplorationRecord,
)

# Writers of adaptations share this lock, an erasure takes it alone (PostgreSQL; SQLite has one writer anyway).
ERASURE_LOCK = 0x7265_6373_6572_61


@dataclass(frozen=True)
class ErasureReceipt:
    """What a deletion erased; ``entity`` is the caller's own id, which the database no longer holds."""

    receipt: str
    kind: str
    entity: str
    entities: int
    events: int
    adaptations: int
    at: datetime


def entity_digest(kind: str, entity: str) -> str:
    """A name for an entity from which its id cannot be read back without trying ids."""
    return hashlib.sha256(f"{len(kind)}:{kind}{entity}".encode(errors="surrogatepass")).hexdigest()


def upsert_entity(
    session: Session, kind: str, entity: str, features: Mapping[str, Any], now: datetime | None = None
) -> EntityRecord:
    """Set the features of an entity; they replace any it had. Raises ValueError for what is not JSON."""
    at = utcnow(now)
    new = insert_into(session, EntityRecord)
    statement = new.on_conflict_do_update(
        index_elements=["kind", "external_id"],
        set_={"features": new.excluded.features, "updated": new.excluded.updated},
    )
    values = {"kind": kind, "external_id": entity, "created": at, "updated": at}
    session.execute(statement, {**values, "features": dict(features)})
    return get_entity(session, kind, entity)


def get_entity(session: Session, kind: str, entity: str) -> EntityRecord:
    """One entity. Raises NotFoundError."""
    row = find_entity(session, kind, entity)
    if row is None:
        raise NotFoundError(f"there are no features of the {kind} with this id")
    return row


def find_entity(session: Session, kind: str, entity: str) -> EntityRecord | None:
    """One entity, None where no features of it were stored."""
    return session.get(EntityRecord, (kind, entity), populate_existing=True)


def erase_entity(session: Session, kind: str, entity: str, now: datetime | None = None) -> ErasureReceipt:
    """Delete features, events and adaptations of an entity, and keep a receipt.

    Asked again with nothing new to delete, it answers the first receipt. Caches are the caller's to clear; rows that
    still wait in a writer are refused by `adaptations.save`.
    """
    hold_erasure_lock(session, exclusive=True)
    counts = {
        "entities": _delete(session, EntityRecord, EntityRecord.external_id.key, kind, entity),
        "events": _delete(session, EventRecord, EventRecord.entity.key, kind, entity),
        "adaptations": _delete(session, AdaptationRecord, AdaptationRecord.entity.key, kind, entity),
    }
    _delete(session, ExplorationRecord, ExplorationRecord.entity.key, kind, entity)
    name = entity_digest(kind, entity)
    last = select(ErasureRecord).where(ErasureRecord.entity_digest == name).order_by(ErasureRecord.at.desc()).limit(1)
    row = session.scalars(last).first()
    at = utcnow(now)
    if row is None or any(counts.values()):
        row = ErasureRecord(receipt=uuid.uuid4().hex, kind=kind, entity_digest=name, at=at, **counts)
        session.add(row)
    row.confirmed = at
    session.flush()
    return ErasureReceipt(row.receipt, kind, entity, row.entities, row.events, row.adaptations, row.at)


def erased_since(session: Session, kind: str, entity: str, since: datetime) -> bool:
    """Whether an entity was erased at a time or later."""
    query = select(ErasureRecord.receipt).where(
        ErasureRecord.entity_digest == entity_digest(kind, entity), ErasureRecord.confirmed >= since
    )
    return session.scalar(query.limit(1)) is not None


def hold_erasure_lock(session: Session, *, exclusive: bool) -> None:
    """Until the transaction ends: keep erasures out, or with ``alone`` everyone who respects them."""
    if session.get_bind().dialect.name == "postgresql":
        lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        session.execute(text(f"SELECT {lock}(:key)"), {"key": ERASURE_LOCK})


def _delete(session: Session, model: type[Base], id_column: str, kind: str, entity: str) -> int:
    columns = table_of(model).c
    statement = delete(table_of(model)).where(columns.kind == kind, columns[id_column] == entity)
    return len(session.execute(statement.returning(columns.kind)).all())
