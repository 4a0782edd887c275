"""Page of the API at `/docs`: it shows the OpenAPI document and sends calls, with nothing from other hosts.

Each call is shown with bounds, defaults, the fields of whatever it holds, and as a command of curl. Swagger UI shows as
much, but needs 1.5 MB of foreign script and a policy that lets styles of any origin in; from a CDN it would not load on
a machine without the internet.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse


def install_docs_page(app: FastAPI) -> None:
    """Add the page to an application, and redirect `/` to the pages for people."""
    app.add_api_route("/docs", _page, include_in_schema=False)
    app.add_api_route("/", _home, include_in_schema=False)


@cache
def _read() -> tuple[str, str]:
    """Return the page, and the content security policy by which browsers run its own script and no other."""
    text = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'"
    return text, f"{policy}; form-action 'none'; frame-ancestors 'none'"


def _hash(text: str, tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


async def _page() -> HTMLResponse:
    text, policy = _read()
    return HTMLResponse(text, headers={"content-security-policy": policy})


async def _home() -> RedirectResponse:
    return RedirectResponse("ui/")
