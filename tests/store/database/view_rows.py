"""Rows of the views that people read with SQL, as plain dictionaries."""

from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Date, Double, Integer, String, column, select, table
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import TableClause

from recsys_meta.store.database.column_types import UtcDateTime


def _view(name: str, columns: dict[str, Any]) -> TableClause:
    return table(name, *(column(key, kind) for key, kind in columns.items()))


COLD_START_CURVE = _view(
    "cold_start_curve",
    {
        **dict.fromkeys(("model", "model_version", "run", "recipe", "config_digest", "dataset", "scenario"), String()),
        **dict.fromkeys(("split", "method", "role", "metric"), String()),
        **{
            "seed": Integer(),
            "seeds": Integer(),
            "shots": Integer(),
            "value": Double(),
            "low": Double(),
            "high": Double(),
            "n": Integer(),
        },
        "created": UtcDateTime(),
    },
)
ADAPTATION_DAILY = _view(
    "adaptation_daily",
    {
        "day": Date(),
        **dict.fromkeys(("model_version", "variant", "kind", "served_by"), String()),
        **{"adaptations": Integer(), "entities": Integer()},
        **dict.fromkeys(("support_size", "loss_before", "loss_after", "improved", "gradient_norm"), Double()),
        **{"ms": Double(), "slowest_ms": Double()},
    },
)
HARDEST_TASKS = _view(
    "hardest_tasks",
    {
        **{"run": String(), "dataset": String(), "learner": String(), "bucket": String(), "step": BigInteger()},
        **{"hardness": Double(), "weight": Double(), "rank": Integer()},
    },
)


def cold_start_curve(
    session: Session, *, dataset: str, metric: str, scenario: str | None = None
) -> list[dict[str, Any]]:
    """The newest curve of each method on a data set, by scenario, method and shots."""
    c = COLD_START_CURVE.c
    query = select(COLD_START_CURVE).where(c.dataset == dataset, c.metric == metric)
    if scenario is not None:
        query = query.where(c.scenario == scenario)
    rows = session.execute(query.order_by(c.scenario, c.method, c.model, c.shots)).mappings()
    return [dict(row) for row in rows]


def adaptation_daily(session: Session, *, since: date | None = None) -> list[dict[str, Any]]:
    """Counts and means of adaptations for each UTC day, model version, arm, kind and server, newest day first; what no
    arm answered comes before what arms did."""
    c = ADAPTATION_DAILY.c
    arm = c.variant.asc().nulls_first()
    query = select(ADAPTATION_DAILY).order_by(c.day.desc(), c.model_version, arm, c.kind, c.served_by)
    if since is not None:
        query = query.where(c.day >= since)
    return [dict(row) for row in session.execute(query).mappings()]


def hardest_tasks(session: Session, run: str, limit: int = 10) -> list[dict[str, Any]]:
    """The hardest buckets of a run as its curriculum last saw them, hardest first."""
    c = HARDEST_TASKS.c
    query = select(HARDEST_TASKS).where(c.run == run).order_by(c.rank, c.bucket).limit(limit)
    return [dict(row) for row in session.execute(query).mappings()]
