"""The key of an installation, which keys what others must not be able to make or try out: digests, cursors.

It follows from RECSYS_META_SECRET where that is set, and else from a random secret in the database, where all processes
and machines of an installation find the same one. The setting is for who keeps the two apart: with the database alone,
as in a backup, nobody can then try out ids.
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
    engine = session.get_bind()
    assert isinstance(engine, Engine)
    given = engine.get_execution_options().get(SECRET_OPTION)
    if given:
        return hashlib.blake2b(given.encode(errors="surrogatepass"), digest_size=32, person=b"installation").digest()
    key = _known.get(engine.pool)
    if key is None:
        row = session.get(SecretRecord, _NAME)
        if row is None:
            raise StoreUnavailable(OUTDATED, OUTDATED)
        key = _known[engine.pool] = bytes.fromhex(row.value)
    return key


def derived_key(key: bytes, purpose: str) -> bytes:
    """Return a key for one purpose, 32 bytes, from which the installation's does not follow."""
    return hashlib.blake2b(purpose.encode(), digest_size=32, key=key).digest()
