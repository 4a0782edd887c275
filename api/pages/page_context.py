"""Context of a page: the container, the rights of the caller, its form, and the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ValidationError
from sqlalchemy.orm import Session

from api.container import AppContainer
from api.http.authorization import HEADER, Scope, Scopes, admit_key, authorize
from api.http.cross_site import SAFE_METHODS
from api.http.problem_details import ProblemError
from api.pages.page_session import COOKIE, PageSession, form_token, is_form_token, read_session
from api.pages.templates import render_template
from recsys_meta.core.schema import explain_errors

FORM_TOKEN = "csrf"  # noqa: S105 (the name of a field)
TOKEN_HEADER = "X-CSRF-Token"  # noqa: S105 (the name of a header)

_MOST_FIELDS = 200
_required_scopes: dict[Any, str] = {}

Result = TypeVar("Result")
Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class PageContext:
    """One request of a page. `form` holds the fields of a form that was sent, `scopes` what the caller may do."""

    request: Request
    container: AppContainer
    session: PageSession
    scopes: Scopes
    form: dict[str, str]

    def render(self, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """Render a template with what every page shows, and send it with the policy of pages."""
        token = form_token(page_secret(self.container), self.session)
        return page_response(self.request, template, status, page=self, csrf=token, **values)

    def redirect(self, path: str, **query: str | None) -> RedirectResponse:
        """Send the browser to a page after a form: `path` is below `/ui/`."""
        suffix = urlencode({k: v for k, v in query.items() if v is not None}, quote_via=quote)
        return RedirectResponse(page_root(self.request) + path + ("?" + suffix if suffix else ""), 303)

    async def read(self, work: Callable[[Session], Result]) -> Result:
        """Read from the database. Raises StoreUnavailable, which pages show as such."""
        return await self.container.database.read_report(work)

    @staticmethod
    def read_json(response: Response) -> Any:
        """Return the document that a call of the API responded with."""
        return orjson.loads(bytes(response.body))

    def may(self, scope: Scope) -> bool:
        """Return whether the caller has a scope."""
        return scope in self.scopes


def page_context(scope: Scope) -> Any:
    """Return a dependency that admits callers with a scope, by the cookie of a login or by the header of a key, and
    refuses forms without their token. It yields a `PageContext`."""

    async def open_context(request: Request) -> PageContext:
        container = cast(AppContainer, request.app.state.container)
        session, scopes = _admit(request, container, scope)
        form = {}
        if request.method not in SAFE_METHODS:
            form = await read_form(request)
            require_token(request, container, session, form)
        return PageContext(request, container, session, scopes, form)

    _required_scopes[open_context] = scope
    return Depends(open_context)


ReadContext = Annotated[PageContext, page_context("read")]
WriteContext = Annotated[PageContext, page_context("write")]
AdminContext = Annotated[PageContext, page_context("admin")]


def read_fields(model: type[Fields], values: Mapping[str, Any]) -> Fields:
    """Return the body of a call of the API from fields of a form. Raises ProblemError 422 for one that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ProblemError(422, explain_errors(error)) from None


def page_scope(dependency: Any) -> str | None:
    """Return the scope that a dependency of `page_context` asks for, None for any other callable."""
    return _required_scopes.get(dependency)


def page_secret(container: AppContainer) -> bytes:
    """Return the secret of cookies and forms: all processes of an installation have the same one."""
    return container.profiles.cursor_key.value


def page_root(request: Request) -> str:
    """Return the way from a page to `/ui/`: relative, so that it holds behind a proxy that adds a prefix."""
    # As it was sent: a browser takes an encoded slash for a letter of a name.
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode(errors="replace")
    depth = raw_path.count(b"/") - 2
    return "../" * depth or "./"


def page_response(request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """Render a page and send it with the content security policy."""
    text = render_template(template, root=page_root(request), path=request.scope["path"], **values)
    return HTMLResponse(text, status, headers=PAGE_HEADERS)


PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every page: nothing of another origin is loaded, and no script but the files of this server runs."""


def _admit(request: Request, container: AppContainer, scope: Scope) -> tuple[PageSession, Scopes]:
    """Return session and scopes of the caller. Raises ProblemError as `authorize`."""
    keys, header_key = request.app.state.keys, request.headers.get(HEADER)
    if keys.is_empty or header_key:
        scopes = authorize(keys, request.scope, header_key, scope)
        key = keys.find(header_key) if header_key else None
        return PageSession() if key is None else PageSession(key, f"key-{key.id}"), scopes
    cookie = request.cookies.get(COOKIE)
    session = read_session(page_secret(container), keys, cookie)
    key = None if session is None else session.key
    scopes = admit_key(keys, request.scope, key, scope, was_given=bool(cookie))
    return session or PageSession(), scopes


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; none of a body of another type. Of fields with the same name the last counts."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await request.body()
    if media_type != "application/x-www-form-urlencoded":
        return {}
    try:
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise ProblemError(400, f"The form cannot be read: it is UTF-8 and has {_MOST_FIELDS} fields at most") from None


def require_token(request: Request, container: AppContainer, session: PageSession, form: dict[str, str]) -> None:
    """Raise ProblemError for a form without the token of its session."""
    token = form.pop(FORM_TOKEN, None) or request.headers.get(TOKEN_HEADER, "")
    if not is_form_token(page_secret(container), session, token):
        raise ProblemError(403, "The form is too old, or did not come from a page of this server; open the page again")
