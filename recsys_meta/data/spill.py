"""Events on their way to disk: encoded rows are spilled, dealt into buckets of entities, sorted bucket by bucket.

Memory holds one chunk, one bucket (`BUCKET` rows, or all rows of one entity if those are more) and the offsets
of the entities; the disk holds every row twice, 30 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_meta.dataset import NO_TIME
from recsys_meta.types import IntArray

RECORD = np.dtype(
    [("entity", "<i4"), ("item", "<i4"), ("label", "<f4"), ("time", "<i8"), ("line", "<i8"), ("file", "<i2")]
)
Records = npt.NDArray[np.void]
BUCKET = 2**20
"""Rows sorted at a time."""


@dataclass(frozen=True)
class Bucket:
    """Rows of some entities. `rows`: good ones by entity and time, else in file order; `canonical`: a
    permutation of them that does not depend on file order; `duplicates`: rows that repeat an earlier one.
    """

    rows: Records
    canonical: IntArray
    duplicates: Records
    done: float


class Spill:
    """Encoded rows in file order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "rows.bin"
        self._file = self._path.open("wb")
        self.rows = 0

    def add(self, rows: Records) -> None:
        rows.tofile(self._file)
        self.rows += len(rows)

    def buckets(self, entity: IntArray, item: IntArray, unique: bool, size: int = BUCKET) -> Iterator[Bucket]:
        """Sorted rows, bucket after bucket; `entity` and `item` renumber ids. `unique`: find duplicates."""
        self._file.close()
        counts = np.zeros(len(entity), np.int64)
        for part in self._read(size):
            counts += np.bincount(entity[part["entity"]], minlength=len(entity))
        starts = np.concatenate([[0], np.cumsum(counts)])
        bucket_of = starts[:-1] // size
        ends = np.cumsum(np.bincount(bucket_of, counts).astype(np.int64))
        dealt = self._deal(entity, item, bucket_of, ends, size)
        for low, high in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
            if high > low:
                yield _sorted(np.array(dealt[low:high]), unique, float(high / ends[-1]))

    def _read(self, size: int) -> Iterator[Records]:
        with self._path.open("rb") as file:
            while len(part := np.fromfile(file, RECORD, size)):
                yield part

    def _deal(self, entity: IntArray, item: IntArray, bucket_of: IntArray, ends: IntArray, size: int) -> Records:
        """All rows, each in the stretch of its bucket, in file order within it."""
        dealt = np.memmap(self._folder / "buckets.bin", RECORD, "w+", shape=(self.rows,))
        cursor = np.concatenate([[0], ends[:-1]])
        for part in self._read(size):
            part["entity"], part["item"] = entity[part["entity"]], item[part["item"]]
            bucket = bucket_of[part["entity"]]
            order, begin = np.argsort(bucket, kind="stable"), 0
            for b, n in zip(*np.unique(bucket, return_counts=True), strict=True):
                dealt[cursor[b] : cursor[b] + n] = part[order[begin : begin + n]]
                cursor[b] += n
                begin += n
        return dealt


def _sorted(rows: Records, unique: bool, done: float) -> Bucket:
    rows = rows[np.lexsort((rows["time"], rows["entity"]))]
    canonical = np.lexsort((rows["label"], rows["item"], rows["time"], rows["entity"]))
    if not unique:
        # Not rows[:0], which would keep the whole bucket alive.
        return Bucket(rows, canonical, np.empty(0, RECORD), done)
    again = _repeated(rows, canonical)
    kept = np.cumsum(~again) - 1
    return Bucket(rows[~again], kept[canonical[~again[canonical]]], rows[again], done)


def _repeated(rows: Records, canonical: IntArray) -> npt.NDArray[np.bool_]:
    """Rows [n] with the entity, item and time of a row before them. Without a time the label must agree too."""
    ordered = rows[canonical]
    same = np.ones(max(len(rows) - 1, 0), bool)
    for name in ("entity", "time", "item"):
        same &= ordered[name][1:] == ordered[name][:-1]
    same &= (ordered["time"][1:] != NO_TIME) | (ordered["label"][1:] == ordered["label"][:-1])
    again = np.zeros(len(rows), bool)
    if same.any():
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        again[:] = True
        again[np.minimum.reduceat(canonical, begins)] = False
    return again
