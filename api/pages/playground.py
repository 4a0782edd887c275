"""`/ui/playground`: a newcomer made up by a visitor, whose list changes with every pick.

Nothing of it is stored: it has no id, and its lists are no impressions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response

from api.handlers.dependencies import parse_body
from api.handlers.list_request import to_list_request
from api.handlers.response_encoding import json_response
from api.http.problem_details import ProblemError, unavailable
from api.inference.entity_context import EntityContext, read_support, to_entity_request
from api.inference.loaded_model import LoadedModel
from api.inference.long_tasks import LongTaskQueue, WorkerBusy
from api.pages.page_context import PageContext, ReadContext
from api.pages.page_route import PageRoute
from api.pages.playground_documents import comparison_document, item_documents, model_document, question_documents
from recsys_meta.inference.insight.active_elicitation import most_informative_items
from recsys_meta.inference.insight.list_comparison import compare_lists
from recsys_meta.wire.field_types import ModelRef
from recsys_meta.wire.requests import AdaptRequest, EntityInput, RecommendationRequest

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/ui/playground")

MOST_MATCHES = 20
"""Items that a search answers."""

_QUESTIONS = 5
_WAIT_S = 2.0  # how long a request waits for its turn, seconds

Result = TypeVar("Result")
ModelQuery = Annotated[ModelRef | None, Query()]


@router.get("")
async def show_playground(page: ReadContext, model: ModelQuery = None) -> Response:
    """Show the page for a model; for the first one in service where none is named."""
    registry = page.container.registry
    live = list(registry.live.values())
    chosen = None
    if live:
        chosen = await registry.resolve(model, None) if model else registry.live[registry.defaults[live[0].kind]]
    return page.render("playground.html.jinja", models=live, chosen=chosen)


@router.get("/model")
async def describe_model(page: ReadContext, model: ModelQuery = None) -> Response:
    """Say what a visitor may pick and set for a model."""
    return json_response(await _run(page.container.previews, model_document, await _model(page, model)))


@router.get("/items")
async def search_items(
    page: ReadContext,
    model: ModelQuery = None,
    q: Annotated[str, Query(max_length=200)] = "",
    n: Annotated[int, Query(ge=1, le=MOST_MATCHES)] = 8,
) -> Response:
    """Find items by a part of their title, the most popular first."""
    chosen = await _model(page, model)
    items = await _run(page.container.previews, chosen.recommender.catalog.search, q, n)
    return json_response({"items": item_documents(chosen.recommender, items)})


@router.post("/lists")
async def show_lists(page: ReadContext) -> Response:
    """Answer the list of a made-up newcomer beside the un-adapted one. The body is that of `/v1/recommendations`."""
    body, _ = await parse_body(page.request, RecommendationRequest)
    chosen = await _made_up(page, body.model, body.entity)
    request = to_entity_request(chosen, body.entity.features, body.events)
    began = time.perf_counter()
    # Why takes one adaptation for each pick: lists do not wait for it.
    tasks = page.container.long_tasks if body.explain else page.container.previews
    compare = partial(compare_lists, explain=body.explain)
    both = await _run(tasks, compare, chosen.recommender, request, to_list_request(body))
    ms = round(1000 * (time.perf_counter() - began), 1)
    return json_response({**comparison_document(chosen.recommender, both), "ms": ms})


@router.post("/questions")
async def ask_questions(page: ReadContext) -> Response:
    """Answer what is most worth asking the made-up newcomer next. The body is that of `/v1/adapt`."""
    body, _ = await parse_body(page.request, AdaptRequest)
    chosen = await _made_up(page, body.model, body.entity)
    known = read_support(chosen, EntityContext(chosen.kind), body.entity, body.events)
    tasks = page.container.long_tasks
    questions = await _run(tasks, most_informative_items, chosen.recommender, known, _QUESTIONS)
    return json_response({"questions": question_documents(chosen.recommender, questions)})


async def _run(tasks: LongTaskQueue, work: Callable[..., Result], *arguments: Any) -> Result:
    """Run what may take long with a large catalogue. Raises ProblemError where too many ask."""
    try:
        return await tasks.run(work, *arguments, max_wait=_WAIT_S)
    except WorkerBusy:
        raise unavailable("Too many try it out at this moment") from None


async def _model(page: PageContext, name: str | None) -> LoadedModel:
    """Find a model that can adapt. Raises ProblemError."""
    model = await page.container.registry.resolve(name, None)
    if model.sample is None:
        raise unavailable(f"Model '{model.name}' fails; the server's log says why")
    return model


async def _made_up(page: PageContext, model: str | None, entity: EntityInput) -> LoadedModel:
    """Find the model of a newcomer that nothing is stored of. Raises ProblemError for one with an id."""
    if entity.id is not None:
        raise ProblemError(422, "The playground is for made-up newcomers, which have no id")
    return await _model(page, model)
