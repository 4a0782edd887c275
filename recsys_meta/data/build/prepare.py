"""Preparation of a data set from raw tables, in one pass over the events and bounded memory.

Memory holds one chunk of the file, one bucket of rows, the distinct ids (of actors and groups too), and the feature
tables. Bad rows are rejected (see `recsys_meta.data.validation.rejects`). The output directory is complete or absent.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FIRST, IntArray
from recsys_meta.core.atomic_io import atomic_directory, dump_checksummed, sha256
from recsys_meta.core.cells import text_cells
from recsys_meta.core.dataset import Dataset, FeatureColumn
from recsys_meta.core.errors import DataError
from recsys_meta.data.build.data_statistics import DataStatistics
from recsys_meta.data.build.external_sort import BUCKET_ROWS, SpillFile
from recsys_meta.data.build.feature_tables import AlignedFeatures, encode_features, read_features, read_homes
from recsys_meta.data.build.id_encoding import IdEncoder, Records
from recsys_meta.data.build.npy_columns import ColumnWriter, write_column
from recsys_meta.data.build.output_directory import reserve_output
from recsys_meta.data.build.prepared_dataset import FORMAT_VERSION, open_dataset, vocabulary_frame
from recsys_meta.data.readers.raw_tables import BLOCK_BYTES, OnError, ProgressCallback, RawTables, reject_rows
from recsys_meta.data.readers.time_columns import NumberForm, range_warnings, whole_seconds
from recsys_meta.data.validation.rejects import RejectWriter
from recsys_meta.data.validation.row_checks import SKIP_REMEDY, check_events


def prepare(
    tables: RawTables,
    out: Path,
    on_error: OnError = "fail",
    progress: ProgressCallback | None = None,
    about: Mapping[str, object] | None = None,
    block: int = BLOCK_BYTES,
    bucket: int = BUCKET_ROWS,
) -> Dataset:
    """Prepare a data set in the directory `out`, replacing one that is there already, and open it.

    `on_error` "fail" stops at the first bad row, "skip" writes bad rows to rejects.csv. `about` is stored with the
    data set. `block` is the number of bytes read, `bucket` the number of rows sorted at a time. Raises DataError for
    bad rows, an empty table, a full disk, or an `out` that holds anything but a prepared data set.
    """
    reserve_output(out)
    try:
        with atomic_directory(out) as folder:
            report = progress or (lambda stage, fraction: None)
            _PreparationRun(tables, folder, on_error, report, block, bucket).run(about or {})
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        remedy = "Is there enough space on the disk, and are you allowed to write?"
        raise DataError(problem, file=out, remedy=remedy) from None
    return open_dataset(out)


class _PreparationRun:
    """One run of `prepare`, whose steps leave their results in attributes for the following ones."""

    def __init__(
        self, tables: RawTables, folder: Path, on_error: OnError, progress: ProgressCallback, block: int, bucket: int
    ) -> None:
        self.tables, self.schema, self.folder = tables, tables.schema, folder
        self.progress, self.block, self.bucket = progress, block, bucket
        self.encoder = IdEncoder(self.schema)
        self.rejects, self.rows_read = RejectWriter(folder, on_error), 0
        self.file_names: list[str] = []
        self.digests: dict[str, object] = {}
        self.columns: dict[str, list[dict[str, object]]] = {}
        self.feature_row_counts: dict[str, object] = {}
        self.mismatches: list[str] = []

    def run(self, about: Mapping[str, object]) -> None:
        scratch = self.folder / "scratch"
        scratch.mkdir()
        spill = self._read_events(SpillFile(scratch, self.encoder.dtype))
        coding = self.encoder.final_coding()
        spaces = dict(coding.values)
        self.entity_values, self.item_values = spaces["entity"], spaces["item"]
        self._write_events(spill, coding.renumbering)
        shutil.rmtree(scratch)
        spaces.update(self._write_feature_table("entity", self.entity_values, 0))
        spaces.update(self._write_feature_table("item", self.item_values, FIRST))
        vocabulary_frame(spaces).to_parquet(self.folder / "vocab.parquet", index=False)
        self.digests["vocab"] = {s: _hash_texts(v) for s, v in spaces.items()}
        self._write_description(about, list(spaces))

    def _read_events(self, spill: SpillFile) -> SpillFile:
        homes = read_homes(self.schema, self.tables.items, self.block)
        numbers: defaultdict[str, NumberForm] = defaultdict(NumberForm)
        for chunk in self.tables.events(self.block):
            good, bad = check_events(self.schema, chunk, homes, numbers[chunk.file])
            self.rows_read += len(chunk.frame) + len(chunk.rejects)
            self.rejects.add(chunk.file, bad, "events")
            if chunk.file not in self.file_names:
                self.file_names.append(chunk.file)
            spill.add(self.encoder.records(good, self.file_names.index(chunk.file)))
            self.progress("reading", chunk.fraction)
        if not spill.row_count:
            self._raise_no_rows(", ".join(self.file_names))
        return spill

    def _raise_no_rows(self, files: str) -> None:
        if self.rejects.first is not None:
            problem = f"none of the {self.rows_read:,} rows is good; the first problem: {self.rejects.first}"
            raise DataError(problem)
        if files and self.tables.conditions:  # of a file without rows nothing is read, nor is it named
            columns = ", ".join(f"'{name}'" for name in self.tables.conditions)
            raise DataError(
                f"no row fulfils the condition on {columns}", file=files, remedy="Correct `where` in the schema"
            )
        files = files or ", ".join(self.tables.origin)
        raise DataError("has a header but no rows", file=files or None, remedy="Give a file with events")

    def _write_events(self, spill: SpillFile, renumbering: Mapping[str, IntArray]) -> None:
        counts = np.zeros(len(self.entity_values), np.int64)
        duplicates: list[Records] = []
        columns = tuple(n for n in self.encoder.dtype.names or () if n not in ("entity", "line", "file"))
        self.statistics = DataStatistics(self.schema, columns, len(renumbering.get("group", ())))
        with ExitStack() as files:
            writers = {n: files.enter_context(self._writer(n)) for n in columns if n != "time" or self.schema.time}
            for bucket in spill.buckets(renumbering, self.tables.duplicates == "refuse", self.bucket):
                counts += np.bincount(bucket.rows["entity"], minlength=len(counts))
                bucket.rows["time"] = whole_seconds(bucket.rows["time"])  # microseconds have put them in order
                for name, writer in writers.items():
                    writer.add(bucket.rows[name] + FIRST if name == "item" else bucket.rows[name])
                duplicates.append(bucket.duplicates)
                self.statistics.add(bucket)
                self.progress("sorting", bucket.fraction)
        self._reject_duplicates(np.concatenate(duplicates))
        write_column(self.folder / "events.indptr.npy", np.concatenate([[0], np.cumsum(counts)]))
        self.digests["events"] = self.statistics.digests
        self.digests["counts"] = hashlib.sha256(counts.tobytes()).hexdigest()
        self.event_count = int(counts.sum())

    def _writer(self, name: str) -> ColumnWriter:
        return ColumnWriter(self.folder / f"events.{name}.npy", self.encoder.dtype[name].str)

    def _reject_duplicates(self, rows: Records) -> None:
        rows = rows[np.lexsort((rows["line"], rows["file"]))]
        columns = [n for n in ("entity", "item", "time", "actor", "group") if n in (self.encoder.dtype.names or ())]
        reason = f"repeats an earlier row: the same {', '.join(columns[:-1])} and {columns[-1]}"
        remedy = f'Remove the row, or set duplicates = "keep" under [files] of the schema. {SKIP_REMEDY}'
        for number in np.unique(rows["file"]):
            rows_of_file = rows[rows["file"] == number]
            text = self.entity_values[rows_of_file["entity"]] + "," + self.item_values[rows_of_file["item"]]
            rejects = reject_rows(rows_of_file["line"], self.schema.item, reason, remedy, text.to_numpy())
            self.rejects.add(self.file_names[number], rejects, "events")

    def _write_feature_table(self, table_name: str, ids: pd.Index, reserved: int) -> Mapping[str, pd.Index]:
        fields = self.schema.entity_features if table_name == "entity" else self.schema.item_features
        table = self.tables.entities if table_name == "entity" else self.tables.items
        self.columns[table_name] = []
        if table is None:
            return {}
        features = read_features(table_name, table, fields, ids, self.rejects, self.block)
        self.feature_row_counts[f"{table_name}_without_features"] = features.ids_without_row
        self.feature_row_counts[f"{table_name}_rows_unused"] = features.unused_rows
        if features.mismatch:
            self.mismatches.append(features.mismatch)
        columns, spaces = encode_features(table_name, fields, features.frame, reserved)
        for name, column in columns.items():
            self._write_column(table_name, name, column)
        if table_name == "item" and self.tables.title:
            self._write_titles(features, self.tables.title)
        self.progress(f"{table_name} features", 1.0)
        return spaces

    def _write_column(self, table_name: str, name: str, column: FeatureColumn) -> None:
        parts = {"values": column.values} | ({} if column.indptr is None else {"indptr": column.indptr})
        for part, values in parts.items():
            write_column(self.folder / f"{table_name}.{name}.{part}.npy", values)
            self.digests[f"{table_name}.{name}.{part}"] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        self.columns[table_name].append({"name": name, "numeric": column.numeric, "size": column.size})

    def _write_titles(self, items: AlignedFeatures, column: str) -> None:
        titles = text_cells(items.frame[column])
        frame = pd.DataFrame({"item": self.item_values, "title": titles.to_numpy()})
        frame = frame[frame["title"] != ""]
        if len(frame):
            frame.to_parquet(self.folder / "titles.parquet", index=False)
            self.digests["titles"] = _hash_texts(pd.Index(frame["item"] + "\n" + frame["title"]))

    def _write_description(self, about: Mapping[str, object], spaces: list[str]) -> None:
        schema = self.schema.model_dump(mode="json")
        # Hashed without defaults, so that a new option of the schema does not change the digests of existing data.
        explicit_schema = self.schema.model_dump(mode="json", exclude_defaults=True)
        content = json.dumps({"schema": explicit_schema, **self.digests}, sort_keys=True, ensure_ascii=False)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(self.folder.iterdir())}
        description = {
            "format": FORMAT_VERSION,
            "digest": hashlib.sha256(content.encode()).hexdigest(),
            "schema": schema,
            "about": {**about, **self._about()},
            "columns": self.columns,
            "spaces": spaces,
            "files": files,
        }
        (self.folder / "dataset.json").write_text(dump_checksummed(description), encoding="utf-8")

    def _about(self) -> dict[str, object]:
        counts = {"entities": len(self.entity_values), "items": len(self.item_values), "events": self.event_count}
        return {
            **counts,
            "origin": list(self.tables.origin),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows_read": self.rows_read,
            "rows_rejected": self.rejects.counts,
            "unknown_times": self.statistics.unknown_times,
            **self.feature_row_counts,
            "warnings": [
                *_warnings(counts, self.tables.expected),
                *self.statistics.warnings,
                *self._time_warnings(),
                *self.mismatches,
            ],
        }

    def _time_warnings(self) -> Sequence[str]:
        statistics = self.statistics
        if statistics.time_range is None or self.tables.ordinal_time:
            return ()
        known = self.event_count - statistics.unknown_times
        now = datetime.now(UTC).timestamp()
        return range_warnings(*statistics.time_range, known, now, self.schema.time_format)


def _hash_texts(values: pd.Index) -> str:
    return hashlib.sha256(json.dumps(values.to_list(), ensure_ascii=False).encode()).hexdigest()


def _warnings(counts: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    return [
        f"{counts[name]:,} {name} where {count:,} were published: a different edition, or not the whole of it"
        for name, count in expected.items()
        if counts[name] != count
    ]
