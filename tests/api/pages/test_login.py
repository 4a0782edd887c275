"""Who may see pages, and whose forms are taken."""

import re
from http import HTTPStatus

import httpx
import pytest

from api.pages.page_session import COOKIE
from recsys_meta.store.access import api_keys
from recsys_meta.store.database import engine
from tests.api.pages.conftest import BROWSER, browser_of, meta_token, token_of
from tests.api.servers import Served, serving, settings
from tests.fixtures.services import wait


def test_without_keys_no_login_is_asked_for(users_server: Served) -> None:
    page = users_server.client.get("/ui/", headers=BROWSER)
    assert page.status_code == 200
    assert "Log out" not in page.text
    assert users_server.client.get("/ui/login").headers["location"] == "./"


def test_pages_let_in_no_foreign_content(users_server: Served) -> None:
    page = users_server.client.get("/ui/", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_key_opens_a_session_that_ends_with_the_logout(guarded: Served) -> None:
    with browser_of(guarded) as browser:
        refused = browser.get("/ui/?a=1")
        assert (refused.status_code, refused.headers["location"]) == (303, "./login")
    with browser_of(guarded, "reader-key") as browser:
        page = browser.get("/ui/")
        assert page.status_code == 200
        assert "environment key 1" in page.text
        assert "reader-key" not in page.text + str(browser.cookies.jar)
        browser.post("/ui/logout", data={"csrf": token_of(page)})
        assert browser.get("/ui/").status_code == 303


def test_the_cookie_is_for_this_site_alone_and_out_of_reach_of_scripts(guarded: Served) -> None:
    with browser_of(guarded) as browser:
        answer = browser.post("/ui/login", data={"csrf": token_of(browser.get("/ui/login")), "key": "reader-key"})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert re.search(r"Max-Age=14400", cookie)


@pytest.mark.parametrize("key", ["", "wrong", "reader-key2", "only-writes", "\x00", "é" * 3000])
def test_other_keys_open_none(guarded: Served, key: str) -> None:
    with browser_of(guarded) as browser:
        answer = browser.post("/ui/login", data={"csrf": token_of(browser.get("/ui/login")), "key": key})
        assert answer.status_code in {401, 403}
        assert "set-cookie" not in answer.headers
        assert browser.get("/ui/").status_code == 303


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1] + ("0" if v[-1] != "0" else "1"), lambda v: "x" + v, lambda v: "..."]
)
def test_a_cookie_that_was_changed_is_none(guarded: Served, change) -> None:
    with browser_of(guarded, "reader-key") as browser:
        value = browser.cookies[COOKIE]
    assert value.count(".") == 3
    raised = value.replace("environment-1.", "environment-3.")
    for other in (change(value), raised, value.replace(".", ".9", 1)):
        answer = httpx.get(guarded.url + "/ui/", headers=BROWSER | {"cookie": f"{COOKIE}={other}"})
        assert answer.status_code == 303


def test_a_form_needs_the_token_of_its_session(guarded: Served, users_server: Served) -> None:
    with browser_of(guarded, "reader-key") as one, browser_of(guarded, "reader-key") as two:
        foreign = token_of(two.get("/ui/"))
        for data in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": foreign}):
            assert one.post("/ui/logout", data=data).status_code == HTTPStatus.FORBIDDEN
        assert one.get("/ui/").status_code == 200
    assert users_server.client.post("/ui/logout").status_code == HTTPStatus.FORBIDDEN
    token = meta_token(users_server.client.get("/ui/"))
    assert users_server.client.post("/ui/logout", headers={"X-CSRF-Token": token}).status_code == 303


def test_other_origins_are_refused_with_and_without_keys(users_server: Served) -> None:
    token = meta_token(users_server.client.get("/ui/"))
    headers = {"X-CSRF-Token": token, "Origin": "http://evil.example"}
    answer = users_server.client.post("/ui/logout", headers=headers)
    assert answer.status_code == HTTPStatus.FORBIDDEN
    assert "another origin" in answer.text


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "../docs", "/docs", "a//..:", "javascript:1"]
)
def test_the_login_goes_to_pages_of_this_server_only(guarded: Served, target: str) -> None:
    with browser_of(guarded) as browser:
        data = {"csrf": token_of(browser.get("/ui/login")), "key": "reader-key", "next": target}
        location = browser.post("/ui/login", data=data).headers["location"]
        assert httpx.URL(guarded.url + "/ui/login").join(location).path.startswith("/ui/")
        assert httpx.URL(guarded.url + "/ui/login").join(location).port == guarded.port


def test_a_session_ends_when_its_key_is_revoked_in_every_process(home, light: str) -> None:
    made = engine.connect(light)
    with engine.session(made) as session:
        key = api_keys.create_key(session, "eve", ["read"], actor="test")
        api_keys.create_key(session, "other", ["read"], actor="test")
    with (
        serving(settings(home, light)) as one,
        serving(settings(home, light)) as two,
        browser_of(one, key.text) as browser,
    ):
        cookie = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
        assert httpx.get(two.url + "/ui/", headers=BROWSER | cookie).status_code == 200
        with engine.session(made) as session:
            api_keys.revoke_key(session, "eve", actor="test")
        for server in (one, two):
            wait(lambda s=server: httpx.get(s.url + "/ui/", headers=BROWSER | cookie).status_code == 303)
    made.dispose()


def test_errors_are_pages_for_browsers_and_documents_for_programs(guarded: Served) -> None:
    assert guarded.client.get("/ui/").headers["content-type"] == "application/problem+json"
    with browser_of(guarded, "reader-key") as browser:
        page = browser.post("/ui/logout")
        assert page.headers["content-type"].startswith("text/html")
        assert "Forbidden" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_api_takes_no_cookie(guarded: Served) -> None:
    with browser_of(guarded, "admin-key") as browser:
        cookie = {"cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
    assert httpx.get(guarded.url + "/ui/", headers=BROWSER | cookie).status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert httpx.get(guarded.url + path, headers=cookie).status_code == 401
    assert httpx.post(guarded.url + "/v1/recommendations", json={}, headers=cookie).status_code == 401
