"""The key comes before the body, and the size of what a body holds before its values."""

import json
import socket

import pytest

from api.http import request_bodies
from tests.api.servers import serving, settings

WRITES = [
    ("POST", "/v1/events"),
    ("POST", "/v1/adapt"),
    ("POST", "/v1/recommendations"),
    ("POST", "/v1/score"),
    ("PUT", "/v1/entities/user/u"),
    ("POST", "/v1/models/users/promote"),
    ("POST", "/v1/models/users/rollback"),
    ("PUT", "/v1/models/users/split"),
    ("DELETE", "/v1/models/users/split"),
    ("DELETE", "/v1/entities/user/u"),
]


@pytest.fixture(scope="module")
def server(users_server):
    return users_server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    home = tmp_path_factory.mktemp("guarded")
    with serving(settings(home, f"sqlite:///{home}/a.db", keys="secret")) as server:
        yield server


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_who_has_no_key_is_told_so_before_the_body_arrives(guarded, method, path):
    """The body never comes: a server that waited for it would not answer."""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n"
    )
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as caller:
        caller.sendall(head.encode() + b"\r\n")
        assert caller.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_nothing_of_a_body_is_read_without_a_key(guarded, method, path, monkeypatch):
    """Neither its type nor its values decide."""
    for content, kind in ((b"{", "application/json"), (b"", "text/plain"), (b"[" * 5000, "application/json")):
        refused = guarded.client.request(method, path, content=content, headers={"content-type": kind})
        assert refused.status_code == 401


def test_each_route_that_needs_a_key_asks_for_it_first(guarded):
    """Whatever routes are added: with the method and path of each operation, and a body that never comes."""
    document = guarded.client.get("/openapi.json").json()
    public = set()
    for path, operations in document["paths"].items():
        for method in operations:
            head = f"{method.upper()} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n"
            with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as caller:
                caller.sendall(head.encode())
                status = int(caller.recv(4096).split()[1])
            if status != 401:
                public.add((method, path))
    assert public == {("get", "/livez"), ("get", "/readyz")}


def many(count):
    return {f"k{i}": 1 for i in range(count)}


HOSTILE = {
    "filters": ("/v1/recommendations", {"filters": {f"f{i}": {"bad": 1} for i in range(60_000 // 2)}}),
    "keys": ("/v1/recommendations", many(60_000)),
    "features": ("/v1/adapt", {"entity": {"features": many(60_000)}}),
    "context": ("/v1/score", {"rows": [{"item": "i1", "context": many(60_000)}]}),
    "an event": ("/v1/events", {"events": [many(60_000)]}),
    "a list": ("/v1/adapt", {"events": [1] * 100_000}),
    "numbers": ("/v1/recommendations", {"exclude": [1] * 200_000}),
    "empty lists": ("/v1/events", {"events": [[[]] * 5000] * 30}),
}


@pytest.mark.parametrize(("path", "body"), HOSTILE.values(), ids=HOSTILE)
def test_more_than_any_request_holds_is_refused_in_one_error(server, path, body):
    refused = server.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert refused.status_code == 422
    problem = refused.json()
    assert len(problem["errors"]) == 1
    assert "at most" in problem["detail"] or "more than" in problem["detail"]


def test_a_list_ends_at_its_first_wrong_value(server):
    """Or a refusal would cost as much as the list is long."""
    for path, body in (
        ("/v1/recommendations", {"exclude": [1] * 9000}),
        ("/v1/recommendations", {"candidates": [1] * 9000}),
        ("/v1/recommendations", {"events": [{"item": 1}] * 900}),
        ("/v1/score", {"rows": [{"item": 1}] * 1900}),
        ("/v1/score", {"items": [1] * 9000}),
        ("/v1/adapt", {"events": [{"item": "a", **many(190)}] * 300}),
    ):
        refused = server.client.post(path, json=body)
        assert refused.status_code == 422
        assert len(refused.json()["errors"]) <= 20


def test_what_is_allowed_passes(server):
    events = [{"item": f"i{i % 20}", "event_id": str(i), "time": 1e9 + i} for i in range(1000)]
    body = {"events": events, "exclude": [f"x{i}" for i in range(10_000)]}
    assert len(json.dumps(body)) > request_bodies.LARGE_BYTES
    assert server.client.post("/v1/recommendations", json=body).status_code == 200


@pytest.mark.parametrize("lists", [4, 7])
def test_as_many_candidates_as_the_guide_says_may_have_features_that_are_lists(lists):
    features = {f"f{n}": ["x"] for n in range(lists)}
    body = {"candidates": [{"item": str(n), "features": features} for n in range(10_000)]}
    request_bodies.check_structure(json.dumps(body).encode())


def test_brackets_in_texts_are_no_objects(server):
    body = {"entity": {"features": {"age": "{[" * 400}}, "exclude": ["{" * 190] * 200}
    assert server.client.post("/v1/recommendations", json=body).status_code in (200, 422)
    request_bodies.check_structure(json.dumps({"a": ["[{" * 90] * 100}).encode())
