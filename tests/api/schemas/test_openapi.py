"""The OpenAPI document is whole, names every route, and tells the truth about answers."""

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from api.app import build_app
from api.schemas.component_names import component_name
from recsys_meta.wire.entity_responses import DeletionReceipt, EntityDocument
from recsys_meta.wire.model_responses import AliasChange, ModelDocument, ModelList, SplitDocument
from recsys_meta.wire.responses import AdaptationResponse, EventReceipt, RecommendationResponse, ScoreResponse
from recsys_meta.wire.service_responses import ProblemDocument, ReadinessReport, RowPage
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
    ("get", "/v1/items"),
    ("post", "/v1/items"),
    ("get", "/v1/items/{id}"),
    ("put", "/v1/items/{id}"),
    ("patch", "/v1/items/{id}"),
    ("delete", "/v1/items/{id}"),
    ("get", "/v1/items/{id}/similar"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{name}"),
    ("post", "/v1/models/{name}/promote"),
    ("post", "/v1/models/{name}/rollback"),
    ("delete", "/v1/models/{name}"),
    ("post", "/v1/models/{name}/retire"),
    ("post", "/v1/models/{name}/default"),
    ("post", "/v1/models/{name}/versions/{version}/archive"),
    ("post", "/v1/models/{name}/versions/{version}/restore"),
    ("delete", "/v1/models/{name}/versions/{version}"),
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
    routes = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert routes == ROUTES
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
    arguments = {"params": body} if method == "get" else {"json": body}
    answer = server.client.request(method, path.replace("{name}", "users"), **arguments)
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
    targets = set(references(document))
    assert targets
    for reference in targets:
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    assert "HTTPValidationError" not in schemas


def test_the_document_is_valid(document):
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    broken = {**document, "paths": {"/x": {"get": {"responses": {"200": {}}}}}}
    assert list(OpenAPIV31SpecValidator(broken).iter_errors()), "the validator looks"


def test_answers_are_as_documented(server, new_id, document):
    def check(model, response, status=200, name=None):
        assert response.status_code == status, response.text
        TypeAdapter(model).validate_json(response.content, extra="forbid")
        # The document promises fields that the classes can do without: those that other releases may lack.
        schema = {"$ref": f"#/components/schemas/{name or component_name(model.__name__)}"}
        validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
        validator.validate(response.json())

    client, entity = server.client, {"id": new_id, "features": {"age": 30}}
    events = [{"item": "i1"}, {"item": "nonsense"}]
    check(RecommendationResponse, client.post("/v1/recommendations", json={"entity": entity, "events": events}))
    check(RecommendationResponse, client.post("/v1/recommendations", json={"entity": entity, "events": events}))
    check(ScoreResponse, client.post("/v1/score", json={"events": events, "items": ["i2", "nonsense"]}))
    check(AdaptationResponse, client.post("/v1/adapt", json={"entity": entity, "events": events, "persist": True}))
    check(EventReceipt, client.post("/v1/events", json={"events": [{"entity": "e", "item": "i1"}, 5]}))
    check(EntityDocument, client.put(f"/v1/entities/user/{new_id}", json={"features": {"age": 3}}))
    check(EntityDocument, client.get(f"/v1/entities/user/{new_id}"))
    check(DeletionReceipt, client.delete(f"/v1/entities/user/{new_id}"))
    check(ModelList, client.get("/v1/models"))
    check(ModelDocument, client.get("/v1/models/users"))
    version = {"version": server.container.registry.live["users"].version}
    check(AliasChange, client.post("/v1/models/users/promote", json=version))
    check(SplitDocument, client.put("/v1/models/users/split", json={"arms": [{**version, "weight": 1.0}]}))
    check(SplitDocument, client.get("/v1/models/users/split"))
    check(SplitDocument, client.delete("/v1/models/users/split"))
    for path in ("runs", "evaluations", "adaptations"):
        check(RowPage, client.get(f"/v1/{path}"))
    check(ReadinessReport, client.get("/readyz"))
    check(ProblemDocument, client.get("/v1/models/nobody"), 404, "Problem")
