"""The OpenAPI document: that of FastAPI, with problem documents for errors, links and the lasting component names."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from api.http.problem_details import MEDIA_TYPE
from api.schemas.component_names import rename_components
from api.schemas.openapi_links import add_links
from recsys_meta.wire.requests import Event, ItemInput, RecommendationRequest, ScoreRequest
from recsys_meta.wire.service_responses import ProblemDocument

_REF = "#/components/schemas/{model}"
_BY_VERSION = ("/recommendations", "/score", "/adapt", "/onboarding")
_DESCRIPTIONS = {
    400: "The body cannot be read as JSON",
    401: "A key is needed, and this is none of ours",
    403: "The key lacks the scope; or no key is configured and the caller is not on this machine",
    404: "There is no such thing",
    409: "The request contradicts what is stored",
    413: "The body is too large",
    422: "The request is wrong; `errors` says where",
    429: "Too many requests; `Retry-After` says when to come back",
    503: "Something that is needed is away; `Retry-After` says when to come back",
}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the document of an application, built by the first call."""
    if app.openapi_schema is None:
        app.openapi_schema = _build(app)
    return app.openapi_schema


def _build(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    _add_bodies(document.setdefault("components", {}).setdefault("schemas", {}))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _add_problems(path, method, operation["responses"])
            if path.startswith("/v1"):
                operation["security"] = [{"APIKeyHeader": []}]
    add_links(document["paths"])
    return rename_components(document)


def _add_bodies(schemas: dict[str, Any]) -> None:
    """Add the components that FastAPI does not see: errors, and bodies that routes parse by themselves."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _add_component(schemas, "Problem", ProblemDocument)
    for model in (Event, ItemInput, RecommendationRequest, ScoreRequest):
        _add_component(schemas, model.__name__, model)
    # Each part of a batch is validated by itself, so the type of its items is open in the class.
    for batch, name in (("EventBatch", "events"), ("ItemBatch", "items")):
        one = schemas[batch].pop("x-item-schema")
        schemas[batch]["properties"][name]["items"] = {"$ref": f"#/components/schemas/{one}"}


def _add_component(schemas: dict[str, Any], name: str, model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template=_REF)
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema


def _add_problems(path: str, method: str, responses: dict[str, Any]) -> None:
    """Replace the framework's error response by the problem documents of an operation."""
    responses.pop("422", None)
    if path != "/metrics" and not path.startswith("/v1"):
        return
    codes = {401, 403, 503} if path == "/metrics" else {401, 403, 422, 429, 503}
    codes |= {400, 413} if method in ("post", "put", "patch") else set()
    codes |= {404} if "{" in path or method == "post" or path.endswith("/onboarding") else set()
    # Calls that take a model by name@version: the start of a version may be that of several.
    codes |= {409} if path.endswith(("/retire", "/default", "/archive", "/restore", "/versions/{version}")) else set()
    codes |= {409} if path == "/v1/models/{name}" and method == "delete" else set()
    codes |= {409} if path.endswith(("/promote", "/rollback", "/split", *_BY_VERSION)) else set()
    for code in sorted(codes):
        problem: dict[str, Any] = {
            "description": _DESCRIPTIONS[code],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if code in (429, 503):
            problem["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
        responses[str(code)] = problem
