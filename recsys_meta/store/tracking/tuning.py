"""Tuning studies and their trials.

Workers share a study through these rows: whoever takes the next trial locks the study, and a trial belongs to the
worker that began it. A worker shows that it lives by the heartbeat of its trial.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.tracking.tables import TuningStudyRecord, TuningTrialRecord

Direction = Literal["maximize", "minimize"]
TrialStatus = Literal["running", "finished", "pruned", "failed", "stopped", "lost"]

ABANDONED: tuple[TrialStatus, ...] = ("stopped", "lost")
"""Trials that came to no result: they do not count, and their settings are to be tried again."""


@dataclass(frozen=True)
class TrialProposal:
    """Settings of the next trial, and where they come from."""

    params: Mapping[str, Any]
    origin: str


def start_study(
    session: Session,
    *,
    name: str,
    learner: str,
    dataset: str,
    digest: str,
    objective: str,
    metric: str,
    direction: Direction,
    recipe: Mapping[str, Any],
    space: Mapping[str, Any],
    settings: Mapping[str, Any],
    meta_features: Mapping[str, float],
    trials: int,
    now: datetime | None = None,
) -> TuningStudyRecord:
    """Insert a study. Raises ConflictError if its name is taken."""
    row = TuningStudyRecord(
        name=name,
        learner=learner,
        dataset=dataset,
        digest=digest,
        objective=objective,
        metric=metric,
        direction=direction,
        recipe=dict(recipe),
        space=dict(space),
        settings=dict(settings),
        meta_features=dict(meta_features),
        trials=trials,
        created=utcnow(now),
    )
    session.add(row)
    session.flush()
    return row


def get_study(session: Session, name: str) -> TuningStudyRecord:
    """Return a study. Raises NotFoundError."""
    row = session.get(TuningStudyRecord, name)
    if row is None:
        raise NotFoundError(f"there is no study '{name}'; name the data set, and it is begun: --dataset NAME")
    return row


def study_exists(session: Session, name: str) -> bool:
    """Return whether there is a study of this name."""
    return session.get(TuningStudyRecord, name) is not None


def set_trials(session: Session, name: str, trials: int) -> None:
    """Set how many trials a study is to have."""
    get_study(session, name).trials = trials
    session.flush()


def study_trials(session: Session, name: str) -> list[TuningTrialRecord]:
    """Return the trials of a study by number."""
    query = select(TuningTrialRecord).where(TuningTrialRecord.study == name).order_by(TuningTrialRecord.number)
    return list(session.scalars(query))


def studies_of_learner(session: Session, learner: str, objective: str, besides: str) -> list[TuningStudyRecord]:
    """Return the studies of a learner on data with an objective, newest first, without the one named `besides`."""
    table = TuningStudyRecord
    query = (
        select(table)
        .where(table.learner == learner, table.objective == objective, table.name != besides)
        .order_by(table.created.desc(), table.name)
    )
    return list(session.scalars(query))


def best_trial(trials: Sequence[TuningTrialRecord], direction: str) -> TuningTrialRecord | None:
    """Return the finished trial with the best value, the first of equal ones; None if none is finished."""
    finished = [t for t in trials if t.status == "finished" and t.value is not None]
    sign = 1.0 if direction == "maximize" else -1.0
    return max(finished, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)


def claim_trial(
    session: Session,
    study: str,
    worker: str,
    propose: Callable[[Sequence[TuningTrialRecord]], TrialProposal],
    now: datetime | None = None,
) -> TuningTrialRecord | None:
    """Insert the next trial of a study with the settings that `propose` chooses, given the trials so far.

    Returns None if the study has its trials. The study is locked meanwhile, so that two workers never propose alike.
    Raises NotFoundError.
    """
    locked = select(TuningStudyRecord).where(TuningStudyRecord.name == study).with_for_update()
    wanted = session.scalars(locked).one_or_none()
    if wanted is None:
        raise NotFoundError(f"there is no study '{study}' any more")
    trials = study_trials(session, study)
    if sum(t.status not in ABANDONED for t in trials) >= wanted.trials:
        return None
    proposal = propose(trials)
    time = utcnow(now)
    row = TuningTrialRecord(
        study=study,
        number=1 + max((t.number for t in trials), default=0),
        status="running",
        origin=proposal.origin,
        params=dict(proposal.params),
        validations={},
        steps=0,
        worker=worker,
        started=time,
        heartbeat=time,
    )
    session.add(row)
    session.flush()
    return row


def record_validations(
    session: Session, trial: TuningTrialRecord, values: Sequence[float], step: int, now: datetime | None = None
) -> None:
    """Set the results of the validations of a trial so far, the last of them after `step` steps."""
    numbered = {str(i): value for i, value in enumerate(values, 1)}
    _change(session, trial, validations=numbered, steps=step, heartbeat=utcnow(now))


def record_heartbeat(session: Session, trial: TuningTrialRecord, now: datetime | None = None) -> None:
    """Note that the worker of a trial lives."""
    _change(session, trial, heartbeat=utcnow(now))


def close_trial(
    session: Session,
    trial: TuningTrialRecord,
    status: TrialStatus,
    *,
    value: float | None = None,
    reason: str | None = None,
    now: datetime | None = None,
) -> None:
    """Set the end of a trial. A worker that was taken for dead and was not still brings in its result."""
    time = utcnow(now)
    text = None if reason is None else reason[:2000]
    _change(session, trial, status=status, value=value, reason=text, heartbeat=time, finished=time)


def close_lost_trials(
    session: Session, study: str, is_dead: Callable[[TuningTrialRecord], bool], now: datetime | None = None
) -> list[int]:
    """Mark the running trials whose worker is dead as lost; return their numbers."""
    running = [t for t in study_trials(session, study) if t.status == "running" and is_dead(t)]
    for trial in running:
        trial.status, trial.reason, trial.finished = "lost", "its worker died", utcnow(now)
    session.flush()
    return [t.number for t in running]


def _change(session: Session, trial: TuningTrialRecord, **values: Any) -> None:
    """Change a trial that is still this worker's, whether running or taken for lost."""
    table = TuningTrialRecord
    session.execute(
        update(table)
        .where(
            table.study == trial.study,
            table.number == trial.number,
            table.worker == trial.worker,
            table.status.in_(("running", "lost")),
        )
        .values(**values)
    )
