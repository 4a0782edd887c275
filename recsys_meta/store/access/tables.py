"""Tables of access control: API keys and the audit log."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText


class ApiKeyRecord(Base):
    """A key of the API. ``id`` is the part that may be shown; of the whole key only a digest is stored."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("digest"), Index(None, "name"))

    id: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    scopes: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]


class AuditRecord(Base):
    """An administrative action with its actor and target. It holds no secret and no id of an erased entity."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "at", "id"), Index(None, "action", "at"), Index(None, "actor", "at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    target: Mapped[str] = mapped_column(BoundedText(500))
    request_id: Mapped[str | None] = mapped_column(BoundedText(NAME_LENGTH))
