"""Who may call what, and what a caller can neither see nor smuggle in."""

import json
import re
from urllib.parse import quote

import pytest
import redis
from sqlalchemy.engine import make_url

from api.http.api_keys import ApiKeyStore, parse_keys
from api.http.authorization import authorize
from api.telemetry.logging import BufferedLogWriter
from recsys_meta.core.errors import ConfigError
from tests.api import bundles
from tests.api.servers import Wire, serving, settings, wait

KEYS = "root,reader:read,sender:write,both:read+write,boss:admin"
READ = ("GET", "/v1/models", None)
RECOMMEND = ("POST", "/v1/recommendations", {"events": [{"item": "i1"}]})
SEND = ("POST", "/v1/events", {"events": [{"entity": "e", "item": "i1"}]})
ERASE = ("DELETE", "/v1/entities/user/e", None)
PERSIST = ("POST", "/v1/adapt", {"entity": {"id": "e"}, "events": [{"item": "i1"}], "persist": True})
MOVE = ("POST", "/v1/models/users/rollback", {})
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


def no_keys():
    ring = ApiKeyStore()
    ring.replace_stored([])
    return ring


@pytest.mark.parametrize("caller", LOCAL)
def test_without_keys_this_machine_is_served(caller):
    assert "admin" in authorize(no_keys(), caller, None, "admin")


@pytest.mark.parametrize("caller", REMOTE)
def test_without_keys_nobody_else_is(caller):
    with pytest.raises(Exception, match="only this machine") as caught:
        authorize(no_keys(), caller, None, "read")
    assert caught.value.status == 403


