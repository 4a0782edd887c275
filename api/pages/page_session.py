"""Sessions of pages: a cookie that a key was exchanged for, and the tokens of forms.

A session is not stored. Its cookie names the key by its public id and is signed over the key's digest, so it ends with
the key: once that is revoked or has expired, in every process. The cookie reveals neither key nor digest.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass

from api.http.api_keys import ApiKey, ApiKeyStore
from recsys_meta.store.access.api_keys import key_digest
from recsys_meta.store.installation.installation_key import derived_key

COOKIE = "recsys-meta-session"
LIFETIME_S = 4 * 3600
"""Time after which the key has to be given again, seconds."""

_PURPOSE = "page sessions"
_KEYLESS = "keyless"


@dataclass(frozen=True)
class PageSession:
    """A key that was given at the login; `nonce` tells two sessions of it apart. Without a key it is that of all."""

    key: ApiKey | None = None
    nonce: str = _KEYLESS


def open_session(secret: bytes, keys: ApiKeyStore, text: str, now: float | None = None) -> str | None:
    """Return the value of the cookie for a key; None for a key that is not accepted."""
    digest = key_digest(text)
    key = keys.find_digest(digest)
    if key is None:
        return None
    expires = int((time.time() if now is None else now) + LIFETIME_S)
    content = f"{key.id}.{expires}.{secrets.token_hex(16)}"
    return f"{content}.{_sign(secret, content, digest)}"


def read_session(secret: bytes, keys: ApiKeyStore, cookie: str | None, now: float | None = None) -> PageSession | None:
    """Return the session of a cookie; None for one that has ended, that this deployment did not sign, or whose key is
    accepted no more."""
    content, _, signature = (cookie or "").rpartition(".")
    id, _, rest = content.partition(".")
    expires, _, nonce = rest.partition(".")
    digest = keys.digest_of_id(id)
    if digest is None or not hmac.compare_digest(
        _sign(secret, content, digest).encode(), signature.encode(errors="replace")
    ):
        return None
    key = keys.find_digest(digest)
    if key is None or int(expires) <= (time.time() if now is None else now):
        return None
    return PageSession(key, nonce)


def form_token(secret: bytes, session: PageSession) -> str:
    """Return the token that each form of a session carries: no other origin can read it (CSRF)."""
    return _sign(secret, f"form.{session.nonce}", "")


def is_form_token(secret: bytes, session: PageSession, token: str) -> bool:
    """Return whether a form was made for a session."""
    return hmac.compare_digest(form_token(secret, session).encode(), token.encode(errors="replace"))


def _sign(secret: bytes, content: str, digest: str) -> str:
    key = derived_key(secret, _PURPOSE)
    return hmac.new(key, f"{content}.{digest}".encode(errors="replace"), "sha256").hexdigest()
