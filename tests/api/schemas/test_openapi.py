"""The OpenAPI document is whole, names every route, and tells the truth about answers."""

import pytest
from pydantic import TypeAdapter

from api.app import build_app
from api.schemas import responses as answers
from tests.api.bundles import register
from tests.api.servers import settings

ROUTES = {
    ("post", "/v1/recommendations"),
    ("post", "/v1/score"),
    ("post", "/v1/adapt"),
    ("get", "/v1/onboarding"),
    ("post", "/v1/events"),
    ("get", "/v1/entities/{kind}/{id}"),
    ("put", "/v1/entities/{kind}/{id}"),
    ("delete", "/v1/entities/{kind}/{id}"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{name}"),
    ("post", "/v1/models/{name}/promote"),
    ("post", "/v1/models/{name}/rollback"),
    ("get", "/v1/models/{name}/split"),
    ("put", "/v1/models/{name}/split"),
    ("delete", "/v1/models/{name}/split"),
    ("get", "/v1/runs"),
    ("get", "/v1/runs/{id}/metrics"),
    ("get", "/v1/evaluations"),
    ("get", "/v1/adaptations"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/metrics"),
}


@pytest.fixture
def document(tmp_path):
    return build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db")).openapi()


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_route_is_documented(document):
    assert document["openapi"].startswith("3.1")
    found = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert found == ROUTES
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            good = operation["responses"]["200"]
            if path != "/metrics":
                assert good["content"]["application/json"]["schema"], path
            if path.startswith("/v1"):
                assert operation["security"] == [{"APIKeyHeader": []}]
                for code in ("401", "403", "422", "429", "503"):
                    assert list(operation["responses"][code]["content"]) == ["application/problem+json"]
                for code in ("429", "503"):
                    assert "Retry-After" in operation["responses"][code]["headers"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/v1/recommendations"),
        ("post", "/v1/score"),
        ("post", "/v1/adapt"),
        ("get", "/v1/onboarding"),
        ("post", "/v1/models/{name}/promote"),
        ("put", "/v1/models/{name}/split"),
    ],
)
def test_the_start_of_several_versions_is_a_conflict_as_documented(server, home, document, method, path):
    """The database has two versions that begin alike; nothing is loaded for that."""
    database = server.container.database.engine.url.render_as_string(hide_password=False)
    for version in ("5d00aa", "5d00bb"):
        register(database, "users", home / "models" / "users" / version, live=False)
    body: dict[str, object] = {"model": "users@5d00"}
    if path == "/v1/score":
        body["items"] = ["i1"]
    if "{name}" in path:
        body = {"version": "5d00"} if method == "post" else {"arms": [{"version": "5d00", "weight": 1.0}]}
    given = {"params": body} if method == "get" else {"json": body}
    answer = server.client.request(method, path.replace("{name}", "users"), **given)
    assert answer.status_code == 409, answer.text
    assert "409" in document["paths"][path][method]["responses"]


def test_every_link_leads_to_a_call_that_takes_what_it_hands_over(document):
    every = {o["operationId"]: o for operations in document["paths"].values() for o in operations.values()}
    links = [
        link
        for operations in document["paths"].values()
        for operation in operations.values()
        for link in operation["responses"]["200"].get("links", {}).values()
    ]
    assert len(links) > 10
    for link in links:
        target = every[link["operationId"]]
        assert set(link.get("parameters", {})) <= {p["name"] for p in target.get("parameters", ())}, link
        assert "requestBody" not in link or "requestBody" in target, link


def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]
    used = set(references(document))
    assert used
    for reference in used:
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    assert "HTTPValidationError" not in schemas


def test_the_document_is_valid(document):
    pytest.importorskip("openapi_spec_validator").validate(document)


def test_answers_are_as_documented(server, new_id):
    def check(model, response):
        assert response.status_code == 200, response.text
        TypeAdapter(model).validate_json(response.content, extra="forbid")

    client, entity = server.client, {"id": new_id, "features": {"age": 30}}
    events = [{"item": "i1"}, {"item": "nonsense"}]
    check(answers.Recommendations, client.post("/v1/recommendations", json={"entity": entity, "events": events}))
    check(answers.Recommendations, client.post("/v1/recommendations", json={"entity": entity, "events": events}))
    check(answers.Scores, client.post("/v1/score", json={"events": events, "items": ["i2", "nonsense"]}))
    check(answers.Adapted, client.post("/v1/adapt", json={"entity": entity, "events": events, "persist": True}))
    check(answers.EventReceipt, client.post("/v1/events", json={"events": [{"entity": "e", "item": "i1"}, 5]}))
    check(answers.EntityDocument, client.put(f"/v1/entities/user/{new_id}", json={"features": {"age": 3}}))
    check(answers.EntityDocument, client.get(f"/v1/entities/user/{new_id}"))
    check(answers.Receipt, client.delete(f"/v1/entities/user/{new_id}"))
    check(answers.Models, client.get("/v1/models"))
    check(answers.ModelDocument, client.get("/v1/models/users"))
    version = {"version": server.container.registry.live["users"].version}
    check(answers.Move, client.post("/v1/models/users/promote", json=version))
    check(answers.SplitDocument, client.put("/v1/models/users/split", json={"arms": [{**version, "weight": 1.0}]}))
    check(answers.SplitDocument, client.get("/v1/models/users/split"))
    check(answers.SplitDocument, client.delete("/v1/models/users/split"))
    for path in ("runs", "evaluations", "adaptations"):
        check(answers.Page, client.get(f"/v1/{path}"))
    check(answers.Readiness, client.get("/readyz"))
    problem = client.get("/v1/models/nobody")
    TypeAdapter(answers.ProblemDocument).validate_json(problem.content, extra="forbid")
