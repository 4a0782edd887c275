"""`/ui/login` and `/ui/logout`: a key is exchanged for a cookie that ends soon."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.container import AppContainer
from api.http.authorization import authorize
from api.http.problem_details import ProblemError
from api.pages.login_path import local_path
from api.pages.page_context import ReadContext, page_response, page_root, page_secret, read_form, require_token
from api.pages.page_route import PageRoute
from api.pages.page_session import COOKIE, LIFETIME_S, PageSession, form_token, open_session

router = APIRouter(route_class=PageRoute, prefix="/ui", include_in_schema=False)


@router.get("/login")
async def show_login(request: Request, next: Annotated[str, Query(max_length=2000)] = "") -> Response:
    """Show the form; where no key is needed, go on."""
    if request.app.state.keys.is_empty:
        return RedirectResponse(page_root(request), 303)
    return _form(request, next)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Set the cookie of a key that may read."""
    container: AppContainer = request.app.state.container
    form = await read_form(request)
    require_token(request, container, PageSession(), form)
    keys, text, target = request.app.state.keys, form.get("key", "").strip(), form.get("next", "")
    try:
        authorize(keys, request.scope, text, "read")
    except ProblemError as problem:
        return _form(request, target, problem)
    response = RedirectResponse(page_root(request) + local_path(target), 303)
    if cookie := open_session(page_secret(container), keys, text):
        # Without a path: that is then the one of the pages, also behind a proxy that adds a prefix.
        is_secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, cookie, max_age=LIFETIME_S, path=None, httponly=True, samesite="strict", secure=is_secure
        )
    return response


@router.post("/logout")
async def log_out(page: ReadContext) -> Response:
    """Let the browser forget the cookie."""
    response = page.redirect("login")
    response.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="strict")
    return response


def _form(request: Request, target: str, problem: ProblemError | None = None) -> Response:
    token = form_token(page_secret(request.app.state.container), PageSession())
    detail = None if problem is None else problem.detail if problem.status != 401 else "This key is not accepted."
    status = 200 if problem is None else problem.status
    return page_response(request, "login.html.jinja", status, csrf=token, next=target, detail=detail)
