"""Refusal of writes that a web page of another origin sends through somebody's browser (cross-site request forgery).

A server without keys admits all that comes from its own machine, and so would do what any page says that is open there.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problem_details import ProblemError, problem_response

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Methods that change nothing (RFC 9110, 9.2.1)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_OWN_SITES = (b"same-origin", b"none")
_BROWSER_HEADERS = frozenset((b"origin", b"sec-fetch-site"))


class CrossSiteMiddleware:
    """ASGI middleware that answers 403 to a write whose `Origin` or `Sec-Fetch-Site` names another origin.

    Programs send neither header, browsers send them with every write and let no page change them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and is_cross_site(scope):
            problem = ProblemError(403, "This server takes no writes from web pages of another origin")
            await problem_response(problem, scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def is_cross_site(scope: Scope) -> bool:
    """Return whether the headers say that a page of another origin sent the request.

    `Sec-Fetch-Site` decides alone where a browser sends it, because no proxy between changes what it says; without it
    (an old browser, or plain HTTP) the origin has to be the host of the request.
    """
    if _BROWSER_HEADERS.isdisjoint(dict(scope["headers"])):
        return False
    origins, hosts, sites = list[bytes](), list[bytes](), list[bytes]()
    values_by_name = {b"origin": origins, b"host": hosts, b"sec-fetch-site": sites}
    for name, value in scope["headers"]:
        if name in values_by_name:
            values_by_name[name].append(value)
    if sites:
        return any(site.strip().lower() not in _OWN_SITES for site in sites)
    # Its scheme is not compared: behind a proxy that ends TLS the server does not see the one that the page has.
    return any(not _is_same_host(origin, hosts) for origin in origins)


def _is_same_host(origin: bytes, hosts: list[bytes]) -> bool:
    """Return whether an origin is that of the host that the request names; false for `null` and all that is none."""
    if len(hosts) != 1:
        return False
    try:
        page = urlsplit(origin.decode("ascii").strip().lower())
        host = urlsplit(f"//{hosts[0].decode('ascii').strip().lower()}")
        default = _DEFAULT_PORTS[page.scheme]
        return page.hostname is not None and (page.hostname, page.port or default) == (
            host.hostname,
            host.port or default,
        )
    except (ValueError, KeyError):  # UnicodeDecodeError is a ValueError
        return False
