"""Problem documents (RFC 9457): every error response says what was wrong and what to do, never a stack trace."""

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

from api.http.request_context import request_context
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
"""Value of `Retry-After` while a dependency is unavailable, seconds."""

_MAX_ERRORS = 20
_STATUS: Sequence[tuple[type[RecsysMetaError], int]] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (DataError, 422),
    (ConfigError, 422),
    (CheckpointError, 503),
    (StoreError, 503),
)


class ProblemError(Exception):
    """An error response with an HTTP status.

    `detail` is shown to the client; `errors` are the wrong fields of a request, each with the keys `in`, `pointer`
    (a JSON pointer) and `detail`; `headers` are added to the response.
    """

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
    """Return a 503 whose `Retry-After` says when to come back."""
    return ProblemError(503, detail, headers={"retry-after": str(RETRY_S)})


def problem_from_error(error: RecsysMetaError) -> ProblemError:
    """Translate an expected error of the library into its HTTP status; a 500 keeps the message to the log."""
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
    if status == 500:
        return ProblemError(500, "The server failed; its log has the reason under this request id")
    if status == 503:
        return unavailable(str(error))
    return ProblemError(status, str(error))


def problem_document(problem: ProblemError) -> dict[str, Any]:
    """Return the members of the document that need no request: there is none yet while its head is being read."""
    status, title = problem.status, HTTPStatus(problem.status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": problem.detail}


def problem_response(problem: ProblemError, scope: Scope) -> Response:
    """Render the document of a problem, with the path of the request as `instance` and its id as `request_id`."""
    document = {
        **problem_document(problem),
        "instance": _replace_surrogates(scope["path"]),
        "request_id": request_context(scope).request_id,
    }
    if problem.errors:
        document["errors"] = list(problem.errors)
    return Response(orjson.dumps(document), problem.status, problem.headers, MEDIA_TYPE)


def error_response(scope: Scope, error: Exception) -> Response | None:
    """Render an error that is meant for the client; None for any other, which is a bug."""
    problem = _to_problem(scope, error)
    return None if problem is None else problem_response(problem, scope)


def _to_problem(scope: Scope, error: Exception) -> ProblemError | None:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _validation_problem(error)
    if isinstance(error, RecsysMetaError):
        return problem_from_error(error)
    if isinstance(error, HTTPException):
        return _framework_problem(scope, error)
    if isinstance(error, ClientDisconnect):
        # Nobody reads this response; counted and logged as a 4xx it is no failure of the server.
        return ProblemError(400, "The body did not arrive whole")
    return None


def install_problem_handlers(app: FastAPI) -> None:
    """Register handlers that make every expected error of a FastAPI application a problem document."""

    async def handle(request: Request, error: Exception) -> Response:
        response = error_response(request.scope, error)
        assert response is not None
        return response

    for kind in (ProblemError, RecsysMetaError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, handle)


_FRAMEWORK_DETAILS = {
    400: "The body cannot be read as JSON",
    404: "There is nothing at this path; /docs lists the calls there are",
    405: "This path exists, but not for this method; the header Allow lists those it has",
}


def _framework_problem(scope: Scope, error: HTTPException) -> ProblemError:
    # Starlette's texts ("Not Found") name no remedy. The 413 is raised by our own middleware.
    own_detail = error.status_code == 413
    detail = error.detail if own_detail else _FRAMEWORK_DETAILS.get(error.status_code, error.detail)
    headers = _allow_header(scope, error) if error.status_code == 405 else error.headers
    return ProblemError(error.status_code, detail, headers=headers)


def _allow_header(scope: Scope, error: HTTPException) -> Mapping[str, str] | None:
    """Return `Allow` with every method of the path.

    Each method has a route of its own, and Starlette lists the methods of the first route that matched the path. That
    one may be a method, such as HEAD, that the OpenAPI document leaves out.
    """
    route = scope.get("route")
    operations = scope["app"].openapi()["paths"].get(getattr(route, "path_format", None))
    if not operations:
        return error.headers
    methods = {method.upper() for method in operations} | set(getattr(route, "methods", None) or ())
    return {"allow": ", ".join(sorted(methods))}


def _validation_problem(error: RequestValidationError) -> ProblemError:
    """Return a 422 with pydantic's errors under JSON pointers; values of the request are not repeated."""
    errors = []
    for e in error.errors()[:_MAX_ERRORS]:
        part, *path = [str(p) for p in e["loc"]]
        if e["type"] == "json_invalid":
            path = []  # pydantic reports an offset in the text there, which is no pointer
        message = str(e["msg"]).removeprefix("Value error, ")
        errors.append({"in": part, "pointer": "".join(f"/{_escape(p)}" for p in path), "detail": message})
    first = errors[0]
    where = f"{first['in']}{first['pointer']}"
    return ProblemError(422, f"{where}: {first['detail']}", errors=errors)


def _escape(key: str) -> str:
    """Escape a key for a JSON pointer (RFC 6901), cut to 200 characters: it may be the client's own."""
    return _replace_surrogates(key)[:200].replace("~", "~0").replace("/", "~1")


def _replace_surrogates(text: str) -> str:
    """Replace half surrogate pairs, as a path or a JSON key may hold: they have no UTF-8."""
    return text.encode(errors="replace").decode()
