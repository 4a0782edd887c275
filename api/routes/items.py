"""`/v1/items`: the items that lists may hold, and what is like one of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session

from api.handlers.dependencies import ContainerDependency, Cursor, Limit, request_id
from api.handlers.item_storage import item_document, item_kind, new_item, store_batch
from api.handlers.response_encoding import json_response
from api.http.authorization import record_audit, require
from api.http.guarded_route import GuardedRoute
from api.http.problem_details import ProblemError, unavailable
from api.inference.loaded_model import LoadedModel
from api.inference.long_tasks import WorkerBusy
from recsys_meta.core.errors import NotFoundError, RecsysMetaError
from recsys_meta.core.types import FIRST
from recsys_meta.inference.insight.shared_features import shared_features
from recsys_meta.inference.ranking.filters import FeatureFilter
from recsys_meta.inference.requests.entity import EntityRequest
from recsys_meta.inference.requests.feature_check import check_features
from recsys_meta.store.items import items
from recsys_meta.wire.field_types import ItemKey, Kind, ModelRef, TimeText
from recsys_meta.wire.item_responses import ItemDeletion, ItemDocument, ItemPage, ItemReceipt, SimilarItems
from recsys_meta.wire.requests import ItemAvailability, ItemBatch, ItemBody

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["items"])

ItemPath = Annotated[ItemKey, Path(description="the item's id; slashes may stand in it")]
KindQuery = Annotated[Kind | None, Query(description="kind of newcomer; needed where several kinds are served")]
FilterQuery = Annotated[
    list[Annotated[str, Query(max_length=1200)]], Query(max_length=20, description="FEATURE=VALUE; all must hold")
]


@router.get("/items", responses={200: {"model": ItemPage}}, dependencies=[require("read")])
async def list_items(
    container: ContainerDependency,
    kind: KindQuery = None,
    available: bool | None = None,
    since: Annotated[TimeText | None, Query(description="only those that were changed then or later")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Items that are stored, those that were changed last first. Items that models were trained on are stored only
    where somebody sent or hid them."""
    kind, registry = item_kind(container.registry, kind), container.registry
    at = None if since is None else datetime.fromtimestamp(since, UTC)

    def read(session: Session) -> dict[str, Any]:
        page = items.page_items(session, kind, available=available, since=at, limit=limit, cursor=cursor)
        return {"items": [item_document(row, registry) for row in page.items], "next": page.next}

    return json_response(await container.database.read(read))


@router.post("/items", responses={200: {"model": ItemReceipt}}, dependencies=[require("write")])
async def post_items(body: ItemBatch, request: Request, container: ContainerDependency) -> Response:
    """Store items, at most 1000 a call. What is sent replaces what was stored of each; sending it again changes
    nothing. A wrong item is refused with its reason and the others are stored.

    Every process of every server lists them within two seconds.
    """
    kind = item_kind(container.registry, body.kind)
    receipt = await store_batch(container, body, kind)
    container.items.wake()
    return json_response({"request_id": request_id(request), **receipt})


@router.get("/items/{id:path}/similar", responses={200: {"model": SimilarItems}}, dependencies=[require("read")])
async def get_similar_items(
    id: ItemPath,
    request: Request,
    container: ContainerDependency,
    model: Annotated[ModelRef | None, Query(description="name, or name@version")] = None,
    kind: KindQuery = None,
    n: Annotated[int, Query(ge=1, le=100)] = 10,
    filter: FilterQuery = [],  # noqa: B006  FastAPI copies it
) -> Response:
    """The items that newcomers like as they like this one, whatever is popular; items that lists may not hold are left
    out. New items are placed by their features and first events."""
    target = await container.registry.resolve(model, kind)
    if target.recommender.bundle.schema.home is not None or target.sample is None:
        raise ProblemError(422, f"Model '{target.name}' has no items that all its newcomers share, or it fails")
    item = target.recommender.catalog.ids.get(id)
    if item is None:
        raise NotFoundError(f"model '{target.name}' has no such item")
    try:
        rows = await container.long_tasks.run(_similar, target, item, n, _filters(filter))
    except RecsysMetaError:
        raise
    except WorkerBusy:
        raise unavailable("Too many ask what is similar") from None
    model_document = {"name": target.name, "version": target.version}
    return json_response({"request_id": request_id(request), "model": model_document, "item": id, "items": rows})


