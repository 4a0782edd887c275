"""The tables of the contract. `migrations/` builds the same ones; a test compares the two.

Interactions (`events`) are the truth and have no foreign keys, so that feedback is never lost because something
else is not known yet. What belongs to a run or a model does have them.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from recsys_meta.store.database.column_types import BigKey, BoundedText, FiniteDouble, JsonDocument, UtcDateTime

ID = 200  # characters of an identifier given by a caller
NAME = 100  # characters of a name that the project itself gives
LABEL = 50  # characters of an arm's label


class Base(DeclarativeBase):
    """Named constraints: without names a later migration could not drop them."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        float: FiniteDouble(),
        int: BigKey,
        str: BoundedText(ID),
        dict[str, Any]: JsonDocument(),
    }

    def as_dict(self) -> dict[str, Any]:
        """The columns by name, for answers and printing."""
        return {column.key: getattr(self, column.key) for column in inspect(type(self)).column_attrs}


class RunRecord(Base):
    """One training: who asked for what, and how it ended."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'failed', 'stopped')", name="status"),
        Index(None, "started", "id"),
        Index(None, "status", "started"),
    )

    id: Mapped[str] = mapped_column(BoundedText(NAME), primary_key=True)
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
    """A figure of a run at an outer step. A value that was not a number is NULL."""

    __tablename__ = "metrics"

    run: Mapped[str] = mapped_column(BoundedText(NAME), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]


class LatestMetricRecord(Base):
    """The figure with the greatest step for each run and key, so that a list of runs needs no aggregate."""

    __tablename__ = "latest_metrics"
    __table_args__ = (Index(None, "key", "value"),)

    run: Mapped[str] = mapped_column(BoundedText(NAME), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int]
    value: Mapped[float | None]
    at: Mapped[datetime]


class CurriculumRecord(Base):
    """How hard each bucket of tasks was at a step, and the weight it was drawn with."""

    __tablename__ = "curriculum"

    run: Mapped[str] = mapped_column(BoundedText(NAME), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
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


class ModelRecord(Base):
    """A name under which versions are published. Its row is the lock; ``updated``: when alias or split last changed."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    updated: Mapped[datetime]


class ModelVersionRecord(Base):
    """A bundle under a model's name; ``version`` is the hash of its content."""

    __tablename__ = "model_versions"
    __table_args__ = (Index(None, "version"), Index(None, "run"))

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(BoundedText(4000))
    run: Mapped[str | None] = mapped_column(BoundedText(NAME), ForeignKey("runs.id", ondelete="SET NULL"))
    metrics: Mapped[dict[str, Any]]
    created: Mapped[datetime]


