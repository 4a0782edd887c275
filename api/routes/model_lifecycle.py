"""`/v1/models`: a model out of service, its versions archived and deleted, and the default of a kind.

The rules are those of `recsys-meta models`, in `recsys_meta.store.model_registry.lifecycle`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from sqlalchemy.orm import Session

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, ModelPath
from api.handlers.response_encoding import json_response
from api.http.authorization import actor, record_audit, require
from api.http.guarded_route import GuardedRoute
from recsys_meta.core.errors import ConflictError
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.model_registry import lifecycle, registry
from recsys_meta.store.model_registry.bundle_files import remove_bundles
from recsys_meta.wire.field_types import VersionRef
from recsys_meta.wire.model_responses import DefaultModel, ModelDeletion, ModelRetirement, VersionState
from recsys_meta.wire.requests import EmptyRequest

router = APIRouter(route_class=GuardedRoute, prefix="/v1/models/{name}", tags=["models"])
_VERSION = "/versions/{version}"

VersionPath = Annotated[VersionRef, Path(description="a version, or the start of one that no other shares")]


@router.post("/retire", responses={200: {"model": ModelRetirement}}, dependencies=[require("admin")])
async def retire(
    name: ModelPath, request: Request, container: ContainerDependency, body: EmptyRequest | None = None
) -> Response:
    """Take a model out of service: no version of it answers until one is promoted, or it is rolled back.

    Its split ends, and it is no default any more. Harmless where no version is live.
    """

    def write(session: Session) -> dict[str, Any]:
        change = lifecycle.retire_model(session, name, actor=actor(request))
        record_audit(request, session, "retire", name)
        return {"model": name, "version": None if change is None else change.version}

    return await _respond_and_refresh(container, await container.database.write(write))


@router.post("/default", responses={200: {"model": DefaultModel}}, dependencies=[require("admin")])
async def set_default(
    name: ModelPath, request: Request, container: ContainerDependency, body: EmptyRequest | None = None
) -> Response:
    """Let a live model answer for its kind of newcomer where a request names none."""
    await container.database.read(lambda s: registry.resolve_version(s, name))
    await container.refresh()  # it may have gone live since the last poll
    model = container.registry.live.get(name)
    if model is None:
        raise ConflictError(f"model '{name}' cannot be loaded, so it is no default; the server's log says why")

    def write(session: Session) -> dict[str, Any]:
        registry.set_default_model(session, model.kind, name, actor=actor(request))
        record_audit(request, session, "default", f"{name} for {model.kind}")
        return {"kind": model.kind, "model": name}

    return await _respond_and_refresh(container, await container.database.write(write))


@router.post(f"{_VERSION}/archive", responses={200: {"model": VersionState}}, dependencies=[require("admin")])
async def archive(
    name: ModelPath,
    version: VersionPath,
    request: Request,
    container: ContainerDependency,
    body: EmptyRequest | None = None,
) -> Response:
    """Archive a version: nobody can use it until it is restored; its files stay. One in service is refused (409)."""
    return await _archive(name, version, request, container, restore=False)


@router.post(f"{_VERSION}/restore", responses={200: {"model": VersionState}}, dependencies=[require("admin")])
async def restore(
    name: ModelPath,
    version: VersionPath,
    request: Request,
    container: ContainerDependency,
    body: EmptyRequest | None = None,
) -> Response:
    """Bring an archived version back, so that it can be promoted. One that was deleted is refused (409)."""
    return await _archive(name, version, request, container, restore=True)


@router.delete(_VERSION, responses={200: {"model": ModelDeletion}}, dependencies=[require("admin")])
async def delete_version(
    name: ModelPath, version: VersionPath, request: Request, container: ContainerDependency
) -> Response:
    """Delete the files of a version; it keeps its place in the history. What is in service is refused (409)."""

    def write(session: Session) -> tuple[str, list[str]]:
        row = lifecycle.delete_version(session, name, version)
        record_audit(request, session, "delete model", f"{name}@{row.version}")
        return row.version, [row.path]

    full, paths = await container.database.write(write)
    return json_response(await _deletion(container, name, full, paths))


@router.delete("", responses={200: {"model": ModelDeletion}}, dependencies=[require("admin")])
async def delete_model(name: ModelPath, request: Request, container: ContainerDependency) -> Response:
    """Delete a retired model with its files and its history. One that is live is refused (409)."""

    def write(session: Session) -> list[str]:
        paths = lifecycle.delete_model(session, name)
        record_audit(request, session, "delete model", name)
        return paths

    paths = await container.database.write(write)
    return await _respond_and_refresh(container, await _deletion(container, name, None, paths))


async def _archive(name: str, version: str, request: Request, container: AppContainer, *, restore: bool) -> Response:
    def write(session: Session) -> dict[str, Any]:
        row = lifecycle.archive_version(session, name, version, restore=restore)
        record_audit(request, session, "restore" if restore else "archive", f"{name}@{row.version}")
        return {"model": name, "version": row.version, "archived": row.archived}

    return json_response(await container.database.write(write))


async def _deletion(container: AppContainer, name: str, version: str | None, paths: list[str]) -> dict[str, Any]:
    removed = await asyncio.to_thread(remove_bundles, container.registry.folder, name, paths)
    return {"model": name, "version": version, "bundles": len(removed)}


async def _respond_and_refresh(container: AppContainer, document: dict[str, Any]) -> Response:
    # The change is committed; where the database went away since, the next poll takes it into service.
    with suppress(StoreUnavailable):
        await container.refresh()
    return json_response(document)
