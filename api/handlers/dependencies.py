"""Dependencies of the routes: the container, the parsed body, parameters of paths and queries."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from api.container import AppContainer
from api.http.authorization import KEY_HEADER, Scope, authorize
from api.http.request_bodies import beside_loop, check_json_type, check_structure, find_header, read_body
from api.http.request_context import request_context
from recsys_meta.store.database.keyset_pagination import MAX_PAGE_SIZE
from recsys_meta.wire.field_types import EntityId, Kind, ModelName

Body = TypeVar("Body", bound=BaseModel)


async def _container(request: Request) -> AppContainer:
    return cast(AppContainer, request.app.state.container)


def request_id(request: Request) -> str:
    """The request's id, which the log has too."""
    return request_context(request.scope).request_id


async def authorize_and_parse(request: Request, scope: Scope, model: type[Body]) -> tuple[AppContainer, Body, bytes]:
    """Authorize a caller and parse its body; the container, the parsed body and the body as it was sent. Hot routes
    call this in place of FastAPI's dependencies, which cost more than a whole response from a cache. Raises Problem and
    RequestValidationError, as those do."""
    app = request.scope["app"]
    authorize(app.state.keys, request.scope, find_header(request.scope, KEY_HEADER), scope)
    check_json_type(request)
    raw = await read_body(request)
    return cast(AppContainer, app.state.container), await _parse_beside_loop(model, raw), raw


async def parse_body(request: Request, model: type[Body]) -> tuple[Body, bytes]:
    """Parse the body of a caller that has been authorized; return it with what was sent. Raises as
    `authorize_and_parse`."""
    check_json_type(request)
    raw = await request.body()  # a middleware or a dependency may have read it before
    return await _parse_beside_loop(model, raw), raw


async def _parse_beside_loop(model: type[Body], raw: bytes) -> Body:
    return await beside_loop(raw, lambda: _parse(model, raw))


def _parse(model: type[Body], raw: bytes) -> Body:
    check_structure(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in errors]) from None


def request_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Refer to the OpenAPI schema of a body that `authorize_and_parse` reads; `api.schemas.openapi` adds the schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


ContainerDependency = Annotated[AppContainer, Depends(_container)]
KindPath = Annotated[Kind, Path(description="kind of newcomer: user, ad, city ...")]
IdPath = Annotated[EntityId, Path(description="the entity's id; slashes may stand in it")]
ModelPath = Annotated[ModelName, Path(description="the model's name")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="rows of a page")]
Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]
Word = Annotated[str | None, Query(max_length=200)]
