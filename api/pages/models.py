"""`/ui/models`: models, one model, and what an administrator does with its versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from api.handlers.dependencies import ModelPath, Word
from api.handlers.model_summary import list_summaries, model_summary
from api.pages.curve_charts import best_methods, best_values, curve_chart
from api.pages.gain_charts import gain_chart, hit_chart
from api.pages.page_context import AdminContext, ReadContext, read_fields
from api.pages.page_route import PageRoute
from api.routes import models as model_routes
from api.routes import traffic_splits as split_routes
from recsys_meta.store.entities.outcome_summary import (
    gain_by_support_size,
    online_quality,
    quality_by_day,
    summarize_outcomes,
)
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_results import split_results
from recsys_meta.store.model_registry.traffic_splits import split_detail
from recsys_meta.store.tracking.paired_tests import curve_tests
from recsys_meta.store.tracking.promotion_gate import check_promotion
from recsys_meta.store.tracking.segment_tables import segment_tables
from recsys_meta.store.tracking.version_curve import version_curve
from recsys_meta.wire.requests import PromotionRequest, SplitBody

router = APIRouter(route_class=PageRoute, prefix="/ui/models", include_in_schema=False)

_MOST_VERSIONS = 50
_MOST_CHANGES = 30
_MOST_ARMS = 6


@router.get("")
async def show_models(page: ReadContext) -> Response:
    """List the models."""
    summaries, is_current = await list_summaries(page.container)
    return page.render("models.html.jinja", models=summaries, is_current=is_current)


@router.get("/{name}")
async def show_model(
    name: ModelPath,
    page: ReadContext,
    version: Word = None,
    metric: Word = None,
) -> Response:
    """Show the curve of a version with its tests and groups of newcomers, how the model does online, its versions,
    splits and history."""
    values = await page.read(lambda s: _read(s, name, version, metric))
    detail, curve = values["detail"], values["curve"]
    summary = model_summary(page.container, name, detail.live, len(detail.versions), None, None)
    return page.render(
        "model.html.jinja",
        name=name,
        summary=summary,
        chart=None if curve is None else curve_chart(curve),
        methods=[] if curve is None else best_methods(curve),
        best={} if curve is None else best_values(curve),
        hit_chart=hit_chart(values["days"]),
        gain_chart=gain_chart(values["gains"]),
        most_versions=_MOST_VERSIONS,
        most_changes=_MOST_CHANGES,
        **values,
    )


@router.post("/{name}/promote")
async def promote_version(name: ModelPath, page: AdminContext) -> Response:
    """Make a version live, as the API does."""
    form = page.form
    body = read_fields(PromotionRequest, {"version": form.get("version", "")})
    await model_routes.promote(
        name, body, page.request, page.container, force="force" in form, end_split="end_split" in form
    )
    return page.redirect(f"models/{name}")


@router.post("/{name}/rollback")
async def roll_back(name: ModelPath, page: AdminContext) -> Response:
    """Make live what was live before, as the API does."""
    await model_routes.rollback(name, page.request, page.container)
    return page.redirect(f"models/{name}")


@router.post("/{name}/split")
async def start_split(name: ModelPath, page: AdminContext) -> Response:
    """Let versions answer side by side, as the API does."""
    await split_routes.put_split(name, _split(page.form), page.request, page.container, force="force" in page.form)
    return page.redirect(f"models/{name}")


@router.post("/{name}/split/end")
async def end_split(name: ModelPath, page: AdminContext) -> Response:
    """Let the live version answer all again, as the API does."""
    await split_routes.delete_split(name, page.request, page.container)
    return page.redirect(f"models/{name}")


def _read(session: Session, name: str, version: str | None, metric: str | None) -> dict[str, Any]:
    detail = registry.model_detail(session, name)
    version_name = version or detail.live or (detail.versions[0].version if detail.versions else "")
    if version is not None:
        registry.get_model_record(session, name, version)
    curve = version_curve(session, name, version_name, metric)
    tests = [] if curve is None else curve_tests(session, curve)
    return {
        "detail": detail,
        "shown": version_name,
        "curve": curve,
        "tests": [test for test in tests if test.segment is None],
        "segments": segment_tables(tests),
        "gate": check_promotion(session, name, version_name),
        "split": split_detail(session, name).split,
        "results": split_results(session, name)[:_MOST_ARMS],
        "online": summarize_outcomes(session, name),
        "quality": online_quality(session, name),
        "days": quality_by_day(session, name),
        "gains": gain_by_support_size(session, name),
    }


def _split(form: dict[str, str]) -> SplitBody:
    """Read the arms of a form: those that have a version. Raises ProblemError for weights that are no shares."""
    arms = [
        {"version": version, "weight": _weight(form.get(f"weight{n}", "")), "label": form.get(f"label{n}") or None}
        for n in range(_MOST_ARMS)
        if (version := form.get(f"version{n}"))
    ]
    return read_fields(SplitBody, {"arms": arms})


def _weight(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
