"""API keys: shown once when they are created, stored as a digest, revoked for good.

A key is `rsm_ID_SECRET`. The secret is 256 random bits, so a plain SHA-256 of the key is enough: there is no
dictionary to try, and a slow hash, which passwords need, would only be paid at every request. ID is drawn apart from
the secret; lists, logs and the audit log show it.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.access.tables import ApiKeyRecord
from recsys_meta.store.database.clock import utcnow

SCOPES = ("read", "write", "admin")
"""Scopes that a key may have; admin includes the other two."""

_PREFIX = "rsm"  # the prefix by which scanners for leaked secrets recognise a key
_ID_BYTES, _SECRET_BYTES = 5, 32


@dataclass(frozen=True)
class NewKey:
    """A key that was just created: its row, and the key itself (``text``), which cannot be read again."""

    row: ApiKeyRecord
    text: str


def key_digest(text: str) -> str:
    """Return the SHA-256 of a key, hexadecimal: all that is stored of it."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def create_key(
    session: Session,
    name: str,
    scopes: Iterable[str],
    *,
    expires: datetime | None = None,
    actor: str,
    now: datetime | None = None,
) -> NewKey:
    """Create a key. Several keys may share a name, so that one can replace another without a gap.

    Raises ValueError for a name that is not printable, for unknown or no scopes, and for an expiry in the past.
    """
    at, scope_set = utcnow(now), set(scopes)
    if not name.strip() or not name.isprintable() or len(name) > NAME_LENGTH:
        raise ValueError(f"a key's name is 1 to {NAME_LENGTH} printable characters")
    if not scope_set or not scope_set <= set(SCOPES):
        raise ValueError(f"the scopes of a key are some of {', '.join(SCOPES)}")
    if expires is not None and expires <= at:
        raise ValueError("a key must end in the future")
    id = secrets.token_hex(_ID_BYTES)
    text = f"{_PREFIX}_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    scope_text = "+".join(s for s in SCOPES if s in scope_set)
    row = ApiKeyRecord(
        id=id, name=name, digest=key_digest(text), scopes=scope_text, created=at, expires=expires, revoked=None
    )
    session.add(row)
    record_action(session, "key create", id, actor=actor, now=at)
    session.flush()
    return NewKey(row, text)


def list_keys(session: Session) -> list[ApiKeyRecord]:
    """Return every key, revoked and expired ones included, newest first."""
    return list(session.scalars(select(ApiKeyRecord).order_by(ApiKeyRecord.created.desc(), ApiKeyRecord.id)))


def active_keys(session: Session) -> list[ApiKeyRecord]:
    """Return the keys that are not revoked; the caller compares their expiry with its clock."""
    return list(session.scalars(select(ApiKeyRecord).where(ApiKeyRecord.revoked.is_(None)).order_by(ApiKeyRecord.id)))


def revoke_key(session: Session, id_or_name: str, *, actor: str, now: datetime | None = None) -> ApiKeyRecord:
    """Revoke a key by its id, or by its name where only one key has it. Revoking a key again changes nothing.

    Raises NotFoundError for an unknown id or name, ConflictError if several keys that are not revoked share the name.
    """
    query = (
        select(ApiKeyRecord)
        .where(or_(ApiKeyRecord.id == id_or_name, ApiKeyRecord.name == id_or_name))
        .order_by(ApiKeyRecord.created.desc())
    )
    rows = list(session.scalars(query.with_for_update()))
    if not rows:
        raise NotFoundError("there is no key with this id or name; `recsys-meta keys list` shows those there are")
    same_id = [row for row in rows if row.id == id_or_name]
    candidates = same_id or [row for row in rows if row.revoked is None]
    if len(candidates) > 1:
        raise ConflictError(f"several keys have this name; give an id: {', '.join(row.id for row in candidates)}")
    row = candidates[0] if candidates else rows[0]
    if row.revoked is None:
        row.revoked = utcnow(now)
        record_action(session, "key revoke", row.id, actor=actor, now=row.revoked)
        session.flush()
    return row
