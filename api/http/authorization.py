"""Who may call: keys with scopes, or without any key this machine only."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from fastapi import Request, Security
from fastapi.security import APIKeyHeader
from sqlalchemy.orm import Session

from api.http.api_keys import ALL_SCOPES, ApiKeyStore
from api.http.problem_details import ProblemError, unavailable
from api.http.request_context import request_context
from recsys_meta.store.access import audit_log as audit

Scope = Literal["read", "write", "admin"]
Scopes = frozenset[str]
HEADER = "X-API-Key"
KEYLESS = "this machine"
"""The actor where there is no key."""

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip")
_header = APIKeyHeader(
    name=HEADER, auto_error=False, description="A key of `recsys-meta keys create` or of RECSYS_META_API_KEYS"
)


def require(scope: Scope) -> Any:
    """A dependency that lets in only callers with a scope."""

    # Named here, so that OpenAPI shows the key; `async`, so that it costs no thread.
    async def check(request: Request, key: str | None = Security(_header)) -> Scopes:
        return authorize(request.app.state.keys, request.scope, key, scope)

    return Security(check)


def authorize(keys: ApiKeyStore, scope: Mapping[str, Any], key: str | None, wanted: str) -> Scopes:
    """Scopes of the caller, whom the request then knows by name. Raises Problem 401, 403 or 503."""
    if keys.is_empty:
        if not _is_local(scope):
            raise ProblemError(
                403, "There is no API key, so only this machine is served; make one with `recsys-meta keys create`"
            )
        return ALL_SCOPES
    found = keys.find(key) if key else None
    if found is None:
        if not keys.is_current and (key or not keys.has_keys):
            # It may be one that the database knows; and where nothing is known of keys, nobody may do without.
            raise unavailable(f"The key cannot be checked: {keys.outage_reason}")
        raise ProblemError(401, f"A valid key is needed in the header {HEADER}", headers={"www-authenticate": "ApiKey"})
    request_context(scope).actor = found.actor
    if wanted not in found.scopes:
        raise ProblemError(403, f"This key lacks the scope '{wanted}'")
    return found.scopes


def actor(request: Request) -> str:
    """Who calls: the name and id of the key, never the key. For the audit; a route asks after it was entered."""
    return request_context(request.scope).actor or KEYLESS


def record_audit(request: Request, session: Session, action: str, target: str) -> None:
    """Write into the audit, in the transaction of the act, that the caller did it. `target` holds no id of an entity:
    `entities.digest` names one."""
    request_id = request_context(request.scope).request_id
    audit.record_action(session, action, target, actor=actor(request), request_id=request_id)


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


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
