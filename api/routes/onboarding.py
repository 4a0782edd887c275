"""`GET /v1/onboarding`: items to ask an entity about."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from api.handlers.dependencies import ContainerDependency
from api.handlers.request_lifecycle import open_request
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from api.http.guarded_route import GuardedRoute
from api.http.problem_details import unavailable
from api.inference.cache_writer import MEMORY_TTL_S
from api.inference.entity_context import read_support
from api.inference.long_tasks import WorkerBusy
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.inference.insight.active_elicitation import most_informative_items
from recsys_meta.wire.field_types import EntityId, Kind, ModelRef
from recsys_meta.wire.requests import EntityInput
from recsys_meta.wire.responses import OnboardingResponse

router = APIRouter(route_class=GuardedRoute, prefix="/v1", tags=["newcomers"], dependencies=[require("read")])

UNITS = {"ranking": "nats", "click": "nats", "rating": "squared label units"}


@router.get("/onboarding", responses={200: {"model": OnboardingResponse}})
async def onboarding(
    request: Request,
    container: ContainerDependency,
    model: Annotated[ModelRef | None, Query(description="name, or name@version")] = None,
    kind: Annotated[Kind | None, Query(description="kind of newcomer")] = None,
    id: Annotated[EntityId | None, Query(description="a stored newcomer, whose events are taken as answers")] = None,
    n: Annotated[int, Query(ge=1, le=100)] = 10,
    strategy: Annotated[
        Literal["information", "evidence"],
        Query(description="expected information for the model, or MeLU's evidence candidates"),
    ] = "information",
) -> Response:
    """The items whose answers would tell the model most about a newcomer, one after another: each for what it adds to
    those before it."""
    call = await open_request(model, EntityInput(kind=kind, id=id), request, container)
    mark = call.entity_context.mark
    key = f"ask:{call.model.name}:{call.model.mark}:{mark}:{call.entity_context.owner}:{n}:{strategy}"
    rest = None if mark is None else container.memory.get(key)
    if rest is None:
        known = read_support(call.model, call.entity_context, EntityInput(kind=kind, id=id), ())
        try:
            questions = await container.long_tasks.run(
                most_informative_items, call.model.recommender, known, n, strategy
            )
        except RecsysMetaError:
            raise
        except WorkerBusy:
            raise unavailable("Too many ask what to ask") from None
        except Exception:  # a model that fails has nothing to ask
            container.log.error("onboarding failed", model=call.model.name, version=call.model.version, exc_info=True)
            raise unavailable(f"Model '{call.model.name}' cannot say what to ask") from None
        objective = call.model.recommender.bundle.schema.objective
        items: list[dict[str, Any]] = [
            {"rank": rank, "item": one.item, "title": one.title, "value": one.value, "chance": one.probability}
            for rank, one in enumerate(questions, 1)
        ]
        unit = UNITS[objective] if strategy == "information" else "share of the most"
        rest = orjson.dumps({"unit": unit, "support_size": known.support_size, "items": items})
        if mark is not None:
            container.memory.set(key, rest, MEMORY_TTL_S, call.entity_context.owner)
    missing = container.degraded_dependencies(
        profile=call.entity_context.entity is None or call.entity_context.profile is not None
    )
    return json_response(
        {
            "request_id": call.request_id,
            "model": {"name": call.model.name, "version": call.model.version},
            "variant": call.model.variant,
            "degraded": bool(missing),
            "missing": missing,
            "strategy": strategy,
            **orjson.loads(rest),
        }
    )
