"""The keys that open this process: those of its environment, and those of the database as it last read them."""

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

_NOTED_S = 600.0  # how often what was read is noted again though it is the same, seconds


@dataclass(frozen=True)
class ApiKey:
    """What a key is good for. `id` and `actor` name it, in counters and for people; `expires` is seconds since 1970."""

    id: str
    actor: str
    scopes: frozenset[str]
    expires: float = math.inf


class ApiKeyStore:
    """Keys by digest; the keys themselves are not kept.

    A lookup is that of a dict: what its time could give away is a digest, from which no key follows. What the
    database said outlives it by `trusted` seconds: in this process, and in the file `notes` for a process that starts
    meanwhile.
    """

    def __init__(
        self,
        environment_keys: Mapping[str, ApiKey] | None = None,
        *,
        snapshot: Path | None = None,
        trusted_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fixed, self._notes, self._trusted, self._clock = dict(environment_keys or {}), snapshot, trusted_s, clock
        self._stored: Mapping[str, ApiKey] = MappingProxyType({})
        self._read = self._noted = -math.inf
        self.outage_reason = "the database was not asked yet"

    @property
    def is_current(self) -> bool:
        """Whether the database was read recently enough to say that a key is none of its own."""
        return self.age <= self._trusted

    @property
    def age(self) -> float:
        """Seconds since the database was read; infinite where it never was."""
        return self._clock() - self._read

    @property
    def is_empty(self) -> bool:
        """Whether it is known that there is no key at all."""
        return not self._fixed and not self._stored and self.is_current

    @property
    def has_keys(self) -> bool:
        """Whether there is any key."""
        return bool(self._fixed or self._stored)

    def find(self, text: str) -> ApiKey | None:
        """The key, None for one that is not ours, has ended, or can no longer be trusted."""
        name = key_digest(text)
        found = self._fixed.get(name)
        if found is None and self.is_current:
            found = self._stored.get(name)
        return found if found is not None and self._clock() < found.expires else None

    def replace_stored(self, rows: Sequence[ApiKeyRecord]) -> bool:
        """Replace the database's keys by those it has now, in one assignment; answers whether they are others."""
        before, self._stored = self._stored, MappingProxyType({row.digest: _key(row) for row in rows})
        self._read = self._clock()
        return before != self._stored

    def save(self, changed: bool) -> None:
        """Write down what the database said, now and then where it did not change. Raises OSError."""
        if self._notes is None or not (changed or self._read - self._noted > _NOTED_S):
            return
        keys = [_note(name, key) for name, key in self._stored.items()]
        write_file(self._notes, dump_checksummed({"read": self._read, "keys": keys}).encode())
        self._noted = self._read

    def restore(self) -> None:
        """Take up what was written down, where nothing newer is known. Damaged notes are none."""
        if self._notes is None:
            return
        try:
            found = load_checksummed(self._notes.read_text())
            stored = {k["digest"]: _noted(k) for k in found["keys"]}
            read = min(float(found["read"]), self._clock())
        except (OSError, ValueError, KeyError, TypeError):
            return
        if read > self._read:
            self._stored, self._read = MappingProxyType(stored), read


def parse_keys(entries: Iterable[str]) -> dict[str, ApiKey]:
    """Keys from `key`, `key:read`, `key:read+write` or `key:admin`; admin includes the other two.

    Raises ConfigError for an unknown scope or an empty key, without repeating the key.
    """
    return {
        key_digest(text): ApiKey(f"environment-{number}", f"environment key {number}", _whole(scopes))
        for number, (text, scopes) in enumerate(parse_api_keys(entries), 1)
    }


def _key(row: ApiKeyRecord) -> ApiKey:
    expires = math.inf if row.expires is None else row.expires.timestamp()
    return ApiKey(row.id, f"{row.name} ({row.id})", _whole(row.scopes.split("+")), expires)


def _note(name: str, key: ApiKey) -> dict[str, Any]:
    expires = None if key.expires == math.inf else key.expires  # JSON has no infinity
    return {"digest": name, "id": key.id, "actor": key.actor, "scopes": sorted(key.scopes), "expires": expires}


def _noted(found: Mapping[str, Any]) -> ApiKey:
    expires = math.inf if found["expires"] is None else float(found["expires"])
    return ApiKey(str(found["id"]), str(found["actor"]), frozenset(found["scopes"]), expires)


def _whole(scopes: Iterable[str]) -> frozenset[str]:
    found = frozenset(scopes)
    return ALL_SCOPES if "admin" in found else found
