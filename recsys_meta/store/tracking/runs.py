"""Training runs, their metrics and their curriculum."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.bulk_insert import insert_into
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, newest_page
from recsys_meta.store.tracking.tables import (
    DIGEST_LENGTH,
    CurriculumRecord,
    LatestMetricRecord,
    MetricRecord,
    RunRecord,
)

Status = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class MetricPoint:
    """A metric of a run at an outer step."""

    run: str
    key: str
    step: int
    value: float


@dataclass(frozen=True)
class CurriculumPoint:
    """Hardness of a bucket of tasks at a step, and the weight with which it was sampled."""

    run: str
    step: int
    bucket: str
    hardness: float
    weight: float


def start_run(
    session: Session,
    *,
    recipe: str,
    dataset: str,
    learner: str,
    config: Mapping[str, Any],
    seed: int,
    device: str | None = None,
    code_version: str | None = None,
    run: str | None = None,
    now: datetime | None = None,
) -> RunRecord:
    """Insert a run with status running; its id starts with its time unless ``run`` gives one.

    Raises ConflictError if the id is taken.
    """
    start = utcnow(now)
    row = RunRecord(
        id=run if run is not None else f"{start:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        recipe=recipe,
        dataset=dataset,
        learner=learner,
        config=dict(config),
        config_digest=config_digest(config),
        seed=seed,
        device=device,
        code_version=code_version,
        status="running",
        started=start,
    )
    session.add(row)
    session.flush()
    return row


def config_digest(config: Mapping[str, Any]) -> str:
    """Return a digest of settings, as JSON holds them: equal where they are, whatever their order."""
    text = json.dumps(dict(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def log_metrics(session: Session, points: Sequence[MetricPoint], now: datetime | None = None) -> None:
    """Write metrics and update the latest value of each key. A point logged again replaces the first.

    Raises ConflictError for an unknown run.
    """
    if not points:
        return
    # In a fixed order, so that two writers cannot deadlock.
    sorted_points = sorted(points, key=lambda p: (p.run, p.key, p.step))
    new = insert_into(session, MetricRecord)
    upsert = new.on_conflict_do_update(index_elements=["run", "key", "step"], set_={"value": new.excluded.value})
    session.execute(upsert, [asdict(p) for p in sorted_points])
    at = utcnow(now)
    last = {(p.run, p.key): p for p in sorted_points}
    new = insert_into(session, LatestMetricRecord)
    upsert = new.on_conflict_do_update(
        index_elements=["run", "key"],
        set_={name: new.excluded[name] for name in ("step", "value", "at")},
        where=LatestMetricRecord.step <= new.excluded.step,
    )
    session.execute(upsert, [{**asdict(p), "at": at} for p in last.values()])


def log_curriculum(session: Session, points: Sequence[CurriculumPoint]) -> None:
    """Write buckets; a bucket logged again at the same step replaces the first."""
    if not points:
        return
    new = insert_into(session, CurriculumRecord)
    upsert = new.on_conflict_do_update(
        index_elements=["run", "step", "bucket"],
        set_={name: new.excluded[name] for name in ("hardness", "weight")},
    )
    session.execute(upsert, [asdict(p) for p in sorted(points, key=lambda p: (p.run, p.step, p.bucket))])


def set_run_status(
    session: Session, run: str, status: Status, *, reason: str | None = None, now: datetime | None = None
) -> RunRecord:
    """Set the status of a run, and its end time unless it is running. Raises NotFoundError."""
    row = get_run(session, run)
    row.status = status
    row.reason = None if reason is None else reason[:2000]
    row.finished = None if status == "running" else utcnow(now)
    session.flush()
    return row


def get_run(session: Session, run: str) -> RunRecord:
    """Return a run. Raises NotFoundError."""
    row = session.get(RunRecord, run)
    if row is None:
        raise NotFoundError(f"there is no run '{run}'; `recsys-meta runs list` shows those there are")
    return row


def run_exists(session: Session, run: str) -> bool:
    """Return whether a run with this id exists."""
    return session.get(RunRecord, run) is not None


def page_runs(
    session: Session, *, status: Status | None = None, limit: int = 50, cursor: str | None = None
) -> KeysetPage[RunRecord]:
    """Return a page of runs, newest first.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    query = select(RunRecord)
    if status is not None:
        query = query.where(RunRecord.status == status)
    return newest_page(session, query, "runs", {RunRecord.started: datetime, RunRecord.id: str}, limit, cursor)


def finished_runs(session: Session, recipe: str, dataset: str, seed: int, code_version: str) -> list[RunRecord]:
    """Return the finished runs of a recipe by name, of a data set, a seed and a version of the code, newest first."""
    wanted = {"recipe": recipe, "dataset": dataset, "seed": seed, "code_version": code_version, "status": "finished"}
    return list(session.scalars(select(RunRecord).filter_by(**wanted).order_by(RunRecord.started.desc())))


def run_metrics(session: Session, run: str, key: str | None = None) -> list[MetricRecord]:
    """Return every metric of a run, by key and step. Raises NotFoundError."""
    get_run(session, run)
    query = select(MetricRecord).where(MetricRecord.run == run).order_by(MetricRecord.key, MetricRecord.step)
    if key is not None:
        query = query.where(MetricRecord.key == key)
    return list(session.scalars(query))


def latest_metrics(session: Session, runs: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the latest value of each metric, for each of the runs."""
    metrics: dict[str, dict[str, float | None]] = {run: {} for run in runs}
    query = select(LatestMetricRecord).where(LatestMetricRecord.run.in_(runs)).order_by(LatestMetricRecord.key)
    for row in session.scalars(query):
        metrics[row.run][row.key] = row.value
    return metrics


def latest_steps(session: Session, runs: Sequence[str]) -> dict[str, int]:
    """Return the greatest outer step of which anything was logged, for each of the runs that logged anything."""
    last = func.max(LatestMetricRecord.step)
    query = (
        select(LatestMetricRecord.run, last).where(LatestMetricRecord.run.in_(runs)).group_by(LatestMetricRecord.run)
    )
    return {run: int(step) for run, step in session.execute(query)}


def prune_runs(session: Session, before: datetime) -> int:
    """Delete runs that ended before a time, with their metrics and curriculum; return how many."""
    deletion = delete(RunRecord).where(RunRecord.finished < before)
    count_query = select(func.count()).select_from(RunRecord).where(RunRecord.finished < before)
    count = session.scalar(count_query) or 0
    session.execute(deletion, execution_options={"synchronize_session": False})
    return count
