"""`/v1/entities/{kind}/{id}`: stored data of an entity, and its erasure."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from api.container import AppContainer
from api.handlers.dependencies import ContainerDependency, IdPath, KindPath
from api.handlers.entity_document import entity_document
from api.handlers.response_encoding import json_response
from api.http.authorization import record_audit, require
from api.http.guarded_route import GuardedRoute
from api.http.problem_details import unavailable
from recsys_meta.inference.requests.feature_check import check_features
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import RedisCache
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.entities import entities
from recsys_meta.store.entities.adaptations import NewAdaptation
from recsys_meta.store.entities.impressions import NewImpression
from recsys_meta.store.entities.outcomes import NewOutcome
from recsys_meta.wire.entity_responses import DeletionReceipt, EntityDocument
from recsys_meta.wire.requests import EntityBody

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["entities"])

_RETRY_PAUSES_S = (0.1, 0.2, 0.4, 0.8)  # after failed attempts to erase from Redis, seconds
EventCount = Annotated[int, Query(ge=0, le=1000, description="newest events to show")]


@router.get("/entities/{kind}/{id:path}", responses={200: {"model": EntityDocument}}, dependencies=[require("read")])
async def get_entity(kind: KindPath, id: IdPath, container: ContainerDependency, events: EventCount = 100) -> Response:
    """Features, newest events and the figures of the last adaptation of an entity."""
    return json_response(await container.database.read(lambda s: entity_document(s, kind, id, events)))


@router.put("/entities/{kind}/{id:path}", responses={200: {"model": EntityDocument}}, dependencies=[require("write")])
async def put_entity(kind: KindPath, id: IdPath, body: EntityBody, container: ContainerDependency) -> Response:
    """Set the features of an entity; they replace those it had. A feature that no model of the kind has, or
    none of them can read, is refused."""
    check_features(container.registry.bundles_of(kind), "entity", body.features)

    def write(session: Session) -> dict[str, Any]:
        entities.upsert_entity(session, kind, id, body.features)
        return entity_document(session, kind, id, 100)

    document = await container.database.write(write)
    await container.profiles.invalidate([(kind, id)])
    return json_response(document)


@router.delete(
    "/entities/{kind}/{id:path}", responses={200: {"model": DeletionReceipt}}, dependencies=[require("write")]
)
async def delete_entity(kind: KindPath, id: IdPath, request: Request, container: ContainerDependency) -> Response:
    """Erase features, events, adaptations, lists that were shown and their outcomes, and adapted states of an entity,
    and answer a receipt.

    Asking again is harmless. 503 where the database or Redis could not be reached: ask again then.
    """
    container.writer.discard(
        lambda row: (
            isinstance(row, NewAdaptation | NewImpression | NewOutcome) and (row.kind, row.entity) == (kind, id)
        ),
        2.0,
    )

    def erase(session: Session) -> entities.ErasureReceipt:
        record_audit(request, session, "delete entity", entities.entity_digest(session, kind, id))
        return entities.erase_entity(session, kind, id)

    receipt = await container.database.write(erase)
    cached_keys = await _erase_from_caches(container, kind, id)
    # Once more: until the caches were emptied, a request may have read the entity and recorded an adaptation since.
    await container.database.write(lambda s: entities.erase_entity(s, kind, id))
    log_emptied = await container.database.truncate_wal()
    return json_response({**vars(receipt), "cached": cached_keys, "log_emptied": log_emptied})


async def _erase_from_caches(container: AppContainer, kind: str, entity: str) -> int:
    """Delete an entity from the caches; the number of keys. Raises Problem where Redis is away."""
    owner = owner_key(kind, entity)
    count = container.memory.delete_owned(owner)
    await container.profiles.invalidate([(kind, entity)])
    if container.redis is None:
        return count
    try:
        return count + await _delete_owned(container.redis, owner)
    except StoreUnavailable:
        raise unavailable(
            "The database has erased the entity, but Redis cannot be reached and may hold its adapted state; ask again"
        ) from None


async def _delete_owned(redis: RedisCache, owner: str) -> int:
    """Delete with retries: unlike a list, an erasure cannot do without Redis, so that it outlasts a short outage.
    Raises StoreUnavailable."""
    for pause in _RETRY_PAUSES_S:
        with suppress(StoreUnavailable):
            return await redis.delete_owned(owner)
        await asyncio.sleep(pause)
    return await redis.delete_owned(owner)
