"""Errors as RFC 9457 problem documents. A client sees what was wrong and what to do, never a stack trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from recsys_meta.core.errors import (
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


class ProblemError(Exception):
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


def unavailable(detail: str) -> ProblemError:
    """A 503 that says when to come back."""
    return ProblemError(503, detail, headers={"retry-after": str(RETRY_S)})


def problem_of(error: RecsysMetaError) -> ProblemError:
    """The problem that one of our errors is."""
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
    if status == 500:
        return ProblemError(500, "The server failed; its log has the reason under this request id")
    if status == 503:
        return unavailable(str(error))
    return ProblemError(status, str(error))


def plain(problem: ProblemError) -> dict[str, Any]:
    """The document of a problem, without what belongs to a request: there may be none yet."""
    status, title = problem.status, HTTPStatus(problem.status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": problem.detail}


def render(problem: ProblemError, request_id: str, path: str) -> Response:
    """The document of a problem. `instance` is the path that was asked for."""
    # Half a surrogate pair, as a strange path may hold, has no UTF-8: show it replaced.
    document = {**plain(problem), "instance": path.encode(errors="replace").decode(), "request_id": request_id}
    if problem.errors:
        document["errors"] = list(problem.errors)
    return Response(orjson.dumps(document), problem.status, problem.headers, MEDIA_TYPE)


def answer(scope: Scope, error: Exception) -> Response | None:
    """The document of an error that is the caller's to see; None for any other."""
    if isinstance(error, RequestValidationError):
        problem = _invalid(error)
    elif isinstance(error, RecsysMetaError):
        problem = problem_of(error)
    elif isinstance(error, HTTPException):
        ours = error.status_code == 413  # the framework's own words are for its own users
        detail = error.detail if ours else _SAID.get(error.status_code, error.detail)
        headers = _allow(scope, error) if error.status_code == 405 else error.headers
        problem = ProblemError(error.status_code, detail, headers=headers)
    elif isinstance(error, ClientDisconnect):
        # Nobody reads this; what counts it and what logs it shall see no failure of ours.
        problem = ProblemError(400, "The body did not arrive whole")
    elif isinstance(error, ProblemError):
        problem = error
    else:
        return None
    return render(problem, scope["state"]["request_id"], scope["path"])


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of the application a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        found = answer(request.scope, error)
        assert found is not None
        return found

    for kind in (ProblemError, RecsysMetaError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, handle)


_SAID = {
    400: "The body cannot be read as JSON",
    404: "There is nothing at this path; /docs lists the calls there are",
    405: "This path exists, but not for this method; the header Allow lists those it has",
}


def _allow(scope: Scope, error: HTTPException) -> Mapping[str, str] | None:
    """Every method of the path: each of them has a route of its own, and the framework names those of one.

    That one is the first, and may be of a method that the document does not show.
    """
    route = scope.get("route")
    found = scope["app"].openapi()["paths"].get(getattr(route, "path_format", None))
    if not found:
        return error.headers
    methods = {method.upper() for method in found} | set(getattr(route, "methods", None) or ())
    return {"allow": ", ".join(sorted(methods))}


def _invalid(error: RequestValidationError) -> ProblemError:
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
    return ProblemError(422, f"{where}: {first['detail']}", errors=errors)


def _escape(part: str) -> str:
    # A key of the client's own may stand here: cut it, and show half surrogate pairs replaced.
    return part.encode(errors="replace").decode()[:200].replace("~", "~0").replace("/", "~1")
