"""`/v1/models`: the model registry."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, ModelPath
from api.handlers.model_summary import list_summaries, model_summary
from api.handlers.response_encoding import json_response
from api.http.authorization import actor, record_audit, require
from api.http.guarded_route import GuardedRoute
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.tables import AliasChangeRecord
from recsys_meta.wire.model_responses import AliasChange, ModelDocument, ModelList
from recsys_meta.wire.requests import PromotionRequest, RollbackRequest

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["models"])


@router.get("/models", responses={200: {"model": ModelList}}, dependencies=[require("read")])
async def list_models(container: ContainerDependency) -> Response:
    """Every model, the version that is live and the one that this process serves."""
    items, is_current = await list_summaries(container)
    return json_response({"items": items, "degraded": not is_current})


@router.get("/models/{name}", responses={200: {"model": ModelDocument}}, dependencies=[require("read")])
async def get_model(name: ModelPath, container: ContainerDependency) -> Response:
    """A model with its versions and the history of what was live."""
    detail = await container.database.read(lambda s: registry.model_detail(s, name))
    versions = [
        {"version": v.version, "run": v.run, "metrics": v.metrics, "created": v.created, "archived": v.archived}
        for v in detail.versions
        if v.deleted is None
    ]
    created = min((v.created for v in detail.versions), default=None)
    updated = detail.history[0].at if detail.history else None
    summary = model_summary(container, name, detail.live, len(versions), created, updated)
    return json_response({**summary, "registered": versions, "history": [_change_document(m) for m in detail.history]})


@router.post("/models/{name}/promote", responses={200: {"model": AliasChange}}, dependencies=[require("admin")])
async def promote(
    name: ModelPath,
    body: PromotionRequest,
    request: Request,
    container: ContainerDependency,
    force: bool = False,
    end_split: bool = False,
) -> Response:
    """Make a registered version live, after it was loaded and tried.

    This process serves it at once, others within about a second; no request is lost. Refused (409), unless forced,
    where its stored evaluation says that it loses to the simplest baseline, or it has none; and, unless `end_split`,
    where it would end a split of other versions.
    """
    row = await container.registry.check(name, body.version)

    def promote_row(session: Session) -> AliasChangeRecord:
        return registry.promote_version(
            session, name, row.version, actor=actor(request), force=force, end_split=end_split
        )

    return await _change_live(request, container, "promote", promote_row)


@router.post("/models/{name}/rollback", responses={200: {"model": AliasChange}}, dependencies=[require("admin")])
async def rollback(
    name: ModelPath, request: Request, container: ContainerDependency, body: RollbackRequest | None = None
) -> Response:
    """Make live what was live before, after it was tried; again, and it goes back one further. A split ends.

    Of a retired model the last live version comes back.
    """
    await container.registry.check(name, await container.database.read(lambda s: registry.rollback_target(s, name)))
    return await _change_live(
        request, container, "rollback", lambda s: registry.rollback_version(s, name, actor=actor(request))
    )


async def _change_live(
    request: Request,
    container: AppContainer,
    action: Literal["promote", "rollback"],
    change_alias: Callable[[Session], AliasChangeRecord],
) -> Response:
    """Promote or roll back, and record it in the audit log: a version that was live already leaves no other row."""

    def write(session: Session) -> dict[str, Any]:
        change = change_alias(session)
        record_audit(request, session, action, f"{change.model}@{change.version}")
        return _change_document(change)

    document = await container.database.write(write)
    # The change is committed; where the database went away since, the next poll takes it into service.
    with suppress(StoreUnavailable):
        await container.refresh()
    return json_response(document)


def _change_document(change: AliasChangeRecord) -> dict[str, Any]:
    return {k: getattr(change, k) for k in ("model", "version", "previous", "action", "actor", "at")}
