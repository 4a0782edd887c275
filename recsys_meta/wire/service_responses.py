"""Bodies of responses about the service itself: rows of its tables, its readiness, its errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from recsys_meta.wire.base import ResponseModel, always_present

# A text by the document; None where a proxy answered in place of the server.
PresentText = Annotated[str | None, WithJsonSchema({"type": "string"})]
# A text of a few values by the document; a newer server may have others.
RequestPart = Annotated[str, WithJsonSchema({"enum": ["body", "query", "path", "header"], "type": "string"})]


class RowPage(ResponseModel):
    """Some rows; `next` is the cursor of the page that follows, null at the end."""

    items: list[dict[str, Any]]
    next: str | None


class DependencyCheck(ResponseModel):
    """State of one dependency."""

    ok: bool
    needed: bool
    detail: str | None


class ReadinessReport(ResponseModel):
    """Readiness to answer requests, with the state of each dependency."""

    status: Literal["ready", "degraded", "unready"]
    checks: dict[str, DependencyCheck]


class FieldError(ResponseModel):
    """One thing wrong with a request, in which part of it, and where there (a JSON pointer)."""

    in_: RequestPart = always_present("body", alias="in")
    pointer: str
    detail: str


class ProblemDocument(ResponseModel):
    """An error, after RFC 9457."""

    type: str = always_present("about:blank")
    title: str = always_present("")
    status: int
    detail: str = always_present("")
    instance: PresentText = always_present(None)
    request_id: PresentText = always_present(None)
    errors: list[FieldError] | None = None
