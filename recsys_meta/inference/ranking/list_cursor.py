"""Cursors of lists: after which item, of which state, a list goes on. They are signed, so only ours are followed.

    version 8 | support 16 | size 2 | entity 8 | moment 8 | score 4 | item 4 | signature 13     bytes, as 84 characters

A page holds what comes behind an item in the order of one state's scores, so pages never repeat an item, whatever is
met or excluded meanwhile, and together they are the list that one page would have been.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from typing import NamedTuple

from recsys_meta.inference.requests.entity import QueryContext, canonical

_FORM = struct.Struct(">8s16sH8s8sfI")
_SIGNATURE = 13


class ListCursor(NamedTuple):
    """Behind which item a list goes on. support: the digest of the newcomer's support, and size: its events; entity and
    moment: digests."""

    version: str
    support: str
    size: int
    entity: bytes
    moment: bytes
    score: float
    item: int

    @property
    def after(self) -> tuple[float, int]:
        """What `Recommender.top` wants."""
        return self.score, self.item


def scope_digest(text: str) -> bytes:
    """Eight bytes that stand for a text; zeros for none."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() if text else bytes(8)


def context_digest(moment: QueryContext | None) -> bytes:
    """Eight bytes that stand for a moment; zeros where none was told."""
    if moment is None:
        return scope_digest("")
    # A word is told as a number to one door and as a text to another.
    context = {name: str(value) for name, value in moment.context.items() if value is not None}
    return scope_digest(canonical({**vars(moment), "context": context}))


def secret_of(*parts: str) -> bytes:
    """The key that all processes of a deployment sign with, from what only they know."""
    made = hashlib.blake2b(digest_size=32, person=b"cursors")
    for part in parts:
        made.update(part.encode() + b"\0")
    return made.digest()


def write_cursor(place: ListCursor, secret: bytes) -> str:
    """The cursor of a place."""
    raw = _FORM.pack(
        bytes.fromhex(place.version),
        bytes.fromhex(place.support),
        place.size,
        place.entity,
        place.moment,
        place.score,
        place.item,
    )
    return base64.urlsafe_b64encode(raw + _sign(raw, secret)).decode()


def read_cursor(cursor: str, secret: bytes) -> ListCursor:
    """The place of a cursor. Raises ValueError for anything that `write` did not make."""
    try:
        signed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        raw, signature = signed[: _FORM.size], signed[_FORM.size :]
        if not hmac.compare_digest(signature, _sign(raw, secret)):
            raise ValueError("another signature")
        version, support, size, entity, moment, score, item = _FORM.unpack(raw)
    except (ValueError, struct.error, binascii.Error):
        raise ValueError("This is no cursor of a list; leave `cursor` out to begin with the first page") from None
    return ListCursor(version.hex(), support.hex(), size, entity, moment, score, item)


def _sign(raw: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_SIGNATURE, key=secret).digest()
