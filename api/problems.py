"""Errors as RFC 9457 problem documents. A client sees what was wrong and what to do, never a stack trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from recsys_meta.errors import (
    CheckpointError,
    ConfigError,
    ConflictError,
    DataError,
    NotFoundError,
    RecsysMetaError,
    StoreError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_S = 2
"""What `Retry-After` says while a dependency is away, in seconds."""

_MOST_ERRORS = 20
_STATUS: Sequence[tuple[type[RecsysMetaError], int]] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (DataError, 422),
    (ConfigError, 422),
    (CheckpointError, 503),
    (StoreError, 503),
)


class Problem(Exception):
    """An answer other than success. `detail` is shown to the client."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.headers = dict(headers or {})


def unavailable(detail: str) -> Problem:
    """A 503 that says when to come back."""
    return Problem(503, detail, headers={"retry-after": str(RETRY_S)})


def of(error: RecsysMetaError) -> Problem:
    """The problem that one of our errors is."""
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
    if status == 500:
        return Problem(500, "The server failed; its log has the reason under this request id")
    if status == 503:
        return unavailable(str(error))
    return Problem(status, str(error))


def render(problem: Problem, request_id: str, path: str) -> Response:
    """The document of a problem. `instance` is the path that was asked for."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        "request_id": request_id,
    }
    if problem.errors:
        document["errors"] = list(problem.errors)
    # Half a surrogate pair, as a strange path may hold, has no UTF-8: show it replaced.
    document["instance"] = path.encode(errors="replace").decode()
    return Response(orjson.dumps(document), problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _answer(request, error)

    async def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, RecsysMetaError)
        return _answer(request, of(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        ours = error.status_code == 413  # the framework's own words are for its own users
        detail = error.detail if ours else _SAID.get(error.status_code, error.detail)
        return _answer(request, Problem(error.status_code, detail, headers=error.headers))

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(request, _invalid(error))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RecsysMetaError, on_ours)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


_SAID = {
    400: "The body cannot be read as JSON",
    404: "There is nothing at this path; /docs lists the calls there are",
    405: "This path exists, but not for this method; the header Allow lists those it has",
}


def _answer(request: Request, problem: Problem) -> Response:
    return render(problem, request.scope["state"]["request_id"], request.scope["path"])


def _invalid(error: RequestValidationError) -> Problem:
    """What pydantic found, as JSON pointers; the values themselves are not repeated."""
    errors = []
    for e in error.errors()[:_MOST_ERRORS]:
        place, *path = [str(p) for p in e["loc"]]
        if e["type"] == "json_invalid":
            path = []
        message = str(e["msg"]).removeprefix("Value error, ")
        errors.append({"in": place, "pointer": "".join(f"/{_escape(p)}" for p in path), "detail": message})
    first = errors[0]
    where = f"{first['in']}{first['pointer']}"
    return Problem(422, f"{where}: {first['detail']}", errors=errors)


def _escape(part: str) -> str:
    # A key of the client's own may stand here: cut it, and show half surrogate pairs replaced.
    return part.encode(errors="replace").decode()[:200].replace("~", "~0").replace("/", "~1")
