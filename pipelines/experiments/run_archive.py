"""Archive of a run beside its bundle: what SQL holds of it, so that it comes along into another database.

It has the run itself, its figures, its curriculum, and the evaluations that it took part in with their paired tests.
Results of single newcomers, who may ask to be erased, are not in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from pipelines.experiments.archive_rows import check_rows
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import CheckpointError, ConflictError, DataError
from recsys_meta.core.json_text import dump_json
from recsys_meta.store.database.base import Base
from recsys_meta.store.database.bulk_insert import in_chunks, table_of
from recsys_meta.store.tracking.evaluations import evaluations_with_run
from recsys_meta.store.tracking.paired_tests import tests_of_evaluations
from recsys_meta.store.tracking.runs import run_exists
from recsys_meta.store.tracking.tables import (
    CurriculumRecord,
    EvaluationRecord,
    LatestMetricRecord,
    MetricRecord,
    PairedTestRecord,
    RunRecord,
)

_LOG = logging.getLogger(__name__)
_OF_RUN: dict[str, type[Base]] = {
    "runs": RunRecord,
    "metrics": MetricRecord,
    "latest_metrics": LatestMetricRecord,
    "curriculum": CurriculumRecord,
}
_OF_EVALUATIONS: dict[str, type[Base]] = {"evaluations": EvaluationRecord, "paired_tests": PairedTestRecord}
_TIMES = {"started", "finished", "at", "created"}

_POINT_NAMES = ("dataset", "created", "scenario", "method", "run", "seed")
_TEST_NAMES = ("dataset", "created", "scenario", "method")

Rows = list[dict[str, Any]]
"""Rows of a table by column."""


def archive_file(workspace: Workspace, run: str) -> Path:
    """Return the file that the archive of a run is written to."""
    return workspace.settings.runs / run / "archive.json"


def write_run_archive(workspace: Workspace, run: str) -> None:
    """Write what SQL holds of a run into its folder; nothing where the folder or the run is not here."""
    path = archive_file(workspace, run)
    if not path.parent.is_dir():
        return
    with workspace.reading() as session:
        if not run_exists(session, run):
            return
        tables = _rows_of_run(session, run)
    try:
        write_file(path, dump_json(tables).encode())
    except OSError as error:  # the run may lie where only its owner writes
        _LOG.warning("%s cannot be written: %s", path, error.strerror or error)


def restore_run(workspace: Workspace, run: str) -> bool:
    """Insert an archived run into a database that does not know it; return whether the database knows it now.

    Raises CheckpointError if the archive is damaged, or of another run.
    """
    with workspace.reading() as session:
        if run_exists(session, run):
            return True
    path = archive_file(workspace, run)
    if not path.is_file():
        return False
    try:
        tables = _read_archive(path, run)
        with workspace.session() as session:
            for name, table in _OF_RUN.items():
                _insert(session, table, tables[name])
            _insert_evaluations(session, tables["evaluations"], tables["paired_tests"])
    except (ValueError, TypeError, KeyError, AttributeError, DataError, ConflictError) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); take the file from a backup, or remove it to publish"
            " without the run's figures"
        ) from None
    return True


def _read_archive(path: Path, run: str) -> dict[str, Rows]:
    """Read an archive and check its rows. Raises ValueError, TypeError, KeyError, AttributeError or DataError."""
    content = json.loads(path.read_text())
    tables = {
        name: check_rows(table, [_row(columns) for columns in content[name]])
        for name, table in {**_OF_RUN, **_OF_EVALUATIONS}.items()
    }
    (row,) = tables["runs"]
    if any(one["run"] != run for name in _OF_RUN if name != "runs" for one in tables[name]) or row["id"] != run:
        raise ValueError(f"it is of another run than '{run}'")
    return tables


def _rows_of_run(session: Session, run: str) -> dict[str, Rows]:
    tables: dict[str, Rows] = {}
    for name, table in _OF_RUN.items():
        columns = table_of(table).c
        key = columns.id if table is RunRecord else columns.run
        rows = session.execute(select(*columns).where(key == run).order_by(*table_of(table).primary_key))
        tables[name] = [dict(row) for row in rows.mappings()]
    evaluations = evaluations_with_run(session, run)
    points = [_unnamed(row.as_dict()) for row in evaluations]
    # A version that was published twice has its points twice.
    tables["evaluations"] = list({(*_key(p, _POINT_NAMES), p["shots"], p["metric"]): p for p in points}.values())
    tables["paired_tests"] = [_without_id(row.as_dict()) for row in tests_of_evaluations(session, evaluations)]
    return tables


def _unnamed(columns: dict[str, Any]) -> dict[str, Any]:
    """A point without the name that it was published under, which is that of one database."""
    return {**_without_id(columns), "model": None}


def _without_id(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if name != "id"}


def _row(columns: dict[str, Any]) -> dict[str, Any]:
    return {k: datetime.fromisoformat(v) if k in _TIMES and v is not None else v for k, v in columns.items()}


def _insert(session: Session, table: type[Base], rows: Rows) -> None:
    for part in in_chunks(rows):
        session.execute(insert(table_of(table)), list(part))


def _insert_evaluations(session: Session, points: Rows, tests: Rows) -> None:
    """Insert evaluations that are not here yet: another run of the same comparison may have brought them along."""
    for table, rows, names in ((EvaluationRecord, points, _POINT_NAMES), (PairedTestRecord, tests, _TEST_NAMES)):
        columns = table_of(table).c
        present: set[tuple[Any, ...]] = set()
        for dataset, created in {(row["dataset"], row["created"]) for row in rows}:
            same = columns.dataset == dataset, columns.created == created
            query = select(*(columns[name] for name in names)).where(*same)
            present |= {tuple(row) for row in session.execute(query)}
        _insert(session, table, [row for row in rows if _key(row, names) not in present])


def _key(row: dict[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)
