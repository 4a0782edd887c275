"""Events on their way to disk: encoded rows are spilled, dealt into buckets of entities, sorted bucket by bucket.

Memory holds one chunk, one bucket (`BUCKET` rows, or all rows of one entity if those are more) and the offsets
of the entities; the disk holds every row twice, 30 bytes each and 4 for each column beside the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_meta.core.dataset import NO_TIME
from recsys_meta.core.types import IntArray
from recsys_meta.data.build.id_encoding import CONTEXT_PREFIX, Records

BUCKET_ROWS = 2**20
"""Rows sorted at a time."""


@dataclass(frozen=True)
class SortedBucket:
    """Rows of some entities. `rows`: good ones by entity and time, else in file order; `canonical`: a
    permutation of them that does not depend on file order; `duplicates`: rows that repeat an earlier one.
    """

    rows: Records
    canonical: IntArray
    duplicates: Records
    fraction: float


class SpillFile:
    """Encoded rows in file order, of a type as `coding.record` gives it."""

    def __init__(self, folder: Path, dtype: np.dtype[np.void]) -> None:
        self._folder, self._dtype = folder, dtype
        self._path = folder / "rows.bin"
        self._file = self._path.open("wb")
        self.row_count = 0

    def add(self, rows: Records) -> None:
        rows.tofile(self._file)
        self.row_count += len(rows)

    def buckets(self, place: Mapping[str, IntArray], unique: bool, size: int = BUCKET_ROWS) -> Iterator[SortedBucket]:
        """Sorted rows, bucket after bucket; `place` renumbers the ids of its fields. `unique`: find duplicates."""
        self._file.close()
        entity = place["entity"]
        counts = np.zeros(len(entity), np.int64)
        for part in self._read(size):
            counts += np.bincount(entity[part["entity"]], minlength=len(entity))
        starts = np.concatenate([[0], np.cumsum(counts)])
        bucket_of = starts[:-1] // size
        ends = np.cumsum(np.bincount(bucket_of, counts).astype(np.int64))
        dealt = self._distribute(place, bucket_of, ends, size)
        for low, high in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
            if high > low:
                yield _sort_bucket(np.array(dealt[low:high]), unique, float(high / ends[-1]))

    def _read(self, size: int) -> Iterator[Records]:
        with self._path.open("rb") as file:
            while len(part := np.fromfile(file, self._dtype, size)):
                yield part

    def _distribute(self, place: Mapping[str, IntArray], bucket_of: IntArray, ends: IntArray, size: int) -> Records:
        """All rows, each in the stretch of its bucket, in file order within it."""
        dealt = np.memmap(self._folder / "buckets.bin", self._dtype, "w+", shape=(self.row_count,))
        cursor = np.concatenate([[0], ends[:-1]])
        for part in self._read(size):
            for name, number in place.items():
                part[name] = number[part[name]]
            bucket = bucket_of[part["entity"]]
            order, begin = np.argsort(bucket, kind="stable"), 0
            for b, n in zip(*np.unique(bucket, return_counts=True), strict=True):
                dealt[cursor[b] : cursor[b] + n] = part[order[begin : begin + n]]
                cursor[b] += n
                begin += n
        return dealt


def _sort_bucket(rows: Records, unique: bool, done: float) -> SortedBucket:
    rows = rows[np.lexsort((rows["time"], rows["entity"]))]
    key, rest = _key_and_other_columns(rows)
    canonical = np.lexsort((*reversed(rest), *reversed(key)))
    if not unique:
        # Not rows[:0], which would keep the whole bucket alive.
        return SortedBucket(rows, canonical, np.empty(0, rows.dtype), done)
    again = _find_duplicates(rows, canonical, key, rest)
    kept = np.cumsum(~again) - 1
    return SortedBucket(rows[~again], kept[canonical[~again[canonical]]], rows[again], done)


def _key_and_other_columns(rows: Records) -> tuple[list[IntArray], list[IntArray]]:
    """What tells rows apart, and what else they say. Numbers of a context by their bits, so that NaN equals NaN."""
    names = rows.dtype.names or ()
    key = [rows[n] for n in ("entity", "time", "item", "actor", "group") if n in names]
    context = [np.ascontiguousarray(rows[n]).view(np.int32) for n in names if n.startswith(CONTEXT_PREFIX)]
    return key, [rows["label"], *context]


def _find_duplicates(
    rows: Records, canonical: IntArray, key: list[IntArray], rest: list[IntArray]
) -> npt.NDArray[np.bool_]:
    """Rows [n] whose key a row before them has. Without a time the rest must agree too."""
    same = _equals_previous(key, canonical) & (
        (rows["time"][canonical[1:]] != NO_TIME) | _equals_previous(rest, canonical)
    )
    again = np.zeros(len(rows), bool)
    if same.any():
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        again[:] = True
        again[np.minimum.reduceat(canonical, begins)] = False
    return again


def _equals_previous(columns: list[IntArray], order: IntArray) -> npt.NDArray[np.bool_]:
    """Whether each row but the first, in this order, has the same cells as the one before it."""
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    return same
