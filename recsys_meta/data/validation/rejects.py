"""Handling of rejected rows: the first one stops the preparation, or all are written to rejects.csv with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from recsys_meta.core.errors import DataError
from recsys_meta.data.readers.raw_tables import OnError

REJECTS_FILE = "rejects.csv"
REJECTS_FILE_COLUMNS = ("file", "line", "field", "reason", "row")


class RejectWriter:
    """Writer of the rejected rows of a preparation.

    `counts` maps the name of a table to its number of rejected rows; `first` is the error of the first of all.
    """

    def __init__(self, folder: Path, on_error: OnError) -> None:
        self._path, self._fail = folder / REJECTS_FILE, on_error == "fail"
        self.counts: dict[str, int] = {}
        self.first: DataError | None = None

    @property
    def total(self) -> int:
        """Number of rejected rows of all tables."""
        return sum(self.counts.values())

    def add(self, file: str, rows: pd.DataFrame, table: str) -> None:
        """Write rejected rows of one file, counted under the name of a table.

        Raises DataError for the first of them where `on_error` is "fail".
        """
        if not len(rows):
            return
        if self.first is None:
            self.first = _first_error(file, {str(k): v for k, v in rows.iloc[0].items()}, len(rows))
        if self._fail:
            raise self.first
        report = rows.assign(file=file)[list(REJECTS_FILE_COLUMNS)]
        report.to_csv(self._path, mode="a", header=not self._path.exists(), index=False, encoding="utf-8")
        self.counts[table] = self.counts.get(table, 0) + len(rows)


def _first_error(file: str, row: Mapping[str, object], count: int) -> DataError:
    more = f" (and {count - 1:,} more bad rows near it)" if count > 1 else ""
    return DataError(
        f"{row['reason']}{more}",
        file=file,
        line=int(str(row["line"])),
        field=str(row["field"]) or None,
        remedy=str(row["remedy"]),
    )