async def _not_allowed(request: Request) -> Response:
    raise HTTPException(405, headers={"allow": "GET"})


# Else these would be calls about an item of that id, which none can have.
router.add_api_route(
    "/items/{id:path}/similar",
    _not_allowed,
    methods=["POST", "PUT", "PATCH", "DELETE"],
    include_in_schema=False,
    route_class_override=APIRoute,
)


@router.get("/items/{id:path}", responses={200: {"model": ItemDocument}}, dependencies=[require("read")])
async def get_item(id: ItemPath, container: ContainerDependency, kind: KindQuery = None) -> Response:
    """Show what is stored of an item."""
    kind, registry = item_kind(container.registry, kind), container.registry
    return json_response(await container.database.read(lambda s: item_document(items.find_item(s, kind, id), registry)))


@router.put("/items/{id:path}", responses={200: {"model": ItemDocument}}, dependencies=[require("write")])
async def put_item(
    id: ItemPath, body: ItemBody, request: Request, container: ContainerDependency, kind: KindQuery = None
) -> Response:
    """Store an item; what is sent replaces what was stored. A feature that no model of the kind has, or none of them
    can read, is refused. Without features an item is ranked by the popularity of new items and by its first events.

    Every process of every server lists it within two seconds.
    """
    kind, registry = item_kind(container.registry, kind), container.registry
    check_features(registry.bundles_of(kind), "item", body.features)

    def write(session: Session) -> dict[str, Any]:
        items.save_items(session, kind, [new_item(id, body)])
        return item_document(items.find_item(session, kind, id), registry)

    document = await container.database.write(write)
    container.items.wake()
    return json_response(document)


@router.patch("/items/{id:path}", responses={200: {"model": ItemDocument}}, dependencies=[require("write")])
async def patch_item(
    id: ItemPath, body: ItemAvailability, request: Request, container: ContainerDependency, kind: KindQuery = None
) -> Response:
    """Say whether lists may hold an item, be it stored or one that a model was trained on."""
    kind, registry = item_kind(container.registry, kind), container.registry
    trained = {id for m in registry.of_kind(kind) if id in m.recommender.own_items}

    def write(session: Session) -> dict[str, Any]:
        items.switch_items(session, kind, [id], body.available, trained)
        record_audit(request, session, "show item" if body.available else "hide item", f"{kind} {id}"[:200])
        return item_document(items.find_item(session, kind, id), registry)

    document = await container.database.write(write)
    container.items.wake()
    return json_response(document)


@router.delete("/items/{id:path}", responses={200: {"model": ItemDeletion}}, dependencies=[require("write")])
async def delete_item(
    id: ItemPath, request: Request, container: ContainerDependency, kind: KindQuery = None
) -> Response:
    """Delete what is stored of an item: models that were not trained on it forget it, the others list it. Asking again
    is harmless. Events stay: they are the newcomers'."""
    kind = item_kind(container.registry, kind)

    def write(session: Session) -> bool:
        is_deleted = bool(items.delete_items(session, kind, [id]))
        if is_deleted:
            record_audit(request, session, "delete item", f"{kind} {id}"[:200])
        return is_deleted

    is_deleted = await container.database.write(write)
    container.items.wake()
    return json_response({"kind": kind, "id": id, "deleted": is_deleted})


def _filters(texts: list[str]) -> dict[str, FeatureFilter]:
    """Read conditions FEATURE=VALUE. Raises ProblemError for another form."""
    values: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ProblemError(422, f"filter: '{text[:100]}' is not of the form FEATURE=VALUE")
        values[name] = (*values.get(name, ()), value)
    return {name: FeatureFilter(all=some) for name, some in values.items()}


def _similar(model: LoadedModel, item: int, n: int, filters: dict[str, FeatureFilter]) -> list[dict[str, Any]]:
    recommender = model.recommender
    nobody = recommender.read_support(EntityRequest())
    mask = recommender.lists.filter_mask(filters, nobody) if filters else None
    similar = recommender.similar_items(item, n, mask)
    return [
        {
            "rank": rank,
            "item": recommender.catalog.item_name(one),
            "title": recommender.catalog.titles.get(recommender.catalog.item_name(one)),
            "similarity": cosine,
            "shared": shared_features(recommender, item, one),
        }
        for rank, (cosine, one) in enumerate(similar, 1)
        if one >= FIRST
    ]
