"""Tables of items: what is stored of each, and the number of the last change of a kind."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText


class ItemRecord(Base):
    """An item of the entities of a kind. A deleted one leaves its id for a time, so that servers hear of it."""

    __tablename__ = "items"
    __table_args__ = (Index(None, "kind", "revision"), Index(None, "kind", "updated", "external_id"))

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    features: Mapped[dict[str, Any]]
    title: Mapped[str | None]
    available: Mapped[bool]
    revision: Mapped[int]
    created: Mapped[datetime]
    updated: Mapped[datetime]
    deleted: Mapped[datetime | None]


class ItemRevisionRecord(Base):
    """Number of the last change of the items of a kind."""

    __tablename__ = "item_revisions"

    kind: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    revision: Mapped[int]
