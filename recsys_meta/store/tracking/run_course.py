"""The course of a training run: its figures over steps, few enough to draw, and its curriculum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from recsys_meta.store.tracking.tables import CurriculumRecord, LatestMetricRecord, MetricRecord, RunRecord

MOST_POINTS = 400
"""Points of a curve that are read, about."""

_MOST_BUCKETS = 100
_MOST_STEPS = 100
_MOST_CANDIDATES = 200
UNIFORM = "uniform"


def course_names(session: Session, run: str) -> list[str]:
    """Return the names of the figures of a run."""
    query = select(LatestMetricRecord.key).where(LatestMetricRecord.run == run).order_by(LatestMetricRecord.key)
    return list(session.scalars(query.limit(200)))


def metric_course(session: Session, run: str, key: str) -> list[tuple[int, float | None]]:
    """Return steps and values of one figure, evenly thinned to `MOST_POINTS`; the newest is always there."""
    last = session.execute(
        select(LatestMetricRecord.step, LatestMetricRecord.value).where(
            LatestMetricRecord.run == run, LatestMetricRecord.key == key
        )
    ).first()
    if last is None:
        return []
    own = MetricRecord.run == run, MetricRecord.key == key
    count = session.scalar(select(func.count()).select_from(MetricRecord).where(*own)) or 0
    stride = max(1, math.ceil(count / MOST_POINTS))
    number = func.row_number().over(order_by=MetricRecord.step).label("number")
    rows = select(MetricRecord.step, MetricRecord.value, number).where(*own).subquery()
    query = select(rows.c.step, rows.c.value).where((rows.c.number - 1) % stride == 0).order_by(rows.c.step)
    points = [(int(step), value) for step, value in session.execute(query)]
    return points if points and points[-1][0] == last.step else [*points, (last.step, last.value)]


def curriculum_buckets(session: Session, run: str) -> Sequence[CurriculumRecord]:
    """Return the buckets of the newest step at which the curriculum was stored, the hardest first."""
    newest = select(func.max(CurriculumRecord.step)).where(CurriculumRecord.run == run).scalar_subquery()
    query = select(CurriculumRecord).where(CurriculumRecord.run == run, CurriculumRecord.step == newest)
    order = CurriculumRecord.hardness.is_(None), CurriculumRecord.hardness.desc(), CurriculumRecord.bucket
    return session.scalars(query.order_by(*order).limit(_MOST_BUCKETS)).all()


def bucket_course(session: Session, run: str) -> list[CurriculumRecord]:
    """Return the buckets of a run by step, of evenly thinned steps; those of the newest step are always there."""
    own = CurriculumRecord.run == run
    steps = list(session.scalars(select(CurriculumRecord.step).where(own).distinct().order_by(CurriculumRecord.step)))
    stride = max(1, math.ceil(len(steps) / _MOST_STEPS))
    kept = steps[::-1][::stride]
    query = select(CurriculumRecord).where(own, CurriculumRecord.step.in_(kept))
    return list(session.scalars(query.order_by(CurriculumRecord.step, CurriculumRecord.bucket)))


def curriculum_name(run: RunRecord) -> str:
    """Return the name of the curriculum that draws the tasks of a run."""
    curriculum = run.config.get("curriculum")
    return str(curriculum.get("name", UNIFORM)) if isinstance(curriculum, dict) else UNIFORM


def uniform_run(session: Session, run: RunRecord) -> RunRecord | None:
    """Return the run of the same recipe and data set that draws tasks uniformly, to compare a curriculum with.

    Of several the one that is most alike: in all other settings, then in its seed; of these the newest. None without
    one, and for a run that draws uniformly itself.
    """
    if curriculum_name(run) == UNIFORM:
        return None
    same = RunRecord.recipe == run.recipe, RunRecord.dataset == run.dataset, RunRecord.id != run.id
    query = select(RunRecord).where(*same, RunRecord.status != "failed")
    newest = session.scalars(query.order_by(RunRecord.started.desc(), RunRecord.id).limit(_MOST_CANDIDATES))
    candidates = [row for row in newest if curriculum_name(row) == UNIFORM]
    settings = _other_settings(run)
    return max(candidates, key=lambda row: (_other_settings(row) == settings, row.seed == run.seed), default=None)


def _other_settings(run: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key != "curriculum"}
