"""Every error is a problem document with a request id, and none shows our insides."""

import socket

import pytest
from pydantic import TypeAdapter

from recsys_meta.wire.service_responses import ProblemDocument
from tests.api.servers import serving, settings

JSON = {"content-type": "application/json"}
DEEP = b'{"events":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
CASES = [
    ("GET", "/nowhere", None, {}, 404),
    ("GET", "/v1/recommendations", None, {}, 405),
    ("PATCH", "/v1/entities/user/e", None, {}, 405),
    ("GET", "/v1/models/nobody", None, {}, 404),
    ("GET", "/v1/runs/nothing/metrics", None, {}, 404),
    ("GET", "/v1/entities/user/nobody-knows", None, {}, 404),
    ("POST", "/v1/recommendations", b"", JSON, 422),
    ("POST", "/v1/recommendations", b"{", JSON, 422),
    ("POST", "/v1/recommendations", b"[]", JSON, 422),
    ("POST", "/v1/recommendations", b'{"\xff": 1}', JSON, 422),
    ("POST", "/v1/recommendations", DEEP, JSON, 422),
    ("POST", "/v1/recommendations", b"{}", {"content-type": "text/plain"}, 422),
    ("POST", "/v1/recommendations", b'{"n": 0}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"n": 1001}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"n": "5"}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"n": 5.5}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"number": 5}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"model": "../../etc"}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"events": [{"item": "i1", "label": NaN}]}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"events": [{"item": "i1", "time": -1}]}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"entity": {"features": {"age": NaN}}}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"entity": {"features": {"age": "old"}}}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"entity": {"features": {"age": {"a": 1}}}}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"entity": {"id": "\\ud800"}}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"\\ud800": 1}', JSON, 422),
    ("POST", "/v1/recommendations", b'{"events": [' + b'{"item": "i"},' * 1000 + b'{"item": "i"}]}', JSON, 422),
    ("POST", "/v1/events", b'{"\xff": 1}', JSON, 400),
    ("POST", "/v1/events", DEEP, JSON, 422),
    ("POST", "/v1/score", b'{"items": []}', JSON, 422),
    ("POST", "/v1/models/users/promote", b'{"version": "../x"}', JSON, 422),
    ("POST", "/v1/recommendations", b" " * 1_000_001, JSON, 413),
    ("POST", "/v1/events", b" " * 3_000_000, JSON, 413),
    ("GET", "/v1/runs?limit=0", None, {}, 422),
    ("GET", "/v1/runs?cursor=nonsense", None, {}, 422),
    ("GET", "/v1/adaptations?served_by=magic", None, {}, 422),
    ("GET", "/v1/evaluations?limit=many", None, {}, 422),
]


@pytest.mark.parametrize(("method", "path", "content", "headers", "status"), CASES)
def test_errors_are_problem_documents(server, method, path, content, headers, status):
    response = server.client.request(method, path, content=content, headers=headers)
    found = response.json()
    assert response.status_code == status, found
    assert response.headers["content-type"] == "application/problem+json"
    assert found["status"] == status
    assert found["request_id"] == response.headers["x-request-id"]
    assert found["instance"] == path.partition("?")[0]
    assert found["title"]
    assert found["detail"]
    assert "Traceback" not in response.text
    if status == 405:
        assert response.headers["allow"] == ("POST" if path == "/v1/recommendations" else "DELETE, GET, PUT")


def test_a_body_in_chunks_is_bounded_too(server):
    def chunks():
        for _ in range(30):
            yield b" " * 100_000

    response = server.client.post("/v1/recommendations", content=chunks(), headers=JSON)
    assert response.status_code == 413


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_may_ask_for_the_head_only(server, path):
    asked, head = server.client.get(path), server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == asked.headers["content-type"]
    other = server.client.post(path)
    assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD")


def test_validation_says_where(server):
    body = {"events": [{"item": "i1"}, {"item": ""}], "n": 0, "a/b~c": 1}
    found = server.client.post("/v1/recommendations", json=body).json()
    assert {e["pointer"] for e in found["errors"]} == {"/events/1/item", "/n", "/a~1b~0c"}
    TypeAdapter(ProblemDocument).validate_python(found, extra="forbid")


@pytest.mark.parametrize(
    ("method", "path", "body", "where"),
    [
        ("POST", "/v1/adapt", {"persist": True, "events": [{"item": "i1"}]}, ("body", "/entity/id")),
        ("POST", "/v1/recommendations", {"n": 0}, ("body", "/n")),
        ("POST", "/v1/events", {"events": []}, ("body", "/events")),
        ("GET", "/v1/runs?limit=0", None, ("query", "/limit")),
        ("GET", "/v1/entities/USER/x", None, ("path", "/kind")),
    ],
)
def test_errors_name_the_part_of_the_request(server, method, path, body, where):
    found = server.client.request(method, path, json=body).json()
    assert [(e["in"], e["pointer"]) for e in found["errors"]] == [where]
    TypeAdapter(ProblemDocument).validate_python(found, extra="forbid")
    assert set(found["errors"][0]) == set(server.app.openapi()["components"]["schemas"]["FieldError"]["required"])


@pytest.mark.parametrize("value", ['{"x": 1}', "NaN", "1e999", '"' + "x" * 1001 + '"', "[1, [2]]"])
def test_a_wrong_feature_is_one_error_at_a_pointer_that_exists(server, value):
    body = '{"entity": {"kind": "user", "features": {"age": ' + value + "}}}"
    answer = server.client.post("/v1/recommendations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    (only,) = answer.json()["errors"]
    assert only["pointer"] == "/entity/features/age" and "finite number" in only["detail"]


def test_a_failure_of_ours_shows_nothing_and_is_logged(home, light, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("secret of the server")

    monkeypatch.setattr("api.routes.recommendations.open_request", fail)
    with serving(settings(home, light)) as server:
        response = server.client.post("/v1/recommendations", json={}, headers={"x-request-id": "find-me"})
    found = response.json()
    assert (response.status_code, found["status"], found["request_id"]) == (500, 500, "find-me")
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    log = capsys.readouterr().out
    assert "secret of the server" in log
    assert "find-me" in log


def test_request_ids_are_taken_where_harmless(server):
    ask = server.client.get
    assert ask("/livez", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for strange in ("a b", "x" * 65, "é".encode(), '"'):
        assert len(ask("/livez", headers={"x-request-id": strange}).headers["x-request-id"]) == 32
    assert ask("/livez").headers["x-request-id"] != ask("/livez").headers["x-request-id"]


def test_bodies_ids_and_paths_are_never_logged(home, light, capsys):
    with serving(settings(home, light)) as server:
        server.recommend("i1", entity={"id": "private-person"})
        server.client.get("/v1/entities/user/private-person")
        server.client.post("/v1/recommendations", json={"private-person": 1})
    out, err = capsys.readouterr()
    assert "/v1/entities/{kind}/{id:path}" in out
    assert "private-person" not in out + err


def test_a_client_that_goes_away_does_no_harm(server):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                b"POST /v1/recommendations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 500\r\n\r\n{"
            )
    assert server.recommend("i1").status_code == 200


def test_every_answer_forbids_sniffing(home, light):
    with serving(settings(home, light)) as server:
        for path in ("/livez", "/v1/models", "/nowhere"):
            assert server.client.get(path).headers["x-content-type-options"] == "nosniff"
