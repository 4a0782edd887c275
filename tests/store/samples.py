"""Rows with sensible values, of which a test names the ones it is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from recsys_meta.store.entities.adaptations import NewAdaptation
from recsys_meta.store.entities.events import NewEvent
from recsys_meta.store.entities.impressions import NewImpression
from recsys_meta.store.entities.outcomes import NewOutcome
from recsys_meta.store.tracking import runs, tuning
from recsys_meta.store.tracking.evaluations import NewEvaluation
from recsys_meta.store.tracking.tables import CurriculumRecord, RunRecord, TuningStudyRecord

NOON = datetime(2024, 5, 17, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def a_run(session: Session, run: str | None = None, **given: Any) -> RunRecord:
    values: dict[str, Any] = {"recipe": "melu", "dataset": "movielens-100k", "learner": "melu", "config": {"lr": 0.1}}
    return runs.start_run(session, **{**values, "seed": 1, "run": run, **given})


def an_event(event_id: str = "e1", **given: Any) -> NewEvent:
    values = {"kind": "user", "entity": "u1", "item": "i1", "label": 1.0, "time": NOON, **given}
    return NewEvent(event_id=event_id, **values)


def an_adaptation(entity: str = "u1", **given: Any) -> NewAdaptation:
    values: dict[str, Any] = {"model_version": "v1", "kind": "user", "support_size": 3, "steps": 5}
    figures = {"loss_before": 1.0, "loss_after": 0.5, "gradient_norm": 0.1, "ms": 0.4}
    return NewAdaptation(entity=entity, **{**values, **figures, "served_by": "adapted", "created": NOON, **given})


def an_impression(*items: str, first_rank: int = 1, **given: Any) -> NewImpression:
    listed = [{"rank": rank, "item": item} for rank, item in enumerate(items or ("i1", "i2", "i3"), first_rank)]
    names = {"request_id": "r", "model": "m", "model_version": "v1", "variant": None, "kind": "user", "entity": "u1"}
    values: dict[str, Any] = {**names, "served_by": "adapted", "support_size": 3, "created": NOON}
    return NewImpression(content=orjson.dumps({"items": listed}), **{**values, **given})


def an_outcome(event_id: str = "e1", **given: Any) -> NewOutcome:
    names = {"kind": "user", "entity": "u1", "model": "m", "model_version": "v1", "variant": None}
    values: dict[str, Any] = {**names, "support_size": 3, "created": NOON, "loss": 1.0, "loss_unadapted": 2.0}
    return NewOutcome(event_id=event_id, **{**values, **given})


def an_evaluation(**given: Any) -> NewEvaluation:
    names: dict[str, Any] = {"dataset": "movielens-100k", "scenario": "user", "method": "melu", "role": "learner"}
    figures = {"seed": None, "shots": 5, "metric": "ndcg@10", "value": 0.3, "low": 0.2, "high": 0.4, "n": 100}
    return NewEvaluation(**{**names, **figures, **given})


def curriculum_rows(session: Session, run: str) -> list[CurriculumRecord]:
    query = select(CurriculumRecord).where(CurriculumRecord.run == run)
    return list(session.scalars(query.order_by(CurriculumRecord.step, CurriculumRecord.bucket)))


def a_study(session: Session, name: str = "s", **given: Any) -> TuningStudyRecord:
    about = {"learner": "flagship", "dataset": "movielens-100k", "digest": "d", "objective": "ranking"}
    judged: dict[str, Any] = {"metric": "ndcg@10", "direction": "maximize", "trials": 30, "now": NOON}
    content = {"recipe": {"name": "r", "learner": "flagship"}, "space": {}, "settings": {}, "meta_features": {}}
    return tuning.start_study(session, name=name, **{**about, **judged, **content, **given})
