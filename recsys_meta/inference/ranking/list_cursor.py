"""Cursors of lists: behind which item, of which state, a list goes on. They are signed, so only ours are followed.

    version 8 | support 16 | size 2 | entity 8 | context 8 | score 4 | item 4 | rank 4 | signature 12
    bytes, as 88 characters

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

from recsys_meta.inference.requests.entity import EncodedEntity, QueryContext, canonical_json

_FORM = struct.Struct(">8s16sH8s8sfII")
_SIGNATURE = 12


class CursorMismatch(ValueError):
    """A cursor that was made for another list than the one that is asked for."""


class ListPosition(NamedTuple):
    """A place in the order of a state's scores: the score and the id of the item there. Ties are ordered by id."""

    score: float
    item: int


class ListCursor(NamedTuple):
    """The item behind which a list goes on, and the list. support: digest of the entity's support; size: its events;
    entity and context: digests; rank: that of the item, which the next one's follows."""

    version: str
    support: str
    size: int
    entity: bytes
    context: bytes
    score: float
    item: int
    rank: int

    @property
    def position(self) -> ListPosition:
        """The position behind which the list goes on."""
        return ListPosition(self.score, self.item)

    def is_current(self, entity: EncodedEntity) -> bool:
        """Return True where the list was made from the support that the entity has now."""
        return self.support == entity.digest

    def can_continue(self, entity: EncodedEntity) -> bool:
        """Return True where the list can still be made, if its state is found: ids of a catalogue of the entity's own
        hold for one support only."""
        return entity.catalog is None or self.is_current(entity)


class ListScope(NamedTuple):
    """A list without its support: the model's version, the owner of the entity (empty for an anonymous one), and the
    context it is asked for in."""

    version: str
    owner: str = ""
    context: QueryContext | None = None

    def cursor(self, support: str, size: int, end: ListPosition, rank: int) -> ListCursor:
        """Make the cursor of what follows a position, of a rank, in a list that was made from a support of `size`
        events."""
        owner, context = scope_digest(self.owner), context_digest(self.context)
        return ListCursor(self.version, support, size, owner, context, *end, rank)

    def check(self, cursor: ListCursor, pinned_version: str = "") -> None:
        """Raise CursorMismatch for a cursor of another list, or of a version that does not start as the pinned one."""
        if cursor.version != self.version or not cursor.version.startswith(pinned_version):
            raise CursorMismatch("This cursor belongs to another version of the model")
        if (cursor.entity, cursor.context) != (scope_digest(self.owner), context_digest(self.context)):
            raise CursorMismatch("This cursor belongs to another newcomer or moment")


def scope_digest(text: str) -> bytes:
    """Hash a text to eight bytes; zeros for an empty one."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() if text else bytes(8)


def context_digest(context: QueryContext | None) -> bytes:
    """Hash a context to eight bytes; zeros where there is none."""
    if context is None:
        return scope_digest("")
    # A category such as 7 is a number in JSON and a text on the command line.
    values = {name: str(value) for name, value in context.context.items() if value is not None}
    return scope_digest(canonical_json({**vars(context), "context": values}))


def write_cursor(cursor: ListCursor, secret: bytes) -> str:
    """Serialize and sign a cursor."""
    raw = _FORM.pack(
        bytes.fromhex(cursor.version),
        bytes.fromhex(cursor.support),
        cursor.size,
        cursor.entity,
        cursor.context,
        cursor.score,
        cursor.item,
        cursor.rank,
    )
    return base64.urlsafe_b64encode(raw + _sign(raw, secret)).decode()


def read_cursor(text: str, secret: bytes) -> ListCursor:
    """Read a cursor. Raises ValueError for any text that `write_cursor` did not write with this secret."""
    try:
        content = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        raw, signature = content[: _FORM.size], content[_FORM.size :]
        if not hmac.compare_digest(signature, _sign(raw, secret)):
            raise ValueError("another signature")
        version, support, size, entity, context, score, item, rank = _FORM.unpack(raw)
    except (ValueError, struct.error, binascii.Error):
        raise ValueError("This is no cursor of a list; leave `cursor` out to begin with the first page") from None
    return ListCursor(version.hex(), support.hex(), size, entity, context, score, item, rank)


def _sign(raw: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_SIGNATURE, key=secret).digest()
