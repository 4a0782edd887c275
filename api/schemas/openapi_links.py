"""Links of the OpenAPI document: from the response of one call to the next call, with the values that it takes over.

They are for readers of the document, and for tests that walk from call to call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_ENTITY = "/v1/entities/{kind}/{id}"
_MODEL = "/v1/models/{name}"
_SPLIT = f"{_MODEL}/split"
_LISTS = "/v1/recommendations"

_KIND, _ID, _NAME = "$request.path.kind", "$request.path.id", "$request.path.name"
_NEXT = "$response.body#/next"
_NEWEST = "$response.body#/registered/0/version"


@dataclass(frozen=True)
class OpenApiLink:
    """Link from the successful response of one call, `METHOD PATH`, to another call, whose parameters and body are
    runtime expressions."""

    source: str
    target: str
    description: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None

    def as_openapi(self, paths: Mapping[str, Any]) -> dict[str, Any]:
        """Return the Link Object of the document with these paths."""
        target = _operation(paths, self.target)
        link: dict[str, Any] = {"operationId": target["operationId"], "description": self.description}
        if self.parameters:
            link["parameters"] = dict(self.parameters)
        return link if self.body is None else {**link, "requestBody": self.body}


_OF_ENTITY = {"kind": _KIND, "id": _ID}
_OF_MODEL = {"name": _NAME}

LINKS: Mapping[str, OpenApiLink] = {
    "ReadEntity": OpenApiLink(f"put {_ENTITY}", f"get {_ENTITY}", "what is stored now", _OF_ENTITY),
    "EraseEntity": OpenApiLink(f"put {_ENTITY}", f"delete {_ENTITY}", "erase it again", _OF_ENTITY),
    "ListForEntity": OpenApiLink(
        f"put {_ENTITY}", f"post {_LISTS}", "a list for it", body={"entity": {"kind": _KIND, "id": _ID}}
    ),
    "EntityOfEvent": OpenApiLink(
        "post /v1/events",
        f"get {_ENTITY}",
        "the entity of the first event",
        {"kind": "$request.body#/events/0/kind", "id": "$request.body#/events/0/entity"},
    ),
    "NextItems": OpenApiLink(f"post {_LISTS}", f"post {_LISTS}", "the items that follow", body={"cursor": _NEXT}),
    "ScoreItem": OpenApiLink(
        f"post {_LISTS}",
        "post /v1/score",
        "the score of the best item",
        body={"model": "$response.body#/model/name", "items": ["$response.body#/items/0/item"]},
    ),
    "AnswerQuestion": OpenApiLink(
        "get /v1/onboarding",
        f"post {_LISTS}",
        "a list from the answer to the first question",
        body={"model": "$response.body#/model/name", "events": [{"item": "$response.body#/items/0/item"}]},
    ),
    "ReadModel": OpenApiLink(
        "get /v1/models", f"get {_MODEL}", "its versions", {"name": "$response.body#/items/0/name"}
    ),
    "Promote": OpenApiLink(
        f"get {_MODEL}", f"post {_MODEL}/promote", "make the newest version live", _OF_MODEL, {"version": _NEWEST}
    ),
    "Rollback": OpenApiLink(f"post {_MODEL}/promote", f"post {_MODEL}/rollback", "take it back", _OF_MODEL),
    "RollbackRetired": OpenApiLink(f"post {_MODEL}/retire", f"post {_MODEL}/rollback", "bring it back", _OF_MODEL),
    "DeleteRetired": OpenApiLink(f"post {_MODEL}/retire", f"delete {_MODEL}", "delete it with its files", _OF_MODEL),
    "Restore": OpenApiLink(
        f"post {_MODEL}/versions/{{version}}/archive",
        f"post {_MODEL}/versions/{{version}}/restore",
        "bring it back",
        {"name": _NAME, "version": "$response.body#/version"},
    ),
    "StartSplit": OpenApiLink(
        f"get {_MODEL}",
        f"put {_SPLIT}",
        "let the newest version answer",
        _OF_MODEL,
        {"arms": [{"version": _NEWEST, "weight": 1}]},
    ),
    "EndSplit": OpenApiLink(f"put {_SPLIT}", f"delete {_SPLIT}", "the live version answers all again", _OF_MODEL),
    "ReadMetrics": OpenApiLink(
        "get /v1/runs", "get /v1/runs/{id}/metrics", "figures of the newest run", {"id": "$response.body#/items/0/id"}
    ),
    **{
        f"Next{noun.capitalize()}": OpenApiLink(
            f"get /v1/{noun}", f"get /v1/{noun}", "the page that follows", {"cursor": _NEXT}
        )
        for noun in ("runs", "evaluations", "adaptations")
    },
}


def add_links(paths: dict[str, Any]) -> None:
    """Add the links to the paths of a document."""
    for name, link in LINKS.items():
        _operation(paths, link.source)["responses"]["200"].setdefault("links", {})[name] = link.as_openapi(paths)


def _operation(paths: Mapping[str, Any], call: str) -> dict[str, Any]:
    method, path = call.split(" ")
    operation: dict[str, Any] = paths[path][method]
    return operation
