"""Raw tables to a prepared data set, in one pass over the events and bounded memory.

Held in memory: one chunk of the file, one bucket of rows, the distinct ids, and the feature tables. Bad rows
are refused (see `rejects`). The directory appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_meta.data.checks import SKIP, GoodRows, check_events
from recsys_meta.data.columns import ColumnWriter, write_column
from recsys_meta.data.ids import Interner
from recsys_meta.data.prepared import FORMAT, open_dataset, vocabulary_frame
from recsys_meta.data.rejects import Rejects
from recsys_meta.data.side import Side, encode_side, read_side
from recsys_meta.data.spill import BUCKET, RECORD, Bucket, Records, Spill
from recsys_meta.data.tables import BLOCK, OnError, Progress, RawTables, rejects_of
from recsys_meta.data.target import claim
from recsys_meta.dataset import NO_TIME, Column, Dataset
from recsys_meta.durable import new_directory, seal, sha256
from recsys_meta.errors import DataError
from recsys_meta.types import FIRST, IntArray


def prepare(
    tables: RawTables,
    out: Path,
    on_error: OnError = "fail",
    progress: Progress | None = None,
    about: Mapping[str, object] | None = None,
    block: int = BLOCK,
    bucket: int = BUCKET,
) -> Dataset:
    """Prepare a data set in the directory `out`, which is replaced if it holds one already, and open it.

    `on_error` 'fail' stops at the first bad row, 'skip' writes bad rows to rejects.csv. Raises DataError for
    bad rows, an empty table, a full disk, or an `out` that holds something else.
    """
    claim(out)
    try:
        with new_directory(out) as folder:
            _Preparation(tables, folder, on_error, progress or (lambda stage, done: None), block, bucket).run(
                about or {}
            )
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise DataError(problem, file=out, remedy="Is there room on the disk, and are you allowed to write?") from None
    return open_dataset(out)


@dataclass
class _Counts:
    """What the events were found to hold."""

    read: int = 0
    unknown_times: int = 0
    hashes: dict[str, Any] = field(default_factory=lambda: {n: hashlib.sha256() for n in ("item", "label", "time")})


class _Preparation:
    """One run of `prepare`; each step leaves its result for the next."""

    def __init__(
        self, tables: RawTables, folder: Path, on_error: OnError, progress: Progress, block: int, bucket: int
    ) -> None:
        self.tables, self.schema, self.folder = tables, tables.schema, folder
        self.progress, self.block, self.bucket = progress, block, bucket
        self.rejects, self.counts = Rejects(folder, on_error), _Counts()
        self.names: list[str] = []
        self.digests: dict[str, object] = {}
        self.columns: dict[str, list[dict[str, object]]] = {}
        self.facts: dict[str, object] = {}

    def run(self, about: Mapping[str, object]) -> None:
        scratch = self.folder / "scratch"
        scratch.mkdir()
        spill, entities, items = self._read_events(Spill(scratch))
        self.entity_values, entity_place = entities.sorted()
        self.item_values, item_place = items.sorted()
        self._write_events(spill, entity_place, item_place)
        shutil.rmtree(scratch)
        spaces = {"entity": self.entity_values, "item": self.item_values}
        spaces.update(self._write_side("entity", self.entity_values, 0))
        spaces.update(self._write_side("item", self.item_values, FIRST))
        vocabulary_frame(spaces).to_parquet(self.folder / "vocab.parquet", index=False)
        self.digests["vocab"] = {s: _hash_texts(v) for s, v in spaces.items()}
        self._describe(about, list(spaces))

    def _read_events(self, spill: Spill) -> tuple[Spill, Interner, Interner]:
        entities, items = Interner(), Interner()
        for chunk in self.tables.events(self.block):
            good, bad = check_events(self.schema, chunk)
            self.counts.read += len(chunk.frame) + len(chunk.rejects)
            self.rejects.take(chunk.file, bad, "events")
            if chunk.file not in self.names:
                self.names.append(chunk.file)
            number = self.names.index(chunk.file)
            spill.add(_records(good, entities.add(good.entity), items.add(good.item), number))
            self.progress("reading", chunk.done)
        if not spill.rows:
            self._complain(", ".join(self.names))
        return spill, entities, items

    def _complain(self, files: str) -> None:
        if self.rejects.first is not None:
            problem = f"none of the {self.counts.read:,} rows is good; the first problem: {self.rejects.first}"
            raise DataError(problem)
        files = files or ", ".join(self.tables.origin)
        raise DataError("has a header but no rows", file=files or None, remedy="Give a file with events")

    def _write_events(self, spill: Spill, entity: IntArray, item: IntArray) -> None:
        counts = np.zeros(len(entity), np.int64)
        timed = self.schema.time is not None
        repeated: list[Records] = []
        with (
            ColumnWriter(self.folder / "events.item.npy", "<i4") as items,
            ColumnWriter(self.folder / "events.label.npy", "<f4") as labels,
            ColumnWriter(self.folder / "events.time.npy", "<i8") as times,
        ):
            for part in spill.buckets(entity, item, self.tables.duplicates == "refuse", self.bucket):
                counts += np.bincount(part.rows["entity"], minlength=len(counts))
                items.add(part.rows["item"] + FIRST)
                labels.add(part.rows["label"])
                times.add(part.rows["time"] if timed else part.rows["time"][:0])
                repeated.append(part.duplicates)
                self._hash(part)
                self.progress("sorting", part.done)
        self._refuse_repeated(np.concatenate(repeated))
        write_column(self.folder / "events.indptr.npy", np.concatenate([[0], np.cumsum(counts)]))
        if not timed:
            (self.folder / "events.time.npy").unlink()
        self.digests["events"] = {n: h.hexdigest() for n, h in self.counts.hashes.items()}
        self.digests["counts"] = hashlib.sha256(counts.tobytes()).hexdigest()
        self.kept = int(counts.sum())

    def _hash(self, part: Bucket) -> None:
        for name, known in self.counts.hashes.items():
            known.update(np.ascontiguousarray(part.rows[name][part.canonical]).data)
        if self.schema.time is not None:
            self.counts.unknown_times += int((part.rows["time"] == NO_TIME).sum())

    def _refuse_repeated(self, rows: Records) -> None:
        rows = rows[np.lexsort((rows["line"], rows["file"]))]
        reason = "repeats an earlier row: the same entity, item and time"
        remedy = f'Remove the row, or set duplicates = "keep" under [files] of the schema. {SKIP}'
        for number in np.unique(rows["file"]):
            of = rows[rows["file"] == number]
            text = self.entity_values[of["entity"]] + "," + self.item_values[of["item"]]
            bad = rejects_of(of["line"], self.schema.item, reason, remedy, text.to_numpy())
            self.rejects.take(self.names[number], bad, "events")

    def _write_side(self, side: str, ids: pd.Index, before: int) -> Mapping[str, pd.Index]:
        fields = self.schema.entity_features if side == "entity" else self.schema.item_features
        table = self.tables.entities if side == "entity" else self.tables.items
        self.columns[side] = []
        if table is None:
            return {}
        read = read_side(side, table, fields, ids, self.rejects, self.block)
        self.facts[f"{side}_without_features"], self.facts[f"{side}_rows_unused"] = read.missing, read.unused
        columns, spaces = encode_side(side, fields, read.frame, before)
        for name, column in columns.items():
            self._write_column(side, name, column)
        if side == "item" and self.tables.title:
            self._write_titles(read, self.tables.title)
        self.progress(f"{side} features", 1.0)
        return spaces

    def _write_column(self, side: str, name: str, column: Column) -> None:
        parts = {"values": column.values} | ({} if column.indptr is None else {"indptr": column.indptr})
        for part, values in parts.items():
            write_column(self.folder / f"{side}.{name}.{part}.npy", values)
            self.digests[f"{side}.{name}.{part}"] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
        self.columns[side].append({"name": name, "numeric": column.numeric, "size": column.size})

    def _write_titles(self, items: Side, column: str) -> None:
        titles = items.frame[column].astype("string").fillna("").str.strip()
        frame = pd.DataFrame({"item": self.item_values, "title": titles.to_numpy()})
        frame = frame[frame["title"] != ""]
        if len(frame):
            frame.to_parquet(self.folder / "titles.parquet", index=False)
            self.digests["titles"] = _hash_texts(pd.Index(frame["item"] + "\n" + frame["title"]))

    def _describe(self, about: Mapping[str, object], spaces: list[str]) -> None:
        schema = self.schema.model_dump(mode="json")
        # Without defaults, so that a new option of the schema leaves the digests of old data alone.
        meant = self.schema.model_dump(mode="json", exclude_defaults=True)
        content = json.dumps({"schema": meant, **self.digests}, sort_keys=True, ensure_ascii=False)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(self.folder.iterdir())}
        described = {
            "format": FORMAT,
            "digest": hashlib.sha256(content.encode()).hexdigest(),
            "schema": schema,
            "about": {**about, **self._facts()},
            "columns": self.columns,
            "spaces": spaces,
            "files": files,
        }
        (self.folder / "dataset.json").write_text(seal(described), encoding="utf-8")

    def _facts(self) -> dict[str, object]:
        found = {"entities": len(self.entity_values), "items": len(self.item_values), "events": self.kept}
        return {
            **found,
            "origin": list(self.tables.origin),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows_read": self.counts.read,
            "rows_rejected": self.rejects.counts,
            "unknown_times": self.counts.unknown_times,
            **self.facts,
            "warnings": _warnings(found, self.tables.expected),
        }


def _records(good: GoodRows, entity: IntArray, item: IntArray, file: int) -> Records:
    rows = np.empty(len(good.lines), RECORD)
    rows["entity"], rows["item"], rows["file"] = entity, item, file
    rows["label"], rows["time"], rows["line"] = good.label + np.float32(0), good.time, good.lines  # no -0.0
    return rows


def _hash_texts(values: pd.Index) -> str:
    return hashlib.sha256(json.dumps(values.to_list(), ensure_ascii=False).encode()).hexdigest()


def _warnings(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    return [
        f"{found[k]:,} {k} where {n:,} were published: a different edition, or not the whole of it"
        for k, n in expected.items()
        if found[k] != n
    ]
