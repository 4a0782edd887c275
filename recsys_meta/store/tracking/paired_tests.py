"""Paired tests of evaluations, over all newcomers of a point or over a group of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks, table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.tracking.tables import EvaluationRecord, PairedTestRecord
from recsys_meta.store.tracking.version_curve import VersionCurve

Reference = Literal["baseline", "unadapted"]
Verdict = Literal["better", "worse", "open"]

_MOST_TESTS = 2000


@dataclass(frozen=True)
class NewPairedTest:
    """A paired test at one point of an evaluation; the columns are those of `PairedTestRecord`."""

    dataset: str
    scenario: str
    method: str
    against: str
    reference: Reference
    metric: str
    shots: int
    value: float
    value_against: float
    difference: float
    low: float
    high: float
    p: float
    verdict: Verdict
    seeds: int
    n: int
    segment: str | None = None
    part: str | None = None
    part_from: float | None = None
    part_to: float | None = None


def save_paired_tests(session: Session, rows: Sequence[NewPairedTest], now: datetime | None = None) -> int:
    """Write the tests of one evaluation, with the time of its points; return the number of rows.

    Raises ConflictError for an unknown reference.
    """
    created = utcnow(now)
    for part in in_chunks([{**asdict(row), "created": created} for row in rows]):
        session.execute(insert(table_of(PairedTestRecord)), list(part))
    return len(rows)


def curve_tests(session: Session, curve: VersionCurve) -> list[PairedTestRecord]:
    """Return the tests of the evaluation of a version's curve, in its metric: of all newcomers first, then by group."""
    own = {method.method for method in curve.methods if method.is_own}
    test = PairedTestRecord
    query = select(test).where(
        test.dataset == curve.dataset,
        test.created == curve.created,
        test.scenario == curve.scenario,
        test.metric == curve.metric,
        test.method.in_(own),
    )
    return list(session.scalars(query.order_by(test.id).limit(_MOST_TESTS)))


def tests_of_evaluations(session: Session, points: Sequence[EvaluationRecord]) -> list[PairedTestRecord]:
    """Return the tests of the evaluations that some points are of."""
    test = PairedTestRecord
    tests: list[PairedTestRecord] = []
    for dataset, created in sorted({(point.dataset, point.created) for point in points}):
        query = select(test).where(test.dataset == dataset, test.created == created)
        tests += session.scalars(query.order_by(test.id))
    return tests


def prune_paired_tests(session: Session, before: datetime) -> int:
    """Delete the tests of evaluations made before a time in which no version of a model was measured; return how many.

    Those of a version stay as long as its curve does.
    """
    point = EvaluationRecord
    is_of_version = exists().where(
        point.dataset == PairedTestRecord.dataset, point.created == PairedTestRecord.created, point.model.is_not(None)
    )
    old = PairedTestRecord.created < before, ~is_of_version
    count = session.scalar(select(func.count()).select_from(PairedTestRecord).where(*old)) or 0
    session.execute(delete(table_of(PairedTestRecord)).where(*old))
    return count
