"""The OpenAPI document: what FastAPI makes, with errors as they are (problem documents)."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.http.problem_details import MEDIA_TYPE
from api.schemas import openapi_links as links
from api.schemas.component_names import rename_components
from recsys_meta.wire.requests import Event, RecommendationRequest, ScoreRequest
from recsys_meta.wire.responses import ProblemDocument

_REF = "#/components/schemas/{model}"
_BY_VERSION = ("/recommendations", "/score", "/adapt", "/onboarding")
_SAID = {
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
    """The document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        _add(schemas, "Problem", ProblemDocument.model_json_schema(ref_template=_REF))
        for model in (Event, RecommendationRequest, ScoreRequest):
            _add(schemas, model.__name__, model.model_json_schema(ref_template=_REF))
        schemas["EventBatch"].pop("x-item-schema", None)
        schemas["EventBatch"]["properties"]["events"]["items"] = {"$ref": "#/components/schemas/Event"}
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _describe(path, method, operation["responses"])
                if path.startswith("/v1"):
                    operation["security"] = [{"APIKeyHeader": []}]
        links.add_links(made["paths"])
        app.openapi_schema = rename_components(made)
    return app.openapi_schema


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    schemas.update(schema.pop("$defs", {}))
    schemas[name] = schema


def _describe(path: str, method: str, responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    if path != "/metrics" and not path.startswith("/v1"):
        return
    codes = {401, 403, 503} if path == "/metrics" else {401, 403, 422, 429, 503}
    codes |= {400, 413} if method in ("post", "put") else set()
    codes |= {404} if "{" in path or method == "post" or path.endswith("/onboarding") else set()
    # Calls that take a model by name@version: the start of a version may be that of several.
    codes |= {409} if path.endswith(("/promote", "/rollback", "/split", *_BY_VERSION)) else set()
    for code in sorted(codes):
        problem: dict[str, Any] = {
            "description": _SAID[code],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if code in (429, 503):
            problem["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
        responses[str(code)] = problem
