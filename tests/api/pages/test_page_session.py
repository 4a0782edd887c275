"""Cookies of sessions: signed, bound to their key, and over in time."""

import pytest

from api.http.api_keys import ApiKeyStore, parse_keys
from api.pages.page_session import (
    LIFETIME_S,
    PageSession,
    form_token,
    is_form_token,
    open_session,
    read_session,
)

SECRET, NOW = b"s" * 32, 1_000_000.0


def keys(*texts: str) -> ApiKeyStore:
    return ApiKeyStore(parse_keys(texts), clock=lambda: NOW)


def test_a_session_is_that_of_its_key_until_its_time_is_over() -> None:
    store = keys("one:read", "two:admin")
    cookie = open_session(SECRET, store, "two", NOW)
    session = read_session(SECRET, store, cookie, NOW + LIFETIME_S - 1)
    assert session is not None
    assert session.key == store.find("two")
    assert read_session(SECRET, store, cookie, NOW + LIFETIME_S) is None
    assert open_session(SECRET, store, "three", NOW) is None


def test_another_key_under_the_same_name_does_not_inherit_it() -> None:
    cookie = open_session(SECRET, keys("one:read"), "one", NOW)
    assert read_session(SECRET, keys("other:admin"), cookie, NOW) is None
    assert read_session(SECRET, keys("other:admin", "one:read"), cookie, NOW) is None
    assert read_session(b"t" * 32, keys("one:read"), cookie, NOW) is None
    assert read_session(SECRET, keys("one:read", "other:admin"), cookie, NOW) is not None


@pytest.mark.parametrize(
    "cookie",
    [None, "", ".", "...", "environment-1", "environment-1.9999999999.0.", "é.\ud800.x.y", "environment-1.1.x.\ud800"],
)
def test_what_nobody_signed_is_no_session(cookie: str | None) -> None:
    assert read_session(SECRET, keys("one:read"), cookie, NOW) is None


def test_two_sessions_of_one_key_have_tokens_of_their_own() -> None:
    store = keys("one:read")
    one, two = (read_session(SECRET, store, open_session(SECRET, store, "one", NOW), NOW) for _ in range(2))
    assert one is not None
    assert two is not None
    tokens = [form_token(SECRET, session) for session in (one, two, PageSession())]
    assert len(set(tokens)) == 3
    assert is_form_token(SECRET, one, tokens[0])
    assert not any(is_form_token(SECRET, one, token) for token in (*tokens[1:], "", "é", "\ud800"))
