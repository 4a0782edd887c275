"""Tables of access control: API keys and the audit log."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.store.database.base import NAME, Base
from recsys_meta.store.database.column_types import BoundedText


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
