"""Cursors: what they say comes back as it was, and nothing that anybody else wrote is followed."""

from dataclasses import replace

import pytest

from recsys_meta.core.limits import CURSOR_LENGTH
from recsys_meta.inference.ranking.list_cursor import (
    CursorMismatch,
    ListCursor,
    ListPosition,
    ListScope,
    context_digest,
    read_cursor,
    scope_digest,
    write_cursor,
)
from recsys_meta.inference.requests.entity import EncodedEntity, EntityCatalogSpec, QueryContext

PLACE = ListCursor("0123456789abcdef", "ab" * 16, 3, scope_digest("rm{x}"), context_digest(None), 1.5, 70, 10)


def test_a_cursor_is_read_as_it_was_written():
    secret = bytes(32)
    cursor = write_cursor(PLACE, secret)
    assert read_cursor(cursor, secret) == PLACE and len(cursor) == CURSOR_LENGTH
    for wrong, key in ((cursor, bytes(31) + b"1"), (cursor[:-1] + "A" * (cursor[-1] != "A"), secret), ("", secret)):
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


def test_a_cursor_belongs_to_the_list_it_was_made_for():
    scope = ListScope("0123456789abcdef", "user/ann", QueryContext({"hour": 12}))
    cursor = scope.cursor("ab" * 16, 3, ListPosition(1.5, 70), 10)
    scope.check(cursor)
    scope.check(cursor, "0123")
    assert cursor.position == (1.5, 70) and (cursor.support, cursor.size) == ("ab" * 16, 3)
    for other, pinned in ((scope._replace(version="fedcba9876543210"), ""), (scope, "0124")):
        with pytest.raises(CursorMismatch, match="another version"):
            other.check(cursor, pinned)
    for other in (scope._replace(owner="user/bob"), scope._replace(owner=""), scope._replace(context=None)):
        with pytest.raises(CursorMismatch, match="another newcomer or moment"):
            other.check(cursor)


def test_a_list_of_older_events_can_go_on_unless_its_ids_are_the_entity_s_own():
    entity = EncodedEntity((2,), (1.0,), frozenset([2]), (), {})
    cursor = ListScope("0123456789abcdef").cursor(entity.digest, 1, ListPosition(0.5, 3), 10)
    assert cursor.is_current(entity) and cursor.can_continue(entity)
    more = replace(entity, items=(2, 3), labels=(1.0, 1.0))
    assert not cursor.is_current(more) and cursor.can_continue(more)
    chooser = replace(more, catalog=EntityCatalogSpec(("a", "b"), ({}, {})))
    assert not cursor.can_continue(chooser)
    assert cursor._replace(support=chooser.digest).can_continue(chooser)
