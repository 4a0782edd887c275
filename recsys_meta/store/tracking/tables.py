"""Tables of experiment tracking: training runs, metrics, curricula, evaluations, paired tests and tuning studies."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText

DIGEST_LENGTH = 16
"""Characters of a digest of settings."""


class RunRecord(Base):
    """One training run: recipe, data set and configuration, and its status. `config_digest` is equal where settings
    are, see `config_digest`."""

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
    config_digest: Mapped[str | None] = mapped_column(BoundedText(DIGEST_LENGTH))
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


class LatestCurriculumRecord(Base):
    """Each bucket of a run as it was last seen, kept by triggers, so that no view reads every step of a run."""

    __tablename__ = "latest_curriculum"

    run: Mapped[str] = mapped_column(
        BoundedText(NAME_LENGTH), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    bucket: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int]
    hardness: Mapped[float | None]
    weight: Mapped[float | None]


class EvaluationRecord(Base):
    """One point of a cold-start curve: of one seed, or with `seed` NULL the mean over `seeds`; `n` counts tasks.

    One seed is one row. `run`, `recipe` and `config_digest` say what was trained, NULL where several runs are one
    row; of a baseline, `config_digest` is that of the settings that it was tuned to. `split` is the rule that divides
    the entities. A run may be pruned, so `run` is no reference.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint("role IN ('learner', 'flagship', 'baseline')", name="role"),
        Index(None, "dataset", "scenario", "metric", "method", "shots"),
        Index(None, "model", "created"),
        Index(None, "run"),
        Index(None, "dataset", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str | None]
    model_version: Mapped[str | None]
    run: Mapped[str | None] = mapped_column(BoundedText(NAME_LENGTH))
    recipe: Mapped[str | None]
    config_digest: Mapped[str | None] = mapped_column(BoundedText(DIGEST_LENGTH))
    dataset: Mapped[str]
    scenario: Mapped[str]
    split: Mapped[str | None]
    method: Mapped[str]
    role: Mapped[str] = mapped_column(BoundedText(20))
    seed: Mapped[int | None]
    seeds: Mapped[int] = mapped_column(server_default="1")
    shots: Mapped[int]
    metric: Mapped[str]
    value: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int]
    created: Mapped[datetime]


class PairedTestRecord(Base):
    """A paired difference of two methods at one point of an evaluation, ``method`` less ``against``, over all seeds.

    Rows of one evaluation share `created` with its points. `reference` says what the other method is: the best
    ``baseline`` of the point, or the same weights ``unadapted``. `segment` and `part` name the group of newcomers
    that the test is over, NULL for all of them; `part_from` and `part_to` are the ends of a group that is a range.
    """

    __tablename__ = "paired_tests"
    __table_args__ = (
        CheckConstraint("reference IN ('baseline', 'unadapted')", name="reference"),
        CheckConstraint("verdict IN ('better', 'worse', 'open')", name="verdict"),
        Index(None, "dataset", "created"),
        Index(None, "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    scenario: Mapped[str]
    method: Mapped[str]
    against: Mapped[str]
    reference: Mapped[str] = mapped_column(BoundedText(20))
    segment: Mapped[str | None]
    part: Mapped[str | None]
    part_from: Mapped[float | None]
    part_to: Mapped[float | None]
    metric: Mapped[str]
    shots: Mapped[int]
    value: Mapped[float | None]
    value_against: Mapped[float | None]
    difference: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    p: Mapped[float | None]
    verdict: Mapped[str] = mapped_column(BoundedText(20))
    seeds: Mapped[int]
    n: Mapped[int]
    created: Mapped[datetime]


class TuningStudyRecord(Base):
    """One search of hyper-parameters: the recipe it starts from, its search space, the data and their meta-features.

    `trials` is the number of trials that it is to have; `settings` are those of its trials, with the settings that are
    tried first.
    """

    __tablename__ = "tuning_studies"
    __table_args__ = (
        CheckConstraint("direction IN ('maximize', 'minimize')", name="direction"),
        Index(None, "created", "name"),
        Index(None, "learner", "objective", "created"),
    )

    name: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    learner: Mapped[str]
    dataset: Mapped[str]
    digest: Mapped[str]
    objective: Mapped[str] = mapped_column(BoundedText(20))
    metric: Mapped[str]
    direction: Mapped[str] = mapped_column(BoundedText(20))
    recipe: Mapped[dict[str, Any]]
    space: Mapped[dict[str, Any]]
    settings: Mapped[dict[str, Any]]
    meta_features: Mapped[dict[str, Any]]
    trials: Mapped[int]
    created: Mapped[datetime]


class TuningTrialRecord(Base):
    """One training of a study: its values of the tuned keys, and the result on meta-validation.

    `validations` holds the results so far by the number of the validation, from "1" on; `heartbeat` is when its worker
    last showed that it lives. A trial is `lost` if its worker died, `stopped` if it was interrupted, `failed` if it
    diverged or its settings do not go together.
    """

    __tablename__ = "tuning_trials"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'pruned', 'failed', 'stopped', 'lost')", name="status"),
    )

    study: Mapped[str] = mapped_column(
        BoundedText(NAME_LENGTH), ForeignKey("tuning_studies.name", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column(BoundedText(20))
    origin: Mapped[str]
    params: Mapped[dict[str, Any]]
    value: Mapped[float | None]
    validations: Mapped[dict[str, Any]]
    steps: Mapped[int]
    reason: Mapped[str | None] = mapped_column(BoundedText(2000))
    worker: Mapped[str]
    started: Mapped[datetime]
    heartbeat: Mapped[datetime]
    finished: Mapped[datetime | None]
