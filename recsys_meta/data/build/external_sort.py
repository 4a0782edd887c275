"""External sort of events: rows are spilled to disk, distributed to buckets of entities, and each bucket is sorted.

Memory holds one chunk, one bucket (`BUCKET_ROWS` rows, or all rows of one entity if those are more) and the offsets of
the entities. The disk holds every row twice, each of the size of `id_encoding.record_dtype`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.dataset import NO_TIME
from recsys_meta.data.build.id_encoding import CONTEXT_PREFIX, Records

BUCKET_ROWS = 2**20
"""Number of rows that are sorted at a time."""


@dataclass(frozen=True)
class SortedBucket:
    """All rows of some entities.

    `rows` are sorted by entity, then time, then the order of the file. `canonical` is a permutation that sorts them
    independently of the order of the file. `duplicates` are rows that repeat an earlier one; `rows` is without them.
    `fraction` is the share of all rows that are sorted after this bucket, 0 to 1.
    """

    rows: Records
    canonical: IntArray
    duplicates: Records
    fraction: float


class SpillFile:
    """Encoded rows in the order of the file, in a temporary file of records (`id_encoding.record_dtype`)."""

    def __init__(self, folder: Path, dtype: np.dtype[np.void]) -> None:
        self._folder, self._dtype = folder, dtype
        self._path = folder / "rows.bin"
        self._file = self._path.open("wb")
        self.row_count = 0

    def add(self, rows: Records) -> None:
        """Append rows."""
        rows.tofile(self._file)
        self.row_count += len(rows)

    def buckets(
        self, renumbering: Mapping[str, IntArray], unique: bool, size: int = BUCKET_ROWS
    ) -> Iterator[SortedBucket]:
        """Yield the sorted rows bucket after bucket; no row can be added afterwards.

        `renumbering` maps the name of a field to the final number of each provisional one. With `unique` duplicates are
        taken out.
        """
        self._file.close()
        entity = renumbering["entity"]
        counts = np.zeros(len(entity), np.int64)
        for part in self._read(size):
            counts += np.bincount(entity[part["entity"]], minlength=len(entity))
        starts = np.concatenate([[0], np.cumsum(counts)])
        bucket_of = starts[:-1] // size
        ends = np.cumsum(np.bincount(bucket_of, counts).astype(np.int64))
        rows = self._distribute(renumbering, bucket_of, ends, size)
        for low, high in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
            if high > low:
                yield _sort_bucket(np.array(rows[low:high]), unique, float(high / ends[-1]))

    def _read(self, size: int) -> Iterator[Records]:
        with self._path.open("rb") as file:
            while len(part := np.fromfile(file, self._dtype, size)):
                yield part

    def _distribute(
        self, renumbering: Mapping[str, IntArray], bucket_of: IntArray, ends: IntArray, size: int
    ) -> Records:
        """Copy all rows to a second file in which each bucket is contiguous, in the order of the file within it.

        bucket_of [E]: the bucket of each entity; ends [B]: the row at which each bucket ends.
        """
        rows = np.memmap(self._folder / "buckets.bin", self._dtype, "w+", shape=(self.row_count,))
        cursor = np.concatenate([[0], ends[:-1]])
        for part in self._read(size):
            for name, final_number in renumbering.items():
                part[name] = final_number[part[name]]
            bucket = bucket_of[part["entity"]]
            order, begin = np.argsort(bucket, kind="stable"), 0
            for b, n in zip(*np.unique(bucket, return_counts=True), strict=True):
                rows[cursor[b] : cursor[b] + n] = part[order[begin : begin + n]]
                cursor[b] += n
                begin += n
        return rows


def _sort_bucket(rows: Records, unique: bool, fraction: float) -> SortedBucket:
    rows = rows[np.lexsort((rows["time"], rows["entity"]))]
    key, others = _key_and_other_columns(rows)
    canonical = np.lexsort((*reversed(others), *reversed(key)))
    if not unique:
        # Not rows[:0]: a view would keep the whole bucket in memory.
        return SortedBucket(rows, canonical, np.empty(0, rows.dtype), fraction)
    duplicate = _find_duplicates(rows, canonical, key, others)
    new_position = np.cumsum(~duplicate) - 1
    unique_canonical = new_position[canonical[~duplicate[canonical]]]
    return SortedBucket(rows[~duplicate], unique_canonical, rows[duplicate], fraction)


def _key_and_other_columns(rows: Records) -> tuple[list[IntArray], list[IntArray]]:
    """Return the columns that identify a row, and the others: label and context.

    Numbers of the context are compared by their bits, so that NaN equals NaN.
    """
    names = rows.dtype.names or ()
    key = [rows[n] for n in ("entity", "time", "item", "actor", "group") if n in names]
    context = [np.ascontiguousarray(rows[n]).view(np.int32) for n in names if n.startswith(CONTEXT_PREFIX)]
    return key, [rows["label"], *context]


def _find_duplicates(
    rows: Records, canonical: IntArray, key: list[IntArray], others: list[IntArray]
) -> npt.NDArray[np.bool_]:
    """Return the mask [n] of rows whose key an earlier row has; without a time the other columns must be equal too."""
    same = _equals_previous(key, canonical) & (
        (rows["time"][canonical[1:]] != NO_TIME) | _equals_previous(others, canonical)
    )
    duplicate = np.zeros(len(rows), bool)
    if same.any():
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        duplicate[:] = True
        duplicate[np.minimum.reduceat(canonical, begins)] = False
    return duplicate


def _equals_previous(columns: list[IntArray], order: IntArray) -> npt.NDArray[np.bool_]:
    """Compare the rows in this order: return the mask [n - 1] of rows, from the second on, that equal the previous one
    in all columns."""
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        values = column[order]
        same &= values[1:] == values[:-1]
    return same
