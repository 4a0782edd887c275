"""Points of cold-start curves, as `evaluate` and `compare` write them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import table_of
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, after_cursor, decode_cursor, page_size, paginate
from recsys_meta.store.tracking.tables import EvaluationRecord

Role = Literal["learner", "flagship", "baseline"]


@dataclass(frozen=True)
class NewEvaluation:
    """One point: ``seed`` None is the mean over seeds, ``low`` and ``high`` bound its confidence interval,
    ``n`` counts the tasks behind it. ``model_version`` without a model: of a bundle that is not published yet."""

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


def save_evaluations(session: Session, rows: Sequence[NewEvaluation], now: datetime | None = None) -> int:
    """Write points that belong together: they share their time, by which views find the newest set.

    Answers how many. Raises ConflictError for an unknown role.
    """
    if rows:
        time = utcnow(now)
        session.execute(insert(table_of(EvaluationRecord)), [{**asdict(row), "created": time} for row in rows])
    return len(rows)


def copy_evaluations(session: Session, bundle_version: str, model: str, version: str) -> int:
    """Give a version of a model the points that were measured of the bundle it was published from; answers how many.

    Points that are another's already, because a bundle may be published twice, stay so and are copied. A copy keeps
    the time, by which the baselines of the same table are found beside it.
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


def _point_key(row: EvaluationRecord) -> tuple[object, ...]:
    """What tells a point from the others of one bundle."""
    return row.created, row.dataset, row.scenario, row.method, row.seed, row.shots, row.metric


def page_evaluations(
    session: Session,
    *,
    dataset: str | None = None,
    scenario: str | None = None,
    method: str | None = None,
    model: str | None = None,
    metric: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> KeysetPage[EvaluationRecord]:
    """Points, newest first. Raises ValueError for a limit outside 1 to 1000 or a strange cursor."""
    query = select(EvaluationRecord).order_by(EvaluationRecord.id.desc()).limit(page_size(limit) + 1)
    filters = {"dataset": dataset, "scenario": scenario, "method": method, "model": model, "metric": metric}
    for name, value in filters.items():
        if value is not None:
            query = query.where(getattr(EvaluationRecord, name) == value)
    if cursor is not None:
        query = query.where(
            after_cursor((EvaluationRecord.id,), decode_cursor("evaluations", cursor, (int,)), descending=True)
        )
    return paginate("evaluations", session.scalars(query).all(), limit, ("id",))
