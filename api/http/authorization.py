"""Authorization of callers: API keys with scopes or, where there is no key at all, loopback only."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from fastapi import Request, Security
from fastapi.security import APIKeyHeader
from sqlalchemy.orm import Session

from api.http.api_keys import ALL_SCOPES, ApiKey, ApiKeyStore
from api.http.problem_details import ProblemError, unavailable
from api.http.request_context import request_context
from recsys_meta.store.access import audit_log

Scope = Literal["read", "write", "admin"]
Scopes = frozenset[str]
HEADER = "X-API-Key"
KEY_HEADER = HEADER.lower().encode()
"""The same as it stands in an ASGI scope."""

KEYLESS = "this machine"
"""The actor of a request without a key."""

_required_scopes: dict[Any, Scope] = {}
_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))
_header = APIKeyHeader(
    name=HEADER, auto_error=False, description="A key of `recsys-meta keys create` or of RECSYS_META_API_KEYS"
)


def require(scope: Scope) -> Any:
    """Return a FastAPI dependency that admits only callers with a scope and yields all scopes of the caller."""

    # The header is declared here, so that OpenAPI shows it; `async`, so that the check costs no thread.
    async def check(request: Request, key: str | None = Security(_header)) -> Scopes:
        return authorize(request.app.state.keys, request.scope, key, scope)

    _required_scopes[check] = scope
    return Security(check)


def required_scope(dependency: Any) -> str | None:
    """Return the scope that a dependency of `require` asks for, None for any other callable."""
    return _required_scopes.get(dependency)


def authorize(keys: ApiKeyStore, scope: Mapping[str, Any], key: str | None, required: str) -> Scopes:
    """Return the scopes of the caller and write its name into the request context.

    Raises ProblemError 401 for no key or an unknown one, 403 for a key that lacks the scope and for a remote caller of
    a server without keys, 503 where the key cannot be checked.
    """
    if keys.is_empty:
        if not _is_local(scope):
            raise ProblemError(
                403, "There is no API key, so only this machine is served; make one with `recsys-meta keys create`"
            )
        return ALL_SCOPES
    return admit_key(keys, scope, keys.find(key) if key else None, required, was_given=bool(key))


def admit_key(
    keys: ApiKeyStore, scope: Mapping[str, Any], api_key: ApiKey | None, required: str, *, was_given: bool
) -> Scopes:
    """Return the scopes of a key; None stands for one that was not given, or is not known. Raises as `authorize`."""
    if api_key is None:
        if not keys.is_current and (was_given or not keys.has_keys):
            # The database may know this key; and while nothing is known of any key, nobody is admitted without one.
            raise unavailable(f"The key cannot be checked: {keys.outage_reason}")
        raise ProblemError(401, f"A valid key is needed in the header {HEADER}", headers={"www-authenticate": "ApiKey"})
    request_context(scope).actor = api_key.actor
    if required not in api_key.scopes:
        raise ProblemError(403, f"This key lacks the scope '{required}'")
    return api_key.scopes


def actor(request: Request) -> str:
    """Return the name and id of the caller's key, never the key, once the request is authorized."""
    return request_context(request.scope).actor or KEYLESS


def record_audit(request: Request, session: Session, action: str, target: str) -> None:
    """Write an action of the caller into the audit log, in the transaction of the action itself.

    `target` must hold no id of an entity: `entities.digest` names one.
    """
    request_id = request_context(request.scope).request_id
    audit_log.record_action(session, action, target, actor=actor(request), request_id=request_id)


def _is_local(scope: Mapping[str, Any]) -> bool:
    """Return whether the caller is on this machine and addresses it by a name of this machine.

    Two traps: behind a proxy on this machine every caller looks local, and a web page may point a name of its own at
    127.0.0.1 (DNS rebinding). The proxy is recognised by its headers, the name by its dots.
    """
    client = scope.get("client")
    if not client or not _is_loopback(str(client[0])):
        return False
    headers = dict(scope["headers"])
    if not _FORWARDED.isdisjoint(headers):
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
    ipv4 = getattr(address, "ipv4_mapped", None)
    return (ipv4 or address).is_loopback
