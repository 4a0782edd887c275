"""Keys from the command line: printed once, listed without, revoked, and what `serve` makes of them."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from recsys_meta.store.access.api_keys import active_keys, key_digest
from recsys_meta.store.database.engine import connect, reading
from tests.fixtures.services import free_port
from tests.pipelines.conftest import Command


@pytest.fixture
def fresh(tmp_path) -> Command:
    """A home of the test's own, without any key."""
    return Command(tmp_path)


def test_a_key_is_printed_once(fresh):
    text = fresh("keys", "create", "--name", "shop", "--scopes", "read+write", "--expires", "90d").strip()
    assert text.startswith("rsm_")
    (row,) = fresh.json("keys", "list")
    assert (row["name"], row["scopes"], row["state"], row["revoked"]) == ("shop", "read+write", "stands", None)
    assert text.split("_")[1] == row["id"]
    said = fresh("keys", "list") + fresh("audit") + str(fresh.json("audit"))
    assert row["id"] in said
    assert text.split("_", 2)[2] not in said
    database = connect(f"sqlite:///{fresh.home / 'recsys-meta.db'}")
    with reading(database) as s:
        assert [found.digest for found in active_keys(s)] == [key_digest(text)]
    database.dispose()
    for file in Path(fresh.home).rglob("*"):
        assert not file.is_file() or text.encode() not in file.read_bytes(), file


def test_a_revoked_key_is_listed_as_such_and_the_audit_says_who(fresh):
    made = fresh.json("keys", "create", "--name", "shop", "--scopes", "admin")
    assert made["key"].startswith(f"rsm_{made['id']}_")
    assert fresh.json("keys", "revoke", "shop")["state"] == "revoked"
    assert "is revoked" in fresh("keys", "revoke", made["id"])
    acts = [(a["action"], a["target"], a["actor"]) for a in fresh.json("audit")]
    assert acts == [("key revoke", made["id"], "command line"), ("key create", made["id"], "command line")]
    assert [a["action"] for a in fresh.json("audit", "--action", "key create")] == ["key create"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--name", "shop", "--scopes", "everything"), 1),
        (("--name", "", "--scopes", "read"), 1),
        (("--name", "shop", "--expires", "2001-01-01"), 1),
        (("--name", "shop", "--expires", "soon"), 2),
        ((), 2),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(fresh, words, code):
    fresh("keys", "create", *words, code=code)
    assert fresh.json("keys", "list") == []
    assert "no key" in fresh("keys", "revoke", "shop", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["none", "revoked", "stands"])
def test_serve_goes_beyond_loopback_with_a_key_only(fresh, state):
    made = None if state == "none" else fresh.json("keys", "create", "--name", "shop")
    if state == "revoked":
        fresh("keys", "revoke", "shop")
    port = free_port()
    words = [sys.executable, "-m", "pipelines", "serve", "--host", "0.0.0.0", "--port", str(port)]
    process = subprocess.Popen(words, env=fresh.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if state != "stands":
            _, said = process.communicate(timeout=120)
            assert process.returncode == 1
            assert "there is no API key" in said
            return
        headers = {"x-api-key": made["key"]}
        answers = [_status(process, port, "/v1/models", given) for given in (headers, {}, {"x-api-key": "wrong"})]
        assert answers == [200, 401, 401]
    finally:
        process.kill()
        process.communicate()


def _status(process, port, path, headers) -> int:
    deadline = time.monotonic() + 120
    while True:
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers).status_code
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
