"""Who may call what."""

import pytest

from api.security import Keys, admit, parse_keys
from recsys_meta.errors import ConfigError
from tests.api.servers import serving, settings

KEYS = "root,reader:read,sender:write,both:read+write,boss:admin"
READ = ("GET", "/v1/models", None)
RECOMMEND = ("POST", "/v1/recommendations", {"events": [{"item": "i1"}]})
SEND = ("POST", "/v1/events", {"events": [{"entity": "e", "item": "i1"}]})
ERASE = ("DELETE", "/v1/entities/user/e", None)
PERSIST = ("POST", "/v1/adapt", {"entity": {"id": "e"}, "events": [{"item": "i1"}], "persist": True})
MOVE = ("POST", "/v1/models/users/rollback", None)
SCRAPE = ("GET", "/metrics", None)


@pytest.fixture
def guarded(home, light):
    with serving(settings(home, light, keys=KEYS)) as server:
        yield server


def ask(server, call, key):
    method, path, body = call
    headers = {} if key is None else {"x-api-key": key}
    return server.client.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("root", [READ, RECOMMEND, SEND, ERASE, PERSIST, MOVE, SCRAPE]),
        ("boss", [READ, RECOMMEND, SEND, ERASE, PERSIST, MOVE, SCRAPE]),
        ("both", [READ, RECOMMEND, SEND, ERASE, PERSIST, SCRAPE]),
        ("reader", [READ, RECOMMEND, SCRAPE]),
        ("sender", [SEND, ERASE]),
    ],
)
def test_each_key_opens_what_its_scopes_say(guarded, key, allowed):
    for call in (READ, RECOMMEND, SEND, ERASE, PERSIST, MOVE, SCRAPE):
        status = ask(guarded, call, key).status_code
        if call in allowed:
            assert status == (409 if call is MOVE else 200), call
        else:
            assert status == 403, call


@pytest.mark.parametrize("key", [None, "", "wrong", "roo", "rooot", "reader:read", "ünïcødé".encode()])
def test_without_one_of_our_keys_nothing_opens(guarded, key):
    for call in (READ, RECOMMEND, SEND, ERASE, MOVE, SCRAPE):
        response = ask(guarded, call, key)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "ApiKey"
        assert response.headers["content-type"] == "application/problem+json"


def test_probes_need_no_key(guarded):
    assert guarded.client.get("/livez").status_code == 200
    assert guarded.client.get("/readyz").status_code == 200


def test_keys_are_never_logged(home, light, capsys):
    with serving(settings(home, light, keys=KEYS)) as server:
        ask(server, RECOMMEND, "reader")
        ask(server, MOVE, "a wrong key 123")
    out, err = capsys.readouterr()
    assert "request_id" in out
    assert "wrong key" not in out + err
    assert "reader" not in out + err


@pytest.mark.parametrize("text", ["abc:reed", "abc:", ":read", "abc:read,write:x"])
def test_keys_that_cannot_be_read_are_refused_without_repeating_them(text):
    with pytest.raises(ConfigError) as caught:
        parse_keys(text.split(","))
    assert "abc" not in str(caught.value)


def scope(client, *headers):
    return {"client": client, "headers": [(k.encode(), v.encode()) for k, v in headers]}


LOCAL = [
    scope(("127.0.0.1", 1), ("host", "127.0.0.1:8000")),
    scope(("127.8.9.1", 1), ("host", "localhost")),
    scope(("::1", 1), ("host", "[::1]:8000")),
    scope(("::ffff:127.0.0.1", 1), ("host", "localhost:8000")),
    scope(("127.0.0.1", 1)),
]
REMOTE = [
    scope(("10.0.0.5", 1), ("host", "localhost")),
    scope(("2001:db8::1", 1), ("host", "localhost")),
    scope(("::ffff:10.0.0.5", 1), ("host", "localhost")),
    scope(None, ("host", "localhost")),
    scope(("", 0), ("host", "localhost")),
    scope(("127.0.0.1.evil.example", 1), ("host", "localhost")),
    scope(("127.0.0.1", 1), ("host", "localhost"), ("x-forwarded-for", "10.0.0.5")),
    scope(("127.0.0.1", 1), ("host", "localhost"), ("forwarded", "for=10.0.0.5")),
    scope(("127.0.0.1", 1), ("host", "rebound.example")),
    scope(("127.0.0.1", 1), ("host", "rebound.example:80")),
    scope(("127.0.0.1", 1), ("host", "[2001:db8::1]:80")),
    scope(("127.0.0.1", 1), ("host", "10.0.0.5")),
]


@pytest.mark.parametrize("caller", LOCAL)
def test_without_keys_this_machine_is_served(caller):
    assert "admin" in admit(Keys(), caller, None, "admin")


@pytest.mark.parametrize("caller", REMOTE)
def test_without_keys_nobody_else_is(caller):
    with pytest.raises(Exception, match="only this machine") as caught:
        admit(Keys(), caller, None, "read")
    assert caught.value.status == 403


def test_a_caller_from_elsewhere_is_refused_over_the_wire(server):
    for headers in ({"x-forwarded-for": "203.0.113.9"}, {"host": "rebound.example"}):
        response = server.client.post("/v1/recommendations", json={}, headers=headers)
        assert response.status_code == 403
        assert response.headers["content-type"] == "application/problem+json"
    assert server.client.get("/livez", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 200
