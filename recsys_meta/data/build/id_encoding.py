"""Encoding of rows as records of numbers.

Ids get provisional numbers in order of appearance, and final ones in order of value once all rows are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.arrays import FIRST, PAD, UNKNOWN, IntArray
from recsys_meta.core.schema import Schema
from recsys_meta.data.readers.id_interner import IdInterner
from recsys_meta.data.validation.row_checks import ValidRows

Records = npt.NDArray[np.void]

CONTEXT_PREFIX = "context."
"""Prefix of the name of a context field in records, id spaces and file names."""

_EMPTY = -1  # number of an empty cell; as an index it selects the last entry of the renumbering, which is PAD


def record_dtype(schema: Schema) -> np.dtype[np.void]:
    """Return the type of one encoded row: 30 bytes, and 4 each for actor, group and every context field."""
    optional_fields = [(name, "<i4") for name, column in (("actor", schema.actor), ("group", schema.group)) if column]
    optional_fields += [(CONTEXT_PREFIX + f.name, "<f4" if f.kind == "numeric" else "<i4") for f in schema.context]
    required_fields = [("entity", "<i4"), ("item", "<i4"), ("label", "<f4"), ("time", "<i8")]
    return np.dtype([*required_fields, *optional_fields, ("line", "<i8"), ("file", "<i2")])


@dataclass(frozen=True)
class IdCoding:
    """Final numbers of all ids. renumbering: field of a record -> final number of each provisional one; values: id
    space -> its values in order.

    Actors and groups are renumbered but have no id space, so that a prepared data set names no person.
    """

    renumbering: Mapping[str, IntArray]
    values: Mapping[str, pd.Index]


class IdEncoder:
    """Encoder of rows with provisional numbers; it holds every distinct value in memory."""

    def __init__(self, schema: Schema) -> None:
        self.dtype = record_dtype(schema)
        self._min_counts = {CONTEXT_PREFIX + f.name: f.min_count for f in schema.context if f.kind == "categorical"}
        ids = [n for n in ("entity", "item", "actor", "group") if n in (self.dtype.names or ())]
        self._interners = {name: IdInterner() for name in [*ids, *self._min_counts]}
        self._counts = {name: np.zeros(0, np.int64) for name in self._min_counts}

    def records(self, good: ValidRows, file: int) -> Records:
        """Encode the rows of a chunk; ids are provisional numbers. `file` is the number of the file they come from."""
        rows = np.empty(len(good.lines), self.dtype)
        rows["line"], rows["file"] = good.lines, file
        rows["label"], rows["time"] = good.label + np.float32(0), good.time  # turns -0.0 into 0.0
        for name, ids in (("entity", good.entity), ("item", good.item), ("actor", good.actor), ("group", good.group)):
            if ids is not None:
                rows[name] = self._interners[name].add(ids)
        for field, cells in good.context.items():
            name = CONTEXT_PREFIX + field
            rows[name] = self._categories(name, cells) if isinstance(cells, pd.Series) else cells + np.float32(0)
        return rows

    def _categories(self, name: str, cells: pd.Series) -> IntArray:
        number = np.full(len(cells), _EMPTY, np.int32)
        present = (cells != "").to_numpy(bool)
        number[present] = self._interners[name].add(cells[present])
        counts = np.bincount(number[present], minlength=len(self._interners[name]))
        counts[: len(self._counts[name])] += self._counts[name]
        self._counts[name] = counts
        return number

    def final_coding(self) -> IdCoding:
        """Return the final numbers: ids from 0 on in order of value, context values as padded ids (rare ones unknown).

        Call it after the last row.
        """
        renumbering, values = {}, {}
        for name, interner in self._interners.items():
            index, rank = interner.sort()
            if name in self._min_counts:
                index, rank = _drop_rare_values(index, rank, self._counts[name] >= self._min_counts[name])
            renumbering[name] = rank
            if name not in ("actor", "group"):
                values[name] = index
        return IdCoding(renumbering, values)


def _drop_rare_values(index: pd.Index, rank: IntArray, frequent: npt.NDArray[np.bool_]) -> tuple[pd.Index, IntArray]:
    """Return the frequent values, and the padded id of each provisional number, followed by that of an empty cell.

    `index` are the sorted values, `rank` [n] the rank of each provisional number among them, `frequent` [n] the mask of
    provisional numbers to keep.
    """
    frequent_by_rank = np.zeros(len(rank), bool)
    frequent_by_rank[rank] = frequent
    padded_id = np.where(frequent_by_rank, np.cumsum(frequent_by_rank) - 1 + FIRST, UNKNOWN)
    return index[frequent_by_rank], np.append(padded_id[rank], PAD).astype(np.int32)
