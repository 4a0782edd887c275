"""Cursors: what they say comes back as it was, and nothing that anybody else wrote is followed."""

import pytest

from recsys_meta.core.limits import CURSOR_LENGTH
from recsys_meta.inference.ranking.list_cursor import (
    ListCursor,
    context_digest,
    read_cursor,
    scope_digest,
    secret_of,
    write_cursor,
)
from recsys_meta.inference.requests.entity import QueryContext

PLACE = ListCursor("0123456789abcdef", "ab" * 16, 3, scope_digest("rm{x}"), context_digest(None), 1.5, 70)


def test_a_cursor_is_read_as_it_was_written():
    secret = secret_of("a database")
    cursor = write_cursor(PLACE, secret)
    assert read_cursor(cursor, secret) == PLACE and len(cursor) == CURSOR_LENGTH
    for wrong, key in ((cursor, secret_of("another")), (cursor[:-1] + "A" * (cursor[-1] != "A"), secret), ("", secret)):
        with pytest.raises(ValueError, match="no cursor"):
            read_cursor(wrong, key)


def test_a_moment_is_the_same_however_its_words_are_told():
    told = QueryContext({"hour": 12, "device": None}, "ann", (48.0, 11.5))
    assert context_digest(told) == context_digest(QueryContext({"hour": "12"}, "ann", (48.0, 11.5)))
    others = [
        QueryContext({"hour": 13}, "ann", (48.0, 11.5)),
        QueryContext({"hour": 12}, "bob", (48.0, 11.5)),
        QueryContext(),
        None,
    ]
    assert len({context_digest(one) for one in (told, *others)}) == 5
    assert context_digest(None) == bytes(8)
