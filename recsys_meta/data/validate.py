"""Validation of data without writing a data set: every row is read, and every problem is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recsys_meta.core.dataset import Dataset
from recsys_meta.data.build.prepared_dataset import open_dataset
from recsys_meta.data.readers.raw_tables import BLOCK_BYTES, ProgressCallback
from recsys_meta.data.sources.toml_schema import prepare_custom
from recsys_meta.data.validation.rejects import REJECTS_FILE


@dataclass(frozen=True)
class ValidationReport:
    """Result of a validation: counts of good rows, and the rejected ones.

    `rejected` maps the name of a table to its number of bad rows; `examples` are the first of them, with the keys file,
    line, field, reason and row.
    """

    entities: int
    items: int
    events: int
    rejected: Mapping[str, int]
    examples: tuple[Mapping[str, object], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if no row is bad."""
        return not self.rejected


def validate(
    path: Path | str, progress: ProgressCallback | None = None, examples: int = 20, block: int = BLOCK_BYTES
) -> ValidationReport:
    """Check the data of a TOML schema, an .inter file, or a prepared directory, and report the bad rows.

    `examples` is the number of bad rows to return. Raises ConfigError for a wrong schema, and DataError if a file as a
    whole cannot be used, if no row is good, or if a prepared directory is damaged.
    """
    path = Path(path)
    if (path / "dataset.json").is_file():
        # Rows that were left out when the directory was prepared are no fault of the directory.
        return _report(open_dataset(path, verify=True), {}, ())
    with tempfile.TemporaryDirectory(prefix="recsys-meta-") as folder:
        data = prepare_custom(path, Path(folder) / "data", "skip", progress, block=block)
        return _report(data, data.about.get("rows_rejected"), _examples(Path(folder) / "data" / REJECTS_FILE, examples))


def _report(data: Dataset, rejected: object, examples: tuple[Mapping[str, object], ...]) -> ValidationReport:
    return ValidationReport(
        entities=data.events.entity_count,
        items=len(data.vocab.values["item"]),
        events=len(data.events),
        rejected={str(k): int(v) for k, v in rejected.items()} if isinstance(rejected, Mapping) else {},
        examples=examples,
        warnings=data.warnings,
    )


def _examples(path: Path, count: int) -> tuple[Mapping[str, object], ...]:
    if not path.is_file():
        return ()
    frame = pd.read_csv(path, nrows=count, dtype="str", keep_default_na=False).astype({"line": "int64"})
    return tuple({str(k): v for k, v in row.items()} for row in frame.to_dict("records"))
