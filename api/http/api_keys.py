"""API keys that this process accepts: those of its environment, and those of the database as last read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recsys_meta.core.atomic_io import dump_checksummed, load_checksummed, write_file
from recsys_meta.store.access.api_keys import SCOPES, key_digest
from recsys_meta.store.access.tables import ApiKeyRecord
from recsys_meta.store.config_entries import parse_api_keys

ALL_SCOPES: frozenset[str] = frozenset(SCOPES)

# Unchanged keys are written to the snapshot again after so long, seconds: a process that starts reads their age there.
_SNAPSHOT_INTERVAL_S = 600.0


@dataclass(frozen=True)
class ApiKey:
    """Rights of an API key. `id` names it in counters, `actor` in the audit log; `expires` is seconds since 1970."""

    id: str
    actor: str
    scopes: frozenset[str]
    expires: float = math.inf


class ApiKeyStore:
    """Keys by digest; the keys themselves are not held.

    A lookup is that of a dict: what its timing could leak is a digest, from which no key follows. Keys read from the
    database are trusted for `trusted_s` seconds after the reading, in this process and, by way of the file `snapshot`,
    in a process that starts while the database cannot be reached. `outage_reason` says why it was not read.
    """

    def __init__(
        self,
        environment_keys: Mapping[str, ApiKey] | None = None,
        *,
        snapshot: Path | None = None,
        trusted_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._environment_keys = dict(environment_keys or {})
        self._snapshot, self._trusted_s, self._clock = snapshot, trusted_s, clock
        self._database_keys: Mapping[str, ApiKey] = MappingProxyType({})
        self._read_at = self._saved_at = -math.inf
        self.outage_reason = "the database was not asked yet"

    @property
    def is_current(self) -> bool:
        """Return whether the database was read recently enough to call a key unknown."""
        return self.age <= self._trusted_s

    @property
    def age(self) -> float:
        """Return the seconds since the database was read; infinite where it never was."""
        return self._clock() - self._read_at

    @property
    def is_empty(self) -> bool:
        """Return whether there is certainly no key at all."""
        return not self._environment_keys and not self._database_keys and self.is_current

    @property
    def has_keys(self) -> bool:
        """Return whether there is any key, expired or not."""
        return bool(self._environment_keys or self._database_keys)

    def find(self, text: str) -> ApiKey | None:
        """Return a key; None for one that is unknown, has expired, or was read too long ago to be trusted."""
        return self.find_digest(key_digest(text))

    def find_digest(self, digest: str) -> ApiKey | None:
        """Return the key with a digest, as `find` does."""
        key = self._environment_keys.get(digest)
        if key is None and self.is_current:
            key = self._database_keys.get(digest)
        return key if key is not None and self._clock() < key.expires else None

    def digest_of_id(self, id: str) -> str | None:
        """Return the digest of the key with a public id, whether it may be used or not. Takes time by the keys."""
        stores = self._environment_keys, self._database_keys
        return next((digest for keys in stores for digest, key in keys.items() if key.id == id), None)

    def replace_stored(self, rows: Sequence[ApiKeyRecord]) -> bool:
        """Replace the database's keys by its present ones, in one assignment; return whether they differ."""
        previous, self._database_keys = self._database_keys, MappingProxyType({row.digest: _key(row) for row in rows})
        self._read_at = self._clock()
        return previous != self._database_keys

    def save(self, changed: bool) -> None:
        """Write the database's keys to the snapshot: at once where they changed, else now and then. Raises OSError."""
        if self._snapshot is None or not (changed or self._read_at - self._saved_at > _SNAPSHOT_INTERVAL_S):
            return
        keys = [_to_json(digest, key) for digest, key in self._database_keys.items()]
        write_file(self._snapshot, dump_checksummed({"read": self._read_at, "keys": keys}).encode())
        self._saved_at = self._read_at

    def restore(self) -> None:
        """Load the snapshot where nothing newer is known; a damaged one counts as none."""
        if self._snapshot is None:
            return
        try:
            document = load_checksummed(self._snapshot.read_text())
            keys = {entry["digest"]: _from_json(entry) for entry in document["keys"]}
            read_at = min(float(document["read"]), self._clock())
        except (OSError, ValueError, KeyError, TypeError):
            return
        if read_at > self._read_at:
            self._database_keys, self._read_at = MappingProxyType(keys), read_at


def parse_keys(entries: Iterable[str]) -> dict[str, ApiKey]:
    """Parse `key`, `key:read`, `key:read+write` or `key:admin` into keys by digest; admin includes the other scopes.

    Raises ConfigError for an unknown scope or an empty key, without repeating the key.
    """
    return {
        key_digest(text): ApiKey(f"environment-{number}", f"environment key {number}", _expand_admin(scopes))
        for number, (text, scopes) in enumerate(parse_api_keys(entries), 1)
    }


def _key(row: ApiKeyRecord) -> ApiKey:
    expires = math.inf if row.expires is None else row.expires.timestamp()
    return ApiKey(row.id, f"{row.name} ({row.id})", _expand_admin(row.scopes.split("+")), expires)


def _to_json(digest: str, key: ApiKey) -> dict[str, Any]:
    expires = None if key.expires == math.inf else key.expires  # JSON has no infinity
    return {"digest": digest, "id": key.id, "actor": key.actor, "scopes": sorted(key.scopes), "expires": expires}


def _from_json(entry: Mapping[str, Any]) -> ApiKey:
    expires = math.inf if entry["expires"] is None else float(entry["expires"])
    return ApiKey(str(entry["id"]), str(entry["actor"]), frozenset(entry["scopes"]), expires)


def _expand_admin(scopes: Iterable[str]) -> frozenset[str]:
    names = frozenset(scopes)
    return ALL_SCOPES if "admin" in names else names
