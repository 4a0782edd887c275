"""Declarative base of all tables, with its naming of constraints and its column types.

The tables are declared in their domains (`store/*/tables.py`); `recsys_meta.store.tables` imports all of them.
`migrations/` builds the same schema, and a test compares the two.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import MetaData, inspect
from sqlalchemy.orm import DeclarativeBase

from recsys_meta.core.limits import ID_LENGTH
from recsys_meta.store.database.column_types import BigKey, BoundedText, FiniteDouble, JsonDocument, UtcDateTime


class Base(DeclarativeBase):
    """Declarative base that names every constraint: a migration could not drop one without a name."""

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
        str: BoundedText(ID_LENGTH),
        dict[str, Any]: JsonDocument(),
    }

    def as_dict(self) -> dict[str, Any]:
        """Return the columns by name, for responses and printing."""
        return {column.key: getattr(self, column.key) for column in inspect(type(self)).column_attrs}
