"""Route of pages: errors are pages as well, and who has no session yet is sent to the login."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute

from api.http.problem_details import error_response
from api.http.request_context import request_context
from api.pages.login_path import login_path
from api.pages.page_context import page_response


class PageRoute(APIRoute):
    """Route whose errors are pages for a browser that asks for one, and problem documents for programs.

    What answers GET answers HEAD as well, without its body.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        if self.methods and "GET" in self.methods:
            self.methods.add("HEAD")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that FastAPI calls."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                response = error_response(request.scope, error)
                if response is None or "text/html" not in request.headers.get("accept", ""):
                    raise
                return _error_page(request, response)

        return handle_page


def _error_page(request: Request, problem: Response) -> Response:
    """Return the page of a problem; of one without a key the way to the login."""
    if problem.status_code == HTTPStatus.UNAUTHORIZED and request.method in ("GET", "HEAD"):
        return RedirectResponse(login_path(request), 303)
    document = orjson.loads(bytes(problem.body))
    title = HTTPStatus(problem.status_code).phrase
    page = page_response(
        request,
        "error.html.jinja",
        problem.status_code,
        title=title,
        detail=document["detail"],
        errors=document.get("errors", []),
        request_id=request_context(request.scope).request_id,
    )
    if retry := problem.headers.get("retry-after"):
        page.headers["retry-after"] = retry
    return page
