"""Table of the installation's secrets."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from recsys_meta.core.limits import NAME_LENGTH
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.column_types import BoundedText


class SecretRecord(Base):
    """A random secret that all processes of the installation share, in hexadecimal."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH), primary_key=True)
    value: Mapped[str] = mapped_column(BoundedText(NAME_LENGTH))
    created: Mapped[datetime]
