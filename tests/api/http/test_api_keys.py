"""Keys of the database open and close a running server, also while the database is away."""

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import Request
from sqlalchemy import update
from sqlalchemy.engine import make_url

from api.http.api_keys import ApiKeyStore, parse_keys
from api.http.authorization import actor, authorize, record_audit
from api.http.request_context import open_request_context
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.access import api_keys as keys
from recsys_meta.store.access import audit_log as audit
from recsys_meta.store.access.tables import ApiKeyRecord
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.settings import Settings
from tests.api import bundles
from tests.api.servers import Wire, serving, settings, wait
from tests.store.samples import NOON, later


@contextmanager
def writing(url):
    engine = connect(url)
    try:
        with session(engine) as s:
            yield s
    finally:
        engine.dispose()


def make(url, name="app", scopes=("read",), **more):
    with writing(url) as s:
        return keys.create_key(s, name, scopes, actor="test", **more)


def revoke(url, id):
    with writing(url) as s:
        keys.revoke_key(s, id, actor="test")


def ask(server, key=None, method="POST", path="/v1/recommendations"):
    headers = {} if key is None else {"x-api-key": key}
    body = None if method != "POST" else {} if path.endswith("rollback") else {"events": [{"item": "i1"}]}
    return server.client.request(method, path, json=body, headers=headers).status_code


def test_a_key_opens_what_its_scopes_say_and_a_revoked_one_nothing(home, published):
    reader, boss = make(published, "reader"), make(published, "boss", ["admin"])
    with serving(settings(home, published)) as server:
        assert [ask(server, k) for k in (reader.text, boss.text, None, "rsm_x_y")] == [200, 200, 401, 401]
        assert ask(server, reader.text, path="/v1/models/users/rollback") == 403
        assert ask(server, boss.text, path="/v1/models/users/rollback") == 409
        revoke(published, reader.row.id)
        wait(lambda: ask(server, reader.text) == 401)
        later_key = make(published, "late")
        wait(lambda: ask(server, later_key.text) == 200)
        assert ask(server, boss.text) == 200


def test_a_first_key_closes_a_server_that_was_open_to_its_machine(home, light):
    with serving(settings(home, light)) as server:
        assert ask(server) == 200
        made = make(light)
        wait(lambda: ask(server) == 401)
        assert ask(server, made.text) == 200
        revoke(light, made.row.id)
        wait(lambda: ask(server) == 200)


def test_keys_of_the_environment_and_of_the_database_stand_side_by_side(home, light):
    made = make(light)
    with serving(settings(home, light, keys="of-the-environment:read")) as server:
        assert [ask(server, k) for k in ("of-the-environment", made.text, "other")] == [200, 200, 401]


def test_a_key_that_ends_opens_nothing_afterwards(home, light):
    made = make(light, expires=datetime.now(UTC) + timedelta(hours=1))
    with serving(settings(home, light)) as server:
        assert ask(server, made.text) == 200
        with writing(light) as s:
            s.execute(update(ApiKeyRecord).values(expires=datetime.now(UTC) + timedelta(seconds=1)))
        wait(lambda: ask(server, made.text) == 401)


@pytest.fixture
def wire(migrated_schema):
    made = Wire(make_url(migrated_schema).port or 5432)
    made.mend()
    yield made
    made.cut()


@pytest.fixture
def wired_url(home, migrated_schema, bundle, wire):
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    return make_url(migrated_schema).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)


def test_known_keys_open_while_the_database_is_away(home, migrated_schema, wired_url, wire):
    made = make(migrated_schema)
    with serving(settings(home, wired_url)) as server:
        assert ask(server, made.text) == 200
        wire.cut()
        wait(lambda: server.recommend().status_code == 401 and server.container.database.degraded)
        assert ask(server, made.text) == 200
        assert ask(server, "rsm_no_key") == 401
        revoke(migrated_schema, made.row.id)
        assert ask(server, made.text) == 200  # nobody can tell it yet
        wire.mend()
        wait(lambda: ask(server) == 200)  # no key is left


def test_a_server_that_starts_while_the_database_is_away_knows_the_keys_of_before(
    home, migrated_schema, wired_url, wire
):
    made = make(migrated_schema)
    with serving(settings(home, wired_url)) as server:
        assert ask(server, made.text) == 200
    noted = (home / "known-keys.json").read_text()
    assert made.row.id in noted
    assert made.text.split("_", 2)[2] not in noted
    wire.cut()
    with serving(settings(home, wired_url)) as server:
        # The model is noted, too: what matters here is that the key is known, and that another is not.
        assert [ask(server, k) for k in (made.text, "other", None)] == [200, 401, 401]


