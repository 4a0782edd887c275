"""Features of entities, and the erasure of all data of an entity."""

import hashlib
import hmac
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.bulk_insert import in_chunks, insert_into, table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.entities.tables import (
    AdaptationRecord,
    EntityRecord,
    ErasureRecord,
    EventRecord,
    ExplorationRecord,
    ImpressionRecord,
    NewcomerResultRecord,
    OutcomeRecord,
)
from recsys_meta.store.installation.installation_key import installation_keys

# Writers of adaptations share this lock, an erasure holds it exclusively (PostgreSQL; SQLite has a single writer).
ERASURE_LOCK = 0x7265_6373_6572_61


@dataclass(frozen=True)
class ErasureReceipt:
    """Counts of erased rows; ``entity`` is the id given by the caller, which the database no longer holds."""

    receipt: str
    kind: str
    entity: str
    entities: int
    events: int
    adaptations: int
    impressions: int
    outcomes: int
    at: datetime


def entity_digest(session: Session, kind: str, entity: str) -> str:
    """Return a digest of an entity, keyed by the installation: who lacks the key cannot even try ids."""
    return entity_digests(session, kind, entity)[0]


def entity_digests(session: Session, kind: str, entity: str) -> list[str]:
    """Return the digest of an entity and those that it had under earlier keys, by which older rows are found."""
    plain = hashlib.sha256(f"{len(kind)}:{kind}{entity}".encode(errors="surrogatepass")).hexdigest()
    return [hmac.new(key, plain.encode(), hashlib.sha256).hexdigest() for key in installation_keys(session)]


def upsert_entity(
    session: Session, kind: str, entity: str, features: Mapping[str, Any], now: datetime | None = None
) -> EntityRecord:
    """Set the features of an entity, replacing any earlier ones. Raises ValueError for features that are not JSON."""
    at = utcnow(now)
    new = insert_into(session, EntityRecord)
    statement = new.on_conflict_do_update(
        index_elements=["kind", "external_id"],
        set_={"features": new.excluded.features, "updated": new.excluded.updated},
    )
    values = {"kind": kind, "external_id": entity, "created": at, "updated": at}
    session.execute(statement, {**values, "features": dict(features)})
    return load_entity(session, kind, entity)


def load_entity(session: Session, kind: str, entity: str) -> EntityRecord:
    """Return an entity. Raises NotFoundError if it has no stored features."""
    row = find_entity(session, kind, entity)
    if row is None:
        raise NotFoundError(f"there are no features of the {kind} with this id")
    return row


def find_entity(session: Session, kind: str, entity: str) -> EntityRecord | None:
    """Return an entity, None if it has no stored features."""
    return session.get(EntityRecord, (kind, entity), populate_existing=True)


def erase_entity(session: Session, kind: str, entity: str, now: datetime | None = None) -> ErasureReceipt:
    """Delete features, events, adaptations, impressions, outcomes, explorations and results of evaluations of an
    entity, and store a receipt.

    A repeated erasure that finds nothing new returns the earlier receipt. The caller clears the caches; rows that still
    wait in a background writer are dropped by `drop_erased`.
    """
    hold_erasure_lock(session, exclusive=True)
    counts = {
        "entities": _delete(session, EntityRecord, EntityRecord.external_id.key, kind, entity),
        "events": _delete(session, EventRecord, EventRecord.entity.key, kind, entity),
        "adaptations": _delete(session, AdaptationRecord, AdaptationRecord.entity.key, kind, entity),
        "impressions": _delete(session, ImpressionRecord, ImpressionRecord.entity.key, kind, entity),
        "outcomes": _delete(session, OutcomeRecord, OutcomeRecord.entity.key, kind, entity),
    }
    _delete(session, ExplorationRecord, ExplorationRecord.entity.key, kind, entity)
    _delete(session, NewcomerResultRecord, NewcomerResultRecord.entity.key, kind, entity)
    names = entity_digests(session, kind, entity)
    past = select(ErasureRecord).where(ErasureRecord.entity_digest.in_(names))
    row = session.scalars(past.order_by(ErasureRecord.at.desc()).limit(1)).first()
    at = utcnow(now)
    if row is None or any(counts.values()):
        row = ErasureRecord(receipt=uuid.uuid4().hex, kind=kind, entity_digest=names[0], at=at, **counts)
        session.add(row)
    row.confirmed = at
    session.flush()
    counted = {name: getattr(row, name) for name in counts}
    return ErasureReceipt(receipt=row.receipt, kind=kind, entity=entity, at=row.at, **counted)


def erased_since(session: Session, kind: str, entity: str, since: datetime) -> bool:
    """Return whether an entity was erased at a time or later."""
    query = select(ErasureRecord.receipt).where(
        ErasureRecord.entity_digest.in_(entity_digests(session, kind, entity)), ErasureRecord.confirmed >= since
    )
    return session.scalar(query.limit(1)) is not None


def erased_entities(session: Session, kind: str, entities: Sequence[str]) -> set[str]:
    """Return those of some entities that were ever erased."""
    names = {digest: entity for entity in entities for digest in entity_digests(session, kind, entity)}
    query = select(ErasureRecord.entity_digest)
    return {
        names[digest]
        for part in in_chunks(list(names))
        for digest in session.scalars(query.where(ErasureRecord.entity_digest.in_(part)))
    }


def hold_erasure_lock(session: Session, *, exclusive: bool) -> None:
    """Hold the erasure lock until the transaction ends: shared by writers, or ``exclusive`` for an erasure."""
    if session.get_bind().dialect.name == "postgresql":
        lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        session.execute(text(f"SELECT {lock}(:key)"), {"key": ERASURE_LOCK})


def _delete(session: Session, model: type[Base], id_column: str, kind: str, entity: str) -> int:
    columns = table_of(model).c
    statement = delete(table_of(model)).where(columns.kind == kind, columns[id_column] == entity)
    return len(session.execute(statement.returning(columns.kind)).all())
