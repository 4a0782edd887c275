"""The key of an installation, which keys what others must not be able to make or try out: digests, cursors.

It follows from RECSYS_META_SECRET where that is set, and else from a random secret in the database, where all processes
and machines of an installation find the same one. The setting is for who keeps the two apart: with the database alone,
as in a backup, nobody can then try out ids. What was keyed before the setting was made is still found: the database's
secret stays, and is asked second.
"""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, Pool
from sqlalchemy.orm import Session

from recsys_meta.store.database.database_errors import OUTDATED, StoreUnavailable
from recsys_meta.store.database.engine import SECRET_OPTION
from recsys_meta.store.installation.tables import SecretRecord

CURSORS = "cursors"
"""The purpose of the key that signs the cursors of lists."""

_NAME = "installation"
_known: WeakKeyDictionary[Pool, bytes] = WeakKeyDictionary()


def installation_key(session: Session) -> bytes:
    """Return the key, 32 bytes. Raises StoreUnavailable where the database has none yet."""
    return _given_key(session) or _stored_key(session)


def installation_keys(session: Session) -> tuple[bytes, ...]:
    """Return the key and, where it follows from the setting, the one that was in force before. Raises like
    `installation_key`."""
    given, stored = _given_key(session), _stored_key(session)
    return (stored,) if given is None else (given, stored)


def _given_key(session: Session) -> bytes | None:
    given = _engine(session).get_execution_options().get(SECRET_OPTION)
    if not given:
        return None
    return hashlib.blake2b(given.encode(errors="surrogatepass"), digest_size=32, person=b"installation").digest()


def _stored_key(session: Session) -> bytes:
    pool = _engine(session).pool
    key = _known.get(pool)
    if key is None:
        row = session.get(SecretRecord, _NAME)
        if row is None:
            raise StoreUnavailable(OUTDATED, OUTDATED)
        key = _known[pool] = bytes.fromhex(row.value)
    return key


def _engine(session: Session) -> Engine:
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    return engine


def derived_key(key: bytes, purpose: str) -> bytes:
    """Return a key for one purpose, 32 bytes, from which the installation's does not follow."""
    return hashlib.blake2b(purpose.encode(), digest_size=32, key=key).digest()
