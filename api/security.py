"""Who may call: keys with scopes, or without any key this machine only."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request, Security
from fastapi.security import APIKeyHeader

from api.problems import Problem
from recsys_meta.errors import ConfigError

Scope = Literal["read", "write", "admin"]
Scopes = frozenset[str]
ALL: frozenset[str] = frozenset(("read", "write", "admin"))
HEADER = "X-API-Key"

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
_header = APIKeyHeader(name=HEADER, auto_error=False, description="A key of RECSYS_META_API_KEYS")


@dataclass(frozen=True)
class Keys:
    """Digests of the keys with the scopes of each; the keys themselves are not kept."""

    digests: tuple[tuple[bytes, frozenset[str]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def scopes(self, key: str) -> frozenset[str] | None:
        """Scopes of a key, None for a key that is not ours. Its time does not depend on which key matches."""
        given, found = _digest(key), None
        for digest, scopes in self.digests:
            if hmac.compare_digest(given, digest):
                found = scopes
        return found


def parse_keys(entries: Iterable[str]) -> Keys:
    """Keys from `key`, `key:read`, `key:read+write` or `key:admin`; admin includes the other two.

    Raises ConfigError for an unknown scope or an empty key, without repeating the key.
    """
    return Keys(tuple(_parse(number, entry) for number, entry in enumerate(entries, 1)))


def _parse(number: int, entry: str) -> tuple[bytes, frozenset[str]]:
    key, colon, text = entry.partition(":")
    scopes = frozenset(text.split("+")) if colon else ALL
    if not key or not scopes <= ALL:
        raise ConfigError(
            f"RECSYS_META_API_KEYS: entry {number} must be KEY or KEY:SCOPES with scopes from "
            "read, write, admin joined by +"
        )
    return _digest(key), ALL if "admin" in scopes else scopes


def require(scope: Scope) -> Any:
    """A dependency that lets in only callers with a scope."""

    # Named here, so that OpenAPI shows the key; `async`, so that it costs no thread.
    async def check(request: Request, key: str | None = Security(_header)) -> frozenset[str]:
        return admit(request.app.state.keys, request.scope, key, scope)

    return Security(check)


def admit(keys: Keys, scope: Mapping[str, Any], key: str | None, wanted: str) -> frozenset[str]:
    """Scopes of the caller. Raises Problem 401 or 403."""
    if not keys:
        if not _is_local(scope):
            raise Problem(
                403, "No API key is configured, so only this machine is served; set RECSYS_META_API_KEYS on the server"
            )
        return ALL
    scopes = keys.scopes(key) if key else None
    if scopes is None:
        raise Problem(401, f"A valid key is needed in the header {HEADER}", headers={"www-authenticate": "ApiKey"})
    if wanted not in scopes:
        raise Problem(403, f"This key lacks the scope '{wanted}'")
    return scopes


def _is_local(scope: Mapping[str, Any]) -> bool:
    """Whether the caller is on this machine and asks for it by a name of this machine.

    A proxy on this machine makes the whole world look local, and a web page may point a name of its own at
    127.0.0.1: the first is known by its headers, the second by the dots in its name.
    """
    client = scope.get("client")
    if not client or not _is_loopback(str(client[0])):
        return False
    headers = dict(scope["headers"])
    if any(name in headers for name in _FORWARDED):
        return False
    host = headers.get(b"host", b"localhost").decode("latin-1")
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return ("." not in name and ":" not in name) or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
