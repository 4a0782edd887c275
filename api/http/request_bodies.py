"""Bodies of requests: their media type, and bounds on what they hold, before a validator looks at them.

A validator reports each wrong value, and a body of a megabyte may hold a hundred thousand. So what no request of the
API needs, such as an object of a thousand keys, is refused first, by a look that costs little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from recsys_meta.wire.field_types import MOST_FEATURES
from recsys_meta.wire.requests import MOST_ITEMS

MOST_KEYS = MOST_FEATURES
"""Keys of an object in a body."""

MOST_CONTAINERS = 100_000
"""Objects and lists in a body: 10,000 candidates with seven features that are lists, for which a megabyte just does,
have 90,003."""

SMALL_BYTES = 8 * 1024
"""Size up to which a body is validated at once: it cannot hold enough to take long."""

LARGE_BYTES = 64 * 1024
"""Size from which a body is looked at in a thread, beside the event loop."""

_CONTAINERS = (dict, list)  # what the parser makes: no subclasses

Result = TypeVar("Result")


def find_header(scope: Scope, name: bytes) -> str | None:
    """Find the first header of a name in lower case. Starlette's mapping of all headers takes four times as long."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


async def read_body(request: Request) -> bytes:
    """Read a body that nobody has read yet. One that comes in one piece, as nearly all do, costs no iterator. Raises
    ClientDisconnect."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    return body + await request.body() if message.get("more_body") else body


def check_json_type(request: Request) -> None:
    """Raise RequestValidationError for a body that is not declared as JSON: browsers let a web page send any other type
    without asking the server first."""
    declared = find_header(request.scope, b"content-type") or ""
    if declared == "application/json":
        return
    media_type = declared.partition(";")[0].strip().lower()
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    if not is_json:
        raise body_error("a body of content-type application/json is needed", kind="content_type")


def body_error(message: str, kind: str = "too_long") -> RequestValidationError:
    """Return the error of a whole body."""
    return RequestValidationError([{"type": kind, "loc": ("body",), "msg": message}])


async def beside_loop(raw: bytes, work: Callable[[], Result]) -> Result:
    """Run a look at a body: at once, or in a thread where the body is large."""
    return work() if len(raw) < LARGE_BYTES else await asyncio.to_thread(work)


def check_structure(raw: bytes) -> None:
    """Raise RequestValidationError for a body with more objects and lists, larger objects or longer lists than any
    request has. One that is no JSON passes: the validator says where it breaks off."""
    if len(raw) < SMALL_BYTES:
        return
    if raw.count(b"{") + raw.count(b"[") > MOST_CONTAINERS:  # brackets in texts count: nobody sends so many
        raise body_error(f"more than {MOST_CONTAINERS} objects and lists")
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if len(value) > MOST_KEYS:
                raise body_error(f"an object of {len(value)} keys; at most {MOST_KEYS} are read")
            stack += [v for v in value.values() if type(v) in _CONTAINERS]
        elif isinstance(value, list):
            if len(value) > MOST_ITEMS:
                raise body_error(f"a list of {len(value)} values; at most {MOST_ITEMS} are read")
            stack += [v for v in value if type(v) in _CONTAINERS]
