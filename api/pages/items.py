"""`/ui/items`: items that are stored, how fresh ones fare, and which lists may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api.handlers.dependencies import Cursor, Word
from api.handlers.item_storage import item_document, item_kind
from api.inference.model_registry import ModelRegistry
from api.pages.page_context import ReadContext, WriteContext, read_fields
from api.pages.page_route import PageRoute
from api.routes.items import patch_item
from recsys_meta.store.items import items
from recsys_meta.store.items.item_events import item_fate
from recsys_meta.store.items.tables import ItemRecord
from recsys_meta.wire.requests import ItemAvailability, ItemInput

router = APIRouter(route_class=PageRoute, prefix="/ui/items", include_in_schema=False)

_PAGE = 50
Shown = Annotated[Literal["", "shown", "hidden"], Query()]


@router.get("")
async def show_items(page: ReadContext, kind: Word = None, shown: Shown = "", cursor: Cursor = None) -> Response:
    """List stored items, those that were changed last first; of those that no model was trained on, how they fare."""
    registry = page.container.registry
    kinds = sorted({one.kind for one in registry.live.values() if one.recommender.bundle.schema.home is None})
    wanted_kind = kind or (kinds[0] if kinds else "")
    if not wanted_kind:
        return page.render("items.html.jinja", kinds=kinds, chosen="", shown=shown, rows=[], count=0, next=None)
    wanted_kind = item_kind(registry, wanted_kind)
    available = {"shown": True, "hidden": False}.get(shown)

    def read(session: Session) -> dict[str, Any]:
        rows_page = items.page_items(session, wanted_kind, available=available, limit=_PAGE, cursor=cursor)
        rows = [_row(session, row, registry) for row in rows_page.items]
        return {"rows": rows, "next": rows_page.next, "count": items.count_items(session, wanted_kind)}

    return page.render("items.html.jinja", kinds=kinds, chosen=wanted_kind, shown=shown, **await page.read(read))


@router.post("/availability")
async def set_availability(page: WriteContext) -> Response:
    """Hide an item or show it again, as the API does."""
    form = page.form
    kind, available = form.get("kind", ""), form.get("available") == "yes"
    id = read_fields(ItemInput, {"id": form.get("id", "")}).id
    body = ItemAvailability(available=available)
    await patch_item(id, body, page.request, page.container, item_kind(page.container.registry, kind))
    return page.redirect("items", kind=kind, shown=form.get("shown", ""))


def _row(session: Session, row: ItemRecord, registry: ModelRegistry) -> dict[str, Any]:
    document = item_document(row, registry)
    if document["trained_by"]:
        return {**document, "fate": None, "places": []}
    return {**document, "fate": item_fate(session, row.kind, row.external_id), "places": _places(row, registry)}


def _places(row: ItemRecord, registry: ModelRegistry) -> list[str]:
    """Say by what each model placed a new item."""
    places = []
    for model in registry.of_kind(row.kind):
        id = model.recommender.catalog.new_ids.get(row.external_id)
        basis = None if id is None else model.recommender.placed_by(id)
        if basis is not None:
            places.append(f"{basis[0]}, {basis[1]} first likes" if basis[1] else basis[0])
    return places