def test_where_nothing_is_known_of_keys_nobody_gets_in(home, wired_url, wire):
    wire.cut()
    with serving(settings(home, wired_url)) as server:
        for headers in ({}, {"x-api-key": "any"}):
            response = server.client.post("/v1/recommendations", json={}, headers=headers)
            assert (response.status_code, response.headers["retry-after"]) == (503, "2")
            assert "key" in response.json()["detail"]
        wire.mend()
        wait(lambda: ask(server) == 200)


def row(text, scopes="read", expires=None, revoked=None, id="abc"):
    return ApiKeyRecord(
        id=id, name="app", digest=keys.key_digest(text), scopes=scopes, created=NOON, expires=expires, revoked=revoked
    )


def test_an_act_is_written_down_with_who_did_it_and_when(light):
    """What a route does in the transaction of an act."""
    ring = ApiKeyStore(parse_keys(["mine:admin"]))
    scope = {"type": "http", "headers": []}
    open_request_context(scope, "r1")
    assert actor(Request(scope)) == "this machine"
    authorize(ring, scope, "mine", "admin")
    with writing(light) as s:
        record_audit(Request(scope), s, "promote", "users@abc")
    with writing(light) as s:
        (entry,) = audit.list_audit(s).items
        assert (entry.actor, entry.action, entry.target) == ("environment key 1", "promote", "users@abc")
        assert entry.request_id == "r1"


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan"])
def test_a_setting_that_cannot_be_read_is_named_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("RECSYS_META_KEYS_TRUSTED_S", value)
    with pytest.raises(ConfigError, match="RECSYS_META_KEYS_TRUSTED_S"):
        Settings()


class Clock:
    def __init__(self):
        self.now = NOON.timestamp()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_trust_in_what_the_database_said_has_an_end(clock):
    ring = ApiKeyStore(parse_keys(["fixed:read"]), trusted_s=60, clock=clock)
    ring.replace_stored([row("stored")])
    clock.now += 60
    assert ring.find("stored")
    clock.now += 1
    assert ring.find("stored") is None
    assert ring.find("fixed")
    assert not ring.is_current
    assert not ring.is_empty


def test_a_key_ends_by_the_clock_of_the_process(clock):
    ring = ApiKeyStore(clock=clock)
    ring.replace_stored([row("stored", expires=later(10))])
    assert ring.find("stored")
    clock.now += 10
    assert ring.find("stored") is None
    assert not ring.is_empty  # an ended key does not open the API to everybody on the machine


def test_notes_are_taken_up_where_nothing_newer_is_known(tmp_path, clock):
    notes = tmp_path / "home" / "known.json"
    ring = ApiKeyStore(snapshot=notes, clock=clock)
    ring.save(ring.replace_stored([row("stored", "admin", later(1000)), row("other", id="def")]))
    again = ApiKeyStore(snapshot=notes, clock=clock)
    again.restore()
    assert again.find("stored") == ring.find("stored")
    assert again.find("other").scopes == {"read"}
    clock.now += 24 * 3600 + 1
    late = ApiKeyStore(snapshot=notes, clock=clock)
    late.restore()
    assert late.find("other") is None
    fresh = ApiKeyStore(snapshot=notes, clock=clock)
    fresh.replace_stored([])
    fresh.restore()
    assert fresh.find("other") is None
    assert fresh.is_empty


@pytest.mark.parametrize("damage", ["", "{}", "not json", "cut", "edited"])
def test_damaged_notes_are_none(tmp_path, clock, damage):
    notes = tmp_path / "known.json"
    ring = ApiKeyStore(snapshot=notes, clock=clock)
    ring.save(ring.replace_stored([row("stored")]))
    text = notes.read_text()
    notes.write_text({"cut": text[:-9], "edited": text.replace('"read"', '"admin"', 1)}.get(damage, damage))
    assert notes.read_text() != text
    again = ApiKeyStore(snapshot=notes, clock=clock)
    again.restore()
    assert (again.find("stored"), again.is_current) == (None, False)


def test_notes_are_not_written_each_second(tmp_path, clock):
    notes = tmp_path / "known.json"
    ring = ApiKeyStore(snapshot=notes, clock=clock)
    ring.save(ring.replace_stored([row("stored")]))
    first = json.loads(notes.read_text())
    clock.now += 1
    ring.save(ring.replace_stored([row("stored")]))
    assert json.loads(notes.read_text()) == first
    clock.now += 700
    ring.save(ring.replace_stored([row("stored")]))
    assert json.loads(notes.read_text()) != first