def test_a_caller_from_elsewhere_is_refused_over_the_wire(server):
    for headers in ({"x-forwarded-for": "203.0.113.9"}, {"host": "rebound.example"}):
        response = server.client.post("/v1/recommendations", json={}, headers=headers)
        assert response.status_code == 403
        assert response.headers["content-type"] == "application/problem+json"
    assert server.client.get("/livez", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 200


STRANGE = [
    "'; DROP TABLE events; --",
    '" OR ""="',
    "$(reboot) `reboot` ${jndi:ldap://x}",
    "a:b:c",
    "*?[a-z]",
    "{tag}",
    "recsys-meta:*",
    "../../etc/passwd",
    "a/b/../c",
    "%00%0d%0aSet-Cookie: a=b",
    "%s %d {0} {x}",
    "<script>alert(1)</script>",
    "x" * 200,
    "Ünïcødé \u202e\u200b \U0001f600",
    "\\x00\\r\\n",
    "NULL",
]


@pytest.mark.parametrize("id", STRANGE)
def test_an_id_of_anything_printable_is_an_id_and_nothing_else(full, keys_of, id, monkeypatch):
    told, info = list[bytes](), BufferedLogWriter.info
    monkeypatch.setattr(BufferedLogWriter, "info", lambda self, line: (told.append(line), info(self, line))[1])
    """Two entities whose ids hold what SQL, Redis, logs, paths and headers would understand stay two entities."""
    neighbour = id[:-1]
    for entity, items in ((id, ("i1", "i2")), (neighbour, ("i30",))):
        sent = [{"entity": entity, "item": item, "event_id": f"{entity[:190]}{item}"} for item in items]
        assert full.client.post("/v1/events", json={"events": sent}).json()["accepted"] == len(items)
    sizes = [full.recommend(entity={"id": e}).json()["support_size"] for e in (id, neighbour)]
    assert sizes == [2, 1]
    path = f"/v1/entities/user/{quote(id, safe='')}"
    found = full.client.get(path).json()
    assert (found["id"], found["events_total"]) == (id, 2)
    for call, body in (("score", {"items": [id]}), ("adapt", {}), ("recommendations", {"exclude": [id], "n": 3})):
        answer = full.client.post(f"/v1/{call}", json={"entity": {"id": id}, "events": [{"item": id}], **body})
        assert (answer.status_code, answer.json()["unknown_items"]) == (200, [id]), call
    listed = full.client.get("/v1/adaptations", params={"entity": id, "model_version": id}).json()
    assert listed["items"] == []
    wait(lambda: not full.container.cache_writer.pending)
    assert all(b"\r" not in key and b"\n" not in key for key in keys_of())
    receipt = full.client.delete(path)
    assert (receipt.status_code, receipt.json()["events"]) == (200, 2)
    assert full.client.get(path).status_code == 404
    assert full.recommend(entity={"id": neighbour}).json()["support_size"] == 1
    assert len(told) > 8
    for line in map(json.loads, told):
        assert set(line) <= LOGGED, line
        assert id not in line.values(), line


LOGGED = {
    *("event", "level", "timestamp", "request_id", "trace_id", "actor", "method", "route", "status", "ms"),
    *("model", "version", "reason", "exception"),
}


def test_a_request_id_cannot_carry_a_header(server):
    for strange in ("a\tb", "a;b", "a%0d%0ab", "<b>"):
        given = server.client.get("/livez", headers={"x-request-id": strange}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", given)


@pytest.mark.parametrize("depth", [10, 150, 900, 5_000])
@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/events", "/v1/adapt"])
def test_nesting_ends_in_an_answer_that_refuses(server, path, depth):
    nested = "[" * depth + "]" * depth
    for body in (f'{{"entity": {{"features": {{"age": {nested}}}}}}}', f'{{"events": [{nested}]}}', nested):
        response = server.client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code in (200, 400, 422)  # 200: each event is refused by itself
        if response.status_code == 200:
            assert response.json()["accepted"] == 0


def test_no_secret_is_ever_logged(home, migrated_schema, bundle, own_redis, capfd, caplog):
    """Keys given and made, the passwords of the database and of Redis, bodies and ids: while all is well, while each
    is away, and while a request fails."""
    from tests.api.http.test_api_keys import make

    bundles.publish(migrated_schema, home / "models", "users", bundle)
    made = make(migrated_schema, "app", ["admin"])
    secrets = {
        "made": made.text.split("_", 2)[2],
        "fixed": "fixed-secret-9",
        "sql": "sql-secret-9",
        "redis": "r-secret-9",
    }
    wire = Wire(make_url(migrated_schema).port or 5432)
    wire.mend()
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port, password=secrets["sql"])
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", secrets["redis"])
    database = url.render_as_string(hide_password=False)
    shared = own_redis.url.replace("redis://", f"redis://:{secrets['redis']}@")
    headers = [{"x-api-key": key} for key in (made.text, secrets["fixed"], "a wrong-key-9")]
    with serving(settings(home, database, shared, keys=f"{secrets['fixed']}:admin")) as server:

        def everything():
            for header in headers:
                for method, path, body in (RECOMMEND, SEND, ERASE, PERSIST, MOVE, SCRAPE, READ):
                    server.client.request(method, path, json=body, headers=header)
                entity = {"id": "private-person-9"}
                server.client.post("/v1/recommendations", json={"entity": entity}, headers=header)
                server.client.put("/v1/entities/user/private-person-9", json={"features": {"x": "y"}}, headers=header)

        everything()
        wire.cut()
        own_redis.stop()
        everything()
    out, err = capfd.readouterr()
    logged = out + err + caplog.text
    assert '"route"' in logged
    for name, secret in {**secrets, "wrong": "wrong-key-9", "entity": "private-person-9"}.items():
        assert secret not in logged, name
    assert f"app ({made.row.id})" in logged


def test_answers_tell_nothing_of_hosts_ports_tables_or_files(home, migrated_schema, bundle):
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    wire = Wire(make_url(migrated_schema).port or 5432)
    wire.mend()
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port)
    calls = (READ, RECOMMEND, SEND, ERASE, PERSIST, MOVE, ("GET", "/readyz", None), ("GET", "/v1/runs", None))
    with serving(settings(home, url.render_as_string(hide_password=False))) as server:
        wire.cut()
        for _ in range(2):
            for call in calls:
                text = ask(server, call, None).text
                for insider in ("127.0.0.1", str(wire.port), "psycopg", "postgres", "SELECT", str(home), "Traceback"):
                    assert insider not in text, (call, text)
