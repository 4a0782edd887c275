"""The course of a training run: its figures over steps, few enough to draw, and its curriculum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from recsys_meta.store.tracking.tables import CurriculumRecord, LatestMetricRecord, MetricRecord

MOST_POINTS = 400
"""Points of a curve that are read, about."""

_MOST_BUCKETS = 100


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
