"""Tables of the model registry: models, versions, the history of the live alias, traffic splits, defaults of
kinds, alerts."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import LABEL_LENGTH, NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText
from recsys_meta.store.tracking.tables import RunRecord


class ModelRecord(Base):
    """A name under which versions are published. Its row serves as the lock of alias and split.

    ``updated`` is when either of them last changed.
    """

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(primary_key=True)
    created: Mapped[datetime]
    updated: Mapped[datetime]


class ModelVersionRecord(Base):
    """A bundle under a model's name; ``version`` is the hash of its content.

    ``archived``: since when nobody may use it; ``deleted``: since when its files are gone. The row stays, because the
    history refers to it.
    """

    __tablename__ = "model_versions"
    __table_args__ = (Index(None, "version"), Index(None, "run"))

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(BoundedText(4000))
    run: Mapped[str | None] = mapped_column(BoundedText(NAME_LENGTH), ForeignKey(RunRecord.id, ondelete="SET NULL"))
    metrics: Mapped[dict[str, Any]]
    created: Mapped[datetime]
    archived: Mapped[datetime | None]
    deleted: Mapped[datetime | None]


class AliasChangeRecord(Base):
    """One change of an alias. The newest row names the live version, unless it retired the model; ``sequence`` has no
    gaps and no duplicates."""

    __tablename__ = "alias_history"
    __table_args__ = (
        CheckConstraint("action IN ('publish', 'promote', 'rollback', 'retire')", name="action"),
        UniqueConstraint("model", "alias", "sequence"),
        ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"], ondelete="CASCADE"
        ),
        Index(None, "model", "version"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    alias: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    sequence: Mapped[int]
    version: Mapped[str]
    previous: Mapped[str | None]
    action: Mapped[str] = mapped_column(BoundedText(20))
    actor: Mapped[str | None]
    at: Mapped[datetime]


class SplitArmRecord(Base):
    """One arm of a traffic split: its version answers for a share (``weight``, 0 to 1) of the entities.

    Rows of one change share a ``sequence``; the greatest is in force. A row without a version records the split's end.
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
    label: Mapped[str] = mapped_column(BoundedText(LABEL_LENGTH))
    version: Mapped[str | None]
    weight: Mapped[float]
    salt: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    actor: Mapped[str | None]
    at: Mapped[datetime]


class SplitEntityRecord(Base):
    """Sums of the outcomes of an entity in an arm of a split: what `split_results` is made of. Triggers keep them."""

    __tablename__ = "split_entities"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "sequence", "place"], ["splits.model", "splits.sequence", "splits.place"], ondelete="CASCADE"
        ),
        Index(None, "model", "sequence", "place"),
    )

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    entity: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    place: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    events: Mapped[int]
    lists: Mapped[float]
    hits_1: Mapped[float]
    hits_5: Mapped[float]
    hits: Mapped[float]
    reciprocal_ranks: Mapped[float]
    popular_hits: Mapped[float]
    compared_hits: Mapped[float]
    compared: Mapped[float]
    losses: Mapped[float]
    loss: Mapped[float]
    loss_unadapted: Mapped[float]
    gain: Mapped[float]


class DefaultModelRecord(Base):
    """The model that answers for a kind of entity where a request names none."""

    __tablename__ = "default_models"
    __table_args__ = (Index(None, "model"),)

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"))
    actor: Mapped[str | None]
    at: Mapped[datetime]


class AlertRecord(Base):
    """An alert about a version in service: a `rule` that it breaks, since when and, where it does no more, until when.

    `difference` with `low` and `high` is what the rule is about, over `events` of `entities`, as last `checked`.
    """

    __tablename__ = "alerts"

    model: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    model_version: Mapped[str] = mapped_column(primary_key=True)
    rule: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    opened: Mapped[datetime]
    ended: Mapped[datetime | None]
    checked: Mapped[datetime]
    difference: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    events: Mapped[int]
    entities: Mapped[int]