class AliasChangeRecord(Base):
    """One move of an alias. The newest row is what is live; ``sequence`` has no gap and no double."""

    __tablename__ = "alias_history"
    __table_args__ = (
        CheckConstraint("action IN ('publish', 'promote', 'rollback')", name="action"),
        UniqueConstraint("model", "alias", "sequence"),
        ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"], ondelete="CASCADE"
        ),
        Index(None, "model", "version"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    alias: Mapped[str] = mapped_column(BoundedText(NAME))
    sequence: Mapped[int]
    version: Mapped[str]
    previous: Mapped[str | None]
    action: Mapped[str] = mapped_column(BoundedText(20))
    actor: Mapped[str | None]
    at: Mapped[datetime]


class EntityRecord(Base):
    """What is known of an entity besides its events."""

    __tablename__ = "entities"

    kind: Mapped[str] = mapped_column(BoundedText(NAME), primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    features: Mapped[dict[str, Any]]
    created: Mapped[datetime]
    updated: Mapped[datetime]


class EventRecord(Base):
    """One interaction of an entity. ``context`` holds the row's other fields, where it has any."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "kind", "entity", "time", "event_id"), Index(None, "kind", "received"))

    kind: Mapped[str] = mapped_column(BoundedText(NAME), primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    entity: Mapped[str]
    item: Mapped[str]
    label: Mapped[float]
    time: Mapped[datetime]
    context: Mapped[dict[str, Any] | None]
    received: Mapped[datetime]


class AdaptationRecord(Base):
    """One adaptation of an entity: losses on its support before and after, and how long it took in milliseconds; or
    `answers` that needed none, about the same and at about the same time, with their mean `ms`. `variant` is the label
    of the arm that answered, NULL where no arm did."""

    __tablename__ = "adaptations"
    __table_args__ = (
        Index(None, "created", "id"),
        Index(None, "kind", "entity", "created"),
        Index(None, "model_version", "created"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version: Mapped[str]
    kind: Mapped[str] = mapped_column(BoundedText(NAME))
    entity: Mapped[str]
    support_size: Mapped[int]
    steps: Mapped[int]
    loss_before: Mapped[float | None]
    loss_after: Mapped[float | None]
    gradient_norm: Mapped[float | None]
    ms: Mapped[float]
    served_by: Mapped[str] = mapped_column(BoundedText(20))
    created: Mapped[datetime]
    answers: Mapped[int] = mapped_column(server_default="1")
    variant: Mapped[str | None] = mapped_column(BoundedText(LABEL))


class ErasureRecord(Base):
    """The receipt of a deletion. It keeps a digest of the entity, not its id: what was erased stays erased.

    ``confirmed`` is when the deletion was last asked for: nothing made before it may be written afterwards.
    """

    __tablename__ = "erasures"
    __table_args__ = (Index(None, "entity_digest", "at"),)

    receipt: Mapped[str] = mapped_column(BoundedText(NAME), primary_key=True)
    kind: Mapped[str] = mapped_column(BoundedText(NAME))
    entity_digest: Mapped[str] = mapped_column(BoundedText(NAME))
    entities: Mapped[int]
    events: Mapped[int]
    adaptations: Mapped[int]
    at: Mapped[datetime]
    confirmed: Mapped[datetime]


class ApiKeyRecord(Base):
    """A key of the API. ``id`` is the part of it that may be shown; of the whole only a digest is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("digest"), Index(None, "name"))

    id: Mapped[str] = mapped_column(BoundedText(NAME), primary_key=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(BoundedText(NAME))
    scopes: Mapped[str] = mapped_column(BoundedText(NAME))
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]


class AuditRecord(Base):
    """Who did what only an administrator may do, and to what. It holds no secret and no erased id."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "at", "id"), Index(None, "action", "at"), Index(None, "actor", "at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(BoundedText(NAME))
    target: Mapped[str] = mapped_column(BoundedText(500))
    request_id: Mapped[str | None] = mapped_column(BoundedText(NAME))


class ExplorationRecord(Base):
    """A list that was explored: the entity in its first place, and how likely it was to come there."""

    __tablename__ = "explorations"
    __table_args__ = (Index(None, "created", "id"), Index(None, "kind", "entity", "created"))

    id: Mapped[int] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(BoundedText(NAME))
    model: Mapped[str]
    model_version: Mapped[str]
    kind: Mapped[str] = mapped_column(BoundedText(NAME))
    entity: Mapped[str]
    item: Mapped[str]
    candidates: Mapped[int]
    propensity: Mapped[float]
    seed: Mapped[int]
    created: Mapped[datetime]


class SplitArmRecord(Base):
    """One arm of a change of a model's split: its version answers for a share (``weight``, 0 to 1) of the entities.

    The arms with the greatest ``sequence`` stand. A row without a version says that the split ended.
    """

    __tablename__ = "splits"
    __table_args__ = (
        CheckConstraint("weight >= 0 AND weight <= 1", name="weight"),
        UniqueConstraint("model", "sequence", "place"),
        ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"], ondelete="CASCADE"
        ),
        Index(None, "model", "version"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"))
    sequence: Mapped[int]
    place: Mapped[int]
    label: Mapped[str] = mapped_column(BoundedText(LABEL))
    version: Mapped[str | None]
    weight: Mapped[float]
    salt: Mapped[str] = mapped_column(BoundedText(NAME))
    actor: Mapped[str | None]
    at: Mapped[datetime]
