"""`/v1/models/{name}/split`: versions of a model that answer side by side."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, ModelPath
from api.handlers.response_encoding import json_response
from api.http.authorization import actor, record_audit, require
from api.http.guarded_route import GuardedRoute
from recsys_meta.core.errors import ConflictError
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import traffic_splits as splits
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit
from recsys_meta.wire.model_responses import SplitDocument
from recsys_meta.wire.requests import SplitBody

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["models"], responses={200: {"model": SplitDocument}})


@router.get("/models/{name}/split", dependencies=[require("read")])
async def get_split(name: ModelPath, container: ContainerDependency) -> Response:
    """Show which versions of a model answer side by side, and every change of that."""
    return json_response(await container.database.read(lambda s: _document(s, name)))


@router.put("/models/{name}/split", dependencies=[require("admin")])
async def put_split(
    name: ModelPath, body: SplitBody, request: Request, container: ContainerDependency, force: bool = False
) -> Response:
    """Let versions answer side by side, after each was loaded to see that it can be.

    Which one answers for an entity follows from a hash of the salt and the entity's id: always the same one, in every
    process, as long as the split stands. `variant` of an answer names the arm. Anonymous newcomers, lists of several
    entities and calls that name a version are answered as without a split. Whatever goes live ends it. Refused (409),
    unless forced, where the stored evaluation of an arm says that it loses to the simplest baseline.
    """
    arms = [await _arm(container, name, share.version, share.weight, share.label) for share in body.arms]

    def write(session: Session) -> dict[str, Any]:
        split = splits.start_split(session, name, arms, salt=body.salt, actor=actor(request), force=force)
        record_audit(request, session, "split", f"{name} split {split.sequence}")
        return _document(session, name)

    return await _respond_and_refresh(container, await container.database.write(write))


@router.delete("/models/{name}/split", dependencies=[require("admin")])
async def delete_split(name: ModelPath, request: Request, container: ContainerDependency) -> Response:
    """End the split: the live version answers all again. Harmless where there is none."""

    def write(session: Session) -> dict[str, Any]:
        splits.stop_split(session, name, actor=actor(request))
        record_audit(request, session, "split off", name)
        return _document(session, name)

    return await _respond_and_refresh(container, await container.database.write(write))


async def _arm(container: AppContainer, name: str, version: str, weight: float, label: str | None) -> SplitArm:
    """An arm that can be loaded and is for the kind of entity that the live version is for. Raises ConflictError."""
    model, live = await container.registry.check(name, version), container.registry.live.get(name)
    if live is not None and live.kind != model.kind:
        raise ConflictError(f"{name}@{model.version} is for newcomers of kind '{model.kind}', not '{live.kind}'")
    return SplitArm(label or model.version, model.version, weight)


async def _respond_and_refresh(container: AppContainer, document: dict[str, Any]) -> Response:
    # The change is committed; where the database went away since, the next poll takes it into service.
    with suppress(StoreUnavailable):
        await container.refresh()
    return json_response(document)


def _document(session: Session, name: str) -> dict[str, Any]:
    detail = splits.split_detail(session, name)
    return {
        "model": detail.name,
        "live": detail.live,
        "split": None if detail.split is None else _change(detail.split),
        "history": [_change(change) for change in detail.history],
    }


def _change(split: TrafficSplit) -> dict[str, Any]:
    return {"arms": [vars(arm) for arm in split.arms], "salt": split.salt, "actor": split.actor, "at": split.at}
