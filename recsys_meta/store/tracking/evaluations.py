"""Points of cold-start curves, written by the commands `train`, `evaluate` and `compare`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, newest_page
from recsys_meta.store.tracking.tables import EvaluationRecord

Role = Literal["learner", "flagship", "baseline"]


@dataclass(frozen=True)
class NewEvaluation:
    """One point of a cold-start curve at a support size (``shots``).

    ``seed`` None is the mean over ``seeds`` seeds, ``low`` and ``high`` bound the confidence interval, ``n`` counts
    tasks. A ``model_version`` without a model is that of a bundle that is not published yet. ``run``, ``recipe`` and
    ``config_digest`` are None where several runs make up one point, and for a method that no run trained.
    """

    dataset: str
    scenario: str
    method: str
    role: Role
    seed: int | None
    shots: int
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    model: str | None = None
    model_version: str | None = None
    run: str | None = None
    recipe: str | None = None
    config_digest: str | None = None
    split: str | None = None
    seeds: int = 1


def save_evaluations(session: Session, rows: Sequence[NewEvaluation], now: datetime | None = None) -> int:
    """Write the points of one evaluation: they share their time, by which views find the newest set.

    Returns the number of rows. Raises ConflictError for an unknown role.
    """
    if rows:
        time = utcnow(now)
        session.execute(insert(table_of(EvaluationRecord)), [{**asdict(row), "created": time} for row in rows])
    return len(rows)


def copy_evaluations(session: Session, bundle_version: str, model: str, version: str) -> int:
    """Assign the points measured on a bundle to the model version published from it; return how many are new.

    Points that already belong to another version, since a bundle may be published twice, are copied. A copy has the
    time of the original, by which the baselines of the same evaluation are found.
    """
    query = (
        select(EvaluationRecord)
        .where(EvaluationRecord.model_version.in_({bundle_version, version}))
        .order_by(EvaluationRecord.id)
    )
    rows = session.scalars(query).all()
    point_keys = {_point_key(r) for r in rows if (r.model, r.model_version) == (model, version)}
    before = len(point_keys)
    for row in rows:
        if _point_key(row) in point_keys:
            continue
        point_keys.add(_point_key(row))
        if row.model is None:
            row.model, row.model_version = model, version
        else:
            columns = {name: value for name, value in row.as_dict().items() if name != "id"}
            session.add(EvaluationRecord(**{**columns, "model": model, "model_version": version}))
    session.flush()
    return len(point_keys) - before


def evaluations_with_run(session: Session, run: str) -> list[EvaluationRecord]:
    """Return the points of every evaluation in which a run was measured, those of the methods beside it too."""
    query = select(EvaluationRecord.dataset, EvaluationRecord.created).where(EvaluationRecord.run == run).distinct()
    rows: list[EvaluationRecord] = []
    for dataset, created in session.execute(query.order_by(EvaluationRecord.created)).all():
        same = EvaluationRecord.dataset == dataset, EvaluationRecord.created == created
        rows += session.scalars(select(EvaluationRecord).where(*same).order_by(EvaluationRecord.id))
    return rows


def prune_evaluations(session: Session, before: datetime) -> int:
    """Delete the points of evaluations made before a time in which no version of a model was measured; return how many.

    Those beside a version's curve stay with it.
    """
    rows, own = table_of(EvaluationRecord), table_of(EvaluationRecord).alias("own")
    is_of_version = exists().where(
        own.c.dataset == rows.c.dataset, own.c.created == rows.c.created, own.c.model.is_not(None)
    )
    old = rows.c.created < before, ~is_of_version
    count = session.scalar(select(func.count()).select_from(rows).where(*old)) or 0
    session.execute(delete(rows).where(*old))
    return count


def _point_key(row: EvaluationRecord) -> tuple[object, ...]:
    """Return the columns that identify a point among those of one bundle."""
    return row.created, row.dataset, row.scenario, row.method, row.seed, row.shots, row.metric


def page_evaluations(
    session: Session,
    *,
    dataset: str | None = None,
    scenario: str | None = None,
    method: str | None = None,
    model: str | None = None,
    metric: str | None = None,
    run: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> KeysetPage[EvaluationRecord]:
    """Return a page of points, newest first.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    query = select(EvaluationRecord)
    filters = {"dataset": dataset, "scenario": scenario, "method": method, "model": model, "metric": metric, "run": run}
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(EvaluationRecord, name) == value)
    return newest_page(session, query, "evaluations", {EvaluationRecord.id: int}, limit, cursor)
