"""Tables of experiment tracking: training runs, their metrics and curricula, and evaluations."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText


class RunRecord(Base):
    """One training run: recipe, data set and configuration, and its status."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'failed', 'stopped')", name="status"),
        Index(None, "started", "id"),
        Index(None, "status", "started"),
    )

    id: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    recipe: Mapped[str]
    dataset: Mapped[str]
    learner: Mapped[str]
    config: Mapped[dict[str, Any]]
    seed: Mapped[int]
    device: Mapped[str | None]
    code_version: Mapped[str | None]
    status: Mapped[str] = mapped_column(BoundedText(20))
    reason: Mapped[str | None] = mapped_column(BoundedText(2000))
    started: Mapped[datetime]
    finished: Mapped[datetime | None]


class MetricRecord(Base):
    """A metric of a run at an outer step. NaN is stored as NULL."""

    __tablename__ = "metrics"

    run: Mapped[str] = mapped_column(
        BoundedText(NAME_LENGTH), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class LatestMetricRecord(Base):
    """The metric with the greatest step for each run and key, so that a list of runs needs no aggregate."""

    __tablename__ = "latest_metrics"
    __table_args__ = (Index(None, "key", "value"),)

    run: Mapped[str] = mapped_column(
        BoundedText(NAME_LENGTH), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int]
    value: Mapped[float | None]
    at: Mapped[datetime]


class CurriculumRecord(Base):
    """Hardness of a bucket of tasks at a step, and the weight with which it was sampled."""

    __tablename__ = "curriculum"

    run: Mapped[str] = mapped_column(
        BoundedText(NAME_LENGTH), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bucket: Mapped[str] = mapped_column(primary_key=True)
    hardness: Mapped[float | None]
    weight: Mapped[float | None]


class EvaluationRecord(Base):
    """One point of a cold-start curve. ``seed`` NULL is the mean over seeds; ``n`` counts tasks."""

    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint("role IN ('learner', 'flagship', 'baseline')", name="role"),
        Index(None, "dataset", "scenario", "metric", "method", "shots"),
        Index(None, "model", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str | None]
    model_version: Mapped[str | None]
    dataset: Mapped[str]
    scenario: Mapped[str]
    method: Mapped[str]
    role: Mapped[str] = mapped_column(BoundedText(20))
    seed: Mapped[int | None]
    shots: Mapped[int]
    metric: Mapped[str]
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int]
    created: Mapped[datetime]
