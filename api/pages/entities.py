"""`/ui/entities`: what is stored of one entity, and what its events moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api.handlers.dependencies import Word
from api.handlers.entity_document import entity_document
from api.http.problem_details import ProblemError, unavailable
from api.inference.entity_context import find_entity_context, merge_profile, read_support
from api.inference.loaded_model import LoadedModel
from api.inference.long_tasks import WorkerBusy
from api.pages.page_context import AdminContext, PageContext, ReadContext, read_fields
from api.pages.page_route import PageRoute
from api.routes.entities import delete_entity
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.inference.insight.diagnostics import AdaptationDiagnostics, diagnose
from recsys_meta.inference.insight.list_comparison import ListComparison, compare_lists
from recsys_meta.inference.insight.state_change import StateChange, state_changes
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.store.entities import adaptations
from recsys_meta.store.entities.outcomes import entity_outcomes
from recsys_meta.wire.requests import EntityInput

router = APIRouter(route_class=PageRoute, prefix="/ui/entities", include_in_schema=False)

_MOST_EVENTS = 100
_MOST_ROWS = 20
_LIST = 10
EntityWord = Annotated[str, Query(max_length=1000)]


@dataclass(frozen=True)
class EntityEffect:
    """Effect of an entity's events on its list, by a model; `problem` says why there is none."""

    model: LoadedModel | None = None
    comparison: ListComparison | None = None
    state: Sequence[StateChange] = ()
    diagnostics: AdaptationDiagnostics | None = None
    problem: str | None = None

    @property
    def titles(self) -> Mapping[str, str]:
        """Titles of the model's items."""
        return {} if self.model is None else self.model.recommender.catalog.titles


@router.get("")
async def show_entity(page: ReadContext, kind: Word = None, id: EntityWord = "", model: Word = None) -> Response:
    """Look up an entity by kind and id: support, state before and after, both lists and why they differ."""
    kinds = sorted({one.kind for one in page.container.registry.live.values()})
    names = sorted(page.container.registry.live)
    common: dict[str, Any] = {"kinds": kinds, "names": names, "kind": kind or "", "id": id, "chosen": model or ""}
    if not id:
        return page.render("entity_search.html.jinja", **common)
    entity = read_fields(EntityInput, {"kind": kind or (kinds[0] if kinds else None), "id": id})
    values = await page.read(lambda s: _read(s, entity.kind or "", id))
    if values["document"] is None:
        return page.render("entity_search.html.jinja", 404, is_unknown=True, **common)
    effect = await _effect(page, entity, model or None)
    return page.render("entity.html.jinja", **(common | {"kind": entity.kind}), effect=effect, **values)


@router.post("/erase")
async def erase(page: AdminContext) -> Response:
    """Erase an entity, as the API does; the id has to be given once more."""
    kind, id = page.form.get("kind", ""), page.form.get("id", "")
    if page.form.get("confirm", "") != id:
        raise ProblemError(422, "Nothing was erased: the id that was typed is another one")
    entity = read_fields(EntityInput, {"kind": kind, "id": id})
    response = await delete_entity(entity.kind or "", id, page.request, page.container)
    return page.render("erasure.html.jinja", receipt=page.read_json(response))


def _read(session: Session, kind: str, id: str) -> dict[str, Any]:
    try:
        document = entity_document(session, kind, id, _MOST_EVENTS)
    except ProblemError:
        document = None
    return {
        "document": document,
        "rows": adaptations.page_adaptations(session, kind=kind, entity=id, limit=_MOST_ROWS).items,
        "outcomes": entity_outcomes(session, kind, id, _MOST_ROWS),
    }


async def _effect(page: PageContext, entity: EntityInput, name: str | None) -> EntityEffect:
    """Adapt to the stored events of an entity; what keeps the model from that is said on the page."""
    container = page.container
    try:
        model = await container.registry.resolve(name, entity.kind, entity.id)
        if model.sample is None:
            raise unavailable(f"Model '{model.name}' cannot adapt; popularity answers meanwhile")
        context = await find_entity_context(container.profiles, model, entity)
        support = read_support(model, context, entity, ())
        if support.catalog is not None and not support.catalog.names:
            return EntityEffect(model, problem="Nothing is known yet that it could choose from.")
        request = merge_profile(model, context, {}, ())
        parts = await container.long_tasks.run(_compare, model.recommender, request, support)
        return EntityEffect(model, *parts)
    except ProblemError as problem:
        return EntityEffect(problem=problem.detail)
    except RecsysMetaError as error:
        return EntityEffect(problem=str(error))
    except WorkerBusy:
        return EntityEffect(problem="Too many wait for their lists now; open the page again.")


def _compare(
    recommender: Recommender, request: EntityRequest, support: EncodedEntity
) -> tuple[ListComparison, Sequence[StateChange], AdaptationDiagnostics]:
    comparison = compare_lists(recommender, request, ListRequest(_LIST), explain=True)
    (diagnostics,) = diagnose(recommender, [support])
    return comparison, state_changes(recommender, support), diagnostics
