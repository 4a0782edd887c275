"""`/ui/runs`: training runs, the course of one while it goes on, and how two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api.handlers.dependencies import Cursor
from api.handlers.response_encoding import json_response
from api.pages.charts import ChartSeries, PageChart
from api.pages.curriculum_charts import bucket_charts, bucket_meaning
from api.pages.curve_charts import curve_chart
from api.pages.page_context import ReadContext
from api.pages.page_route import PageRoute
from api.pages.text_formats import moment
from api.routes.tracking import RunPath
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.paired_tests import curve_tests
from recsys_meta.store.tracking.run_course import (
    bucket_course,
    course_names,
    curriculum_buckets,
    curriculum_name,
    metric_course,
    uniform_run,
)
from recsys_meta.store.tracking.runs import Status
from recsys_meta.store.tracking.setting_tables import changed_settings, flat_settings
from recsys_meta.store.tracking.tables import RunRecord
from recsys_meta.store.tracking.version_curve import run_curve

router = APIRouter(route_class=PageRoute, prefix="/ui/runs", include_in_schema=False)

ON_TRAINING = "valid_on_training"
"""The figure that is drawn beside `valid`: their distance is the meta-overfitting."""

FIRST_FIGURES = ("loss", "valid", "gradient_norm", "tasks_per_second")
"""Figures that are drawn first; those of a learner's own follow."""

_TITLES = {
    "loss": "Loss on meta-training queries",
    "valid": "Metric on meta-validation",
    "gradient_norm": "Norm of the outer gradient",
    "tasks_per_second": "Tasks per second",
}
_LABELS = {"valid": "on meta-validation tasks"}
_PAGE = 50
_MOST_FIGURES = 16
_MOST_COMPARED = 4

MetricCourse = Sequence[tuple[int, float | None]]


@router.get("")
async def show_runs(
    page: ReadContext, status: Annotated[Status | Literal[""] | None, Query()] = None, cursor: Cursor = None
) -> Response:
    """List runs with their newest figures, the newest first."""

    def read(session: Session) -> dict[str, Any]:
        rows = runs.page_runs(session, status=status or None, limit=_PAGE, cursor=cursor)
        ids = [run.id for run in rows.items]
        figures = {"latest": runs.latest_metrics(session, ids), "steps": runs.latest_steps(session, ids)}
        return {"runs": rows.items, "next": rows.next, **figures}

    return page.render("runs.html.jinja", wanted=status or "", cursor=cursor, **await page.read(read))


@router.get("/compare")
async def compare_runs(
    page: ReadContext,
    run: Annotated[list[Annotated[str, Query(max_length=100)]], Query(max_length=100)] = [],  # noqa: B006
) -> Response:
    """Show in which settings runs differ, and their courses in one chart."""
    ids = list(dict.fromkeys(run))[:_MOST_COMPARED]

    def read(session: Session) -> dict[str, Any]:
        rows = [runs.get_run(session, id) for id in ids]
        charts = [chart for key in ("loss", "valid") if (chart := _compared(session, rows, key)) is not None]
        figures = {"latest": runs.latest_metrics(session, ids), "steps": runs.latest_steps(session, ids)}
        return {"runs": rows, "charts": charts, **figures}

    values = await page.read(read)
    changes = changed_settings([_settings(one) for one in values["runs"]])
    return page.render("run_comparison.html.jinja", changed=changes, most=_MOST_COMPARED, **values)


@router.get("/{id}")
async def show_run(id: RunPath, page: ReadContext) -> Response:
    """Show the course of a run, what its model does for newcomers, its settings and its curriculum."""

    def read(session: Session) -> dict[str, Any]:
        row = runs.get_run(session, id)
        uniform = uniform_run(session, row)
        return {
            "run": row,
            "uniform": uniform,
            "charts": _courses(session, id, uniform),
            "buckets": curriculum_buckets(session, id),
            "bucket_charts": bucket_charts(bucket_course(session, id)),
            **_measured(session, id),
        }

    values = await page.read(read)
    run = values["run"]
    return page.render(
        "run.html.jinja",
        texts=_texts(run),
        curriculum=curriculum_name(run),
        meaning=bucket_meaning,
        settings=flat_settings(run.config),
        **values,
    )


@router.get("/{id}/course")
async def get_course(id: RunPath, page: ReadContext) -> Response:
    """Return the charts of a run as they are now, which its page asks for while it goes on."""

    def read(session: Session) -> dict[str, Any]:
        row = runs.get_run(session, id)
        courses = _courses(session, id, uniform_run(session, row))
        charts = {f"chart-{key}": chart.drawing for key, chart in courses.items()}
        return {"charts": charts, "texts": _texts(row), "done": row.status != "running"}

    return json_response(await page.read(read))


def _courses(session: Session, run: str, uniform: RunRecord | None) -> dict[str, PageChart]:
    """Draw the figures of a run, with those of a run beside it that draws its tasks uniformly."""
    names = course_names(session, run)
    names = [key for key in FIRST_FIGURES if key in names] + [key for key in names if key not in FIRST_FIGURES]
    keys = [key for key in names if key != ON_TRAINING or "valid" not in names][:_MOST_FIGURES]
    charts = {}
    for key in keys:
        points = metric_course(session, run, key)
        beside = {}
        if key == "valid" and ON_TRAINING in names:
            beside["on tasks of the training"] = metric_course(session, run, ON_TRAINING)
        if key in _TITLES and uniform is not None:
            beside["the same, tasks drawn uniformly"] = metric_course(session, uniform.id, key)
        if points:
            charts[key] = _course_chart(key, points, beside)
    return charts


def _course_chart(key: str, points: MetricCourse, beside: Mapping[str, MetricCourse]) -> PageChart:
    """Draw a figure over the outer steps, with those beside it that have a point."""
    lines = {_LABELS.get(key, key): dict(points), **{name: dict(course) for name, course in beside.items() if course}}
    steps = sorted({step for line in lines.values() for step in line})
    series = [
        ChartSeries(name, [line.get(step) for step in steps], is_main=not place)
        for place, (name, line) in enumerate(lines.items())
    ]
    return PageChart(_TITLES.get(key, key), "outer step", key, steps, series)


def _measured(session: Session, run: str) -> dict[str, Any]:
    """Read the newest curve of what a run trained, and its paired tests."""
    curve = run_curve(session, run)
    if curve is None:
        return {"curve": None}
    tests = [test for test in curve_tests(session, curve) if test.segment is None]
    own = next((point for method in curve.methods if method.is_own for point in method.points.values()), None)
    version = None if own is None else own.model_version
    return {"curve": curve, "curve_chart": curve_chart(curve), "tests": tests, "version": version}


def _compared(session: Session, rows: Sequence[RunRecord], key: str) -> PageChart | None:
    courses = {row.id: dict(metric_course(session, row.id, key)) for row in rows}
    steps = sorted({step for course in courses.values() for step in course})
    if not steps:
        return None
    series = [ChartSeries(id, [course.get(step) for step in steps]) for id, course in courses.items()]
    return PageChart(_TITLES[key], "outer step", key, steps, series)


def _texts(run: RunRecord) -> dict[str, str]:
    """Return what of a run changes while it goes on, by the ids of its elements."""
    return {
        "run-status": run.status,
        "run-finished": moment(run.finished),
        "run-reason": run.reason or "",
    }


def _settings(run: RunRecord) -> Mapping[str, str]:
    own = {"recipe": run.recipe, "dataset": run.dataset, "learner": run.learner, "seed": str(run.seed)}
    own |= {"device": run.device or "", "code_version": run.code_version or ""}
    return own | flat_settings(run.config)
