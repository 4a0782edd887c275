"""The declarative base of all tables, its naming of constraints, and the lengths of text columns.

The tables stand with their domains (`store/*/tables.py`); `recsys_meta.store.tables` imports all of them. `migrations/`
builds the same schema, and a test compares the two.
"""

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import MetaData, inspect
from sqlalchemy.orm import DeclarativeBase

from recsys_meta.core.limits import ID_LENGTH, LABEL_LENGTH, NAME_LENGTH
from recsys_meta.store.database.column_types import BigKey, BoundedText, FiniteDouble, JsonDocument, UtcDateTime

ID, NAME, LABEL = ID_LENGTH, NAME_LENGTH, LABEL_LENGTH


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
