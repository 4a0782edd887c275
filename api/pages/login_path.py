"""The way to the login and back, below `/ui/`."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import Request

from api.pages.page_context import page_root

# No scheme, no host and no way up: a page of this server whatever is given.
_LOCAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_/-]*(\?[^#\\\s]*)?")


def login_path(request: Request) -> str:
    """Return the way from a page to the login, which comes back to it."""
    path = request.scope["path"].split("/", 2)[2]
    query = request.scope["query_string"].decode("latin-1")
    target = f"{path}?{query}" if query else path
    return f"{page_root(request)}login" + (f"?next={quote(target, safe='')}" if local_path(target) else "")


def local_path(target: str) -> str:
    """Return a path below `/ui/` that a login was sent; none for anything else."""
    return target if _LOCAL.fullmatch(target) and len(target) <= 2000 else ""
