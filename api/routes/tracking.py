"""`/v1/runs`, `/v1/evaluations` and `/v1/adaptations`: training runs, their evaluations, and adaptations served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.handlers.dependencies import ContainerDependency, Cursor, Limit, Word
from api.handlers.response_encoding import json_response
from api.http.authorization import require
from api.http.guarded_route import GuardedRoute
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.keyset_pagination import KeysetPage, after_cursor, decode_cursor, paginate
from recsys_meta.store.entities import adaptations
from recsys_meta.store.tracking import evaluations, runs
from recsys_meta.store.tracking.runs import Status
from recsys_meta.store.tracking.tables import MetricRecord
from recsys_meta.wire.field_types import ServedBy
from recsys_meta.wire.service_responses import RowPage

router = APIRouter(
    route_class=GuardedRoute,
    prefix="/v1",
    tags=["results"],
    dependencies=[require("read")],
    responses={200: {"model": RowPage}},
)
RunPath = Annotated[str, Path(max_length=100)]


@router.get("/runs")
async def list_runs(
    container: ContainerDependency,
    status: Annotated[Status | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Training runs with the newest figure of each key, newest first."""

    def read(session: Session) -> dict[str, Any]:
        page = runs.page_runs(session, status=status, limit=limit, cursor=cursor)
        latest = runs.latest_metrics(session, [run.id for run in page.items])
        return {"items": [{**run.as_dict(), "metrics": latest[run.id]} for run in page.items], "next": page.next}

    return json_response(await container.database.read(read))


@router.get("/runs/{id}/metrics")
async def list_metrics(
    container: ContainerDependency, id: RunPath, key: Word = None, limit: Limit = 500, cursor: Cursor = None
) -> Response:
    """Figures of a run by key and step."""
    return json_response(await container.database.read(lambda s: _page(_metrics(s, id, key, limit, cursor))))


@router.get("/evaluations")
async def list_evaluations(
    container: ContainerDependency,
    dataset: Word = None,
    scenario: Word = None,
    method: Word = None,
    model: Word = None,
    metric: Word = None,
    run: Word = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Points of cold-start curves, newest first."""
    filters = {"dataset": dataset, "scenario": scenario, "method": method, "model": model, "metric": metric, "run": run}
    return json_response(
        await container.database.read(
            lambda s: _page(evaluations.page_evaluations(s, **filters, limit=limit, cursor=cursor))
        )
    )


@router.get("/adaptations")
async def list_adaptations(
    container: ContainerDependency,
    kind: Word = None,
    entity: Word = None,
    model_version: Word = None,
    served_by: Annotated[ServedBy | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """List what adapting did, one row for each answer, newest first. Anonymous newcomers have an empty entity."""
    return json_response(
        await container.database.read(
            lambda s: _page(
                adaptations.page_adaptations(
                    s,
                    kind=kind,
                    entity=entity,
                    model_version=model_version,
                    served_by=served_by,
                    limit=limit,
                    cursor=cursor,
                )
            )
        )
    )


def _page(page: KeysetPage[Any]) -> dict[str, Any]:
    rows: Sequence[Base] = page.items
    return {"items": [row.as_dict() for row in rows], "next": page.next}


def _metrics(session: Session, run: str, key: str | None, limit: int, cursor: str | None) -> KeysetPage[MetricRecord]:
    runs.get_run(session, run)
    columns = MetricRecord.key, MetricRecord.step
    query = select(MetricRecord).where(MetricRecord.run == run).order_by(*columns).limit(limit + 1)
    if key is not None:
        query = query.where(MetricRecord.key == key)
    if cursor is not None:
        query = query.where(after_cursor(columns, decode_cursor("metrics", cursor, (str, int)), descending=False))
    return paginate("metrics", session.scalars(query).all(), limit, ("key", "step"))
