"""Tables of the database as Parquet files, a part of the rows at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Boolean, ColumnElement, Date, DateTime, Float, Integer, Select, TypeDecorator, select
from sqlalchemy.orm import Session

from recsys_meta.core.atomic_io import atomic_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.store.database.base import Base
from recsys_meta.store.entities.tables import AdaptationRecord, ImpressionRecord, NewcomerResultRecord, OutcomeRecord
from recsys_meta.store.tracking.tables import EvaluationRecord, PairedTestRecord

BLOCK_ROWS = 50_000
"""Rows held at once."""

TABLES: Mapping[str, type[Base]] = {
    "adaptations": AdaptationRecord,
    "impressions": ImpressionRecord,
    "outcomes": OutcomeRecord,
    "evaluations": EvaluationRecord,
    "paired_tests": PairedTestRecord,
    "newcomer_results": NewcomerResultRecord,
}
"""Tables that `db export` writes, by name."""

_ARROW_TYPES: Sequence[tuple[type[Any], pa.DataType]] = (
    (Boolean, pa.bool_()),
    (Integer, pa.int64()),
    (Float, pa.float64()),
    (Date, pa.date32()),
    (DateTime, pa.timestamp("us", tz="UTC")),
)


def write_rows(session: Session, query: Select[Any], columns: Sequence[ColumnElement[Any]], path: Path) -> int:
    """Write the rows of a query of these columns into a Parquet file that appears whole; return how many.

    Times are in UTC; columns of JSON become text.
    """
    schema = pa.schema([(str(c.key), _arrow_type(c)) for c in columns])
    count = 0
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for rows in session.execute(query.execution_options(yield_per=BLOCK_ROWS)).partitions():
            values = zip(*rows, strict=True)
            arrays = [pa.array(map(_cell, column), field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(rows)
    return count


def write_tables(session: Session, folder: Path, since: datetime | None = None) -> dict[str, int]:
    """Write the tables of `TABLES` into a folder, those rows that were made since a time; return how many of each."""
    return {name: _write_table(session, table, folder / f"{name}.parquet", since) for name, table in TABLES.items()}


def _write_table(session: Session, table: type[Base], path: Path, since: datetime | None) -> int:
    columns = list(table.__table__.columns)
    query = select(*columns)
    if since is not None:
        query = query.where(table.__table__.c.created >= since)
    return write_rows(session, query, columns, path)


def _arrow_type(column: ColumnElement[Any]) -> pa.DataType:
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    return next((arrow for sql, arrow in _ARROW_TYPES if isinstance(kind, sql)), pa.string())


def _cell(value: Any) -> Any:
    return dump_json(value) if isinstance(value, dict | list | tuple) else value
