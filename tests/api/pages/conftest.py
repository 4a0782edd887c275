from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.api.pages.browser import chromium  # noqa: F401  (fixtures are found by name)
from tests.api.servers import Served, serving, settings

KEYS = "reader-key:read,writer-key:read+write,admin-key:admin,only-writes:write"
BROWSER = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def guarded(home, light: str) -> Iterator[Served]:
    """A server with keys."""
    with serving(settings(home, light, keys=KEYS)) as made:
        yield made


def token_of(page: httpx.Response) -> str:
    """The token of the forms of a page."""
    return page.text.split('name="csrf" value="')[1].split('"')[0]


def meta_token(page: httpx.Response) -> str:
    return page.text.split('name="csrf" content="')[1].split('"')[0]


@contextmanager
def browser_of(server: Served, key: str | None = None) -> Iterator[httpx.Client]:
    """A client that keeps cookies and asks for pages; logged in with a key."""
    with httpx.Client(base_url=server.url, headers=BROWSER, timeout=60) as client:
        if key is not None:
            answer = client.post("/ui/login", data={"csrf": token_of(client.get("/ui/login")), "key": key})
            assert answer.status_code == 303, answer.text
        yield client
