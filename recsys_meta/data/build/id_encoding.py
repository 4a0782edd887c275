"""Rows as records of numbers: ids are numbered as they come and renumbered by value once all rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_meta.core.schema import Schema
from recsys_meta.core.types import FIRST, PAD, UNKNOWN, IntArray
from recsys_meta.data.readers.id_interner import IdInterner
from recsys_meta.data.validation.row_checks import ValidRows

Records = npt.NDArray[np.void]

CONTEXT_PREFIX = "context."
"""Before the name of a context field in records, id spaces and file names."""

_EMPTY = -1  # a cell without a value; as an index it finds the last place of a table, which is PAD


def record_dtype(schema: Schema) -> np.dtype[np.void]:
    """The type of one row: 30 bytes, and 4 for the actor, the group and each context field that there is."""
    more = [(name, "<i4") for name, column in (("actor", schema.actor), ("group", schema.group)) if column]
    more += [(CONTEXT_PREFIX + f.name, "<f4" if f.kind == "numeric" else "<i4") for f in schema.context]
    own = [("entity", "<i4"), ("item", "<i4"), ("label", "<f4"), ("time", "<i8")]
    return np.dtype([*own, *more, ("line", "<i8"), ("file", "<i2")])


@dataclass(frozen=True)
class IdCoding:
    """All ids of a table, sorted. place: field of a record -> what each of its numbers becomes; values: id space ->
    its values. Actors and groups have places but no space: nobody is named.
    """

    renumbering: Mapping[str, IntArray]
    values: Mapping[str, pd.Index]


class IdEncoder:
    """Numbers the ids of rows; holds every distinct value in memory."""

    def __init__(self, schema: Schema) -> None:
        self.dtype = record_dtype(schema)
        self._min_counts = {CONTEXT_PREFIX + f.name: f.min_count for f in schema.context if f.kind == "categorical"}
        ids = [n for n in ("entity", "item", "actor", "group") if n in (self.dtype.names or ())]
        self._interners = {name: IdInterner() for name in [*ids, *self._min_counts]}
        self._counts = {name: np.zeros(0, np.int64) for name in self._min_counts}

    def records(self, good: ValidRows, file: int) -> Records:
        """The rows of a chunk; 'entity' and all other ids are provisional numbers."""
        rows = np.empty(len(good.lines), self.dtype)
        rows["line"], rows["file"] = good.lines, file
        rows["label"], rows["time"] = good.label + np.float32(0), good.time  # no -0.0
        for name, ids in (("entity", good.entity), ("item", good.item), ("actor", good.actor), ("group", good.group)):
            if ids is not None:
                rows[name] = self._interners[name].add(ids)
        for field, cells in good.context.items():
            name = CONTEXT_PREFIX + field
            rows[name] = self._categories(name, cells) if isinstance(cells, pd.Series) else cells + np.float32(0)
        return rows

    def _categories(self, name: str, cells: pd.Series) -> IntArray:
        number = np.full(len(cells), _EMPTY, np.int32)
        given = (cells != "").to_numpy(bool)
        number[given] = self._interners[name].add(cells[given])
        seen = np.bincount(number[given], minlength=len(self._interners[name]))
        seen[: len(self._counts[name])] += self._counts[name]
        self._counts[name] = seen
        return number

    def final_coding(self) -> IdCoding:
        """The final numbers: ids from 0 on in order of value; context as padded ids, rare values unknown."""
        place, values = {}, {}
        for name, known in self._interners.items():
            index, order = known.sort()
            if name in self._min_counts:
                index, order = _drop_rare_values(index, order, self._counts[name] >= self._min_counts[name])
            place[name] = order
            if name not in ("actor", "group"):
                values[name] = index
        return IdCoding(place, values)


def _drop_rare_values(index: pd.Index, order: IntArray, frequent: npt.NDArray[np.bool_]) -> tuple[pd.Index, IntArray]:
    """The values that occur often enough, and the padded id of each number, with that of an empty cell at the end."""
    kept = np.zeros(len(order), bool)
    kept[order] = frequent
    padded = np.where(kept, np.cumsum(kept) - 1 + FIRST, UNKNOWN)
    return index[kept], np.append(padded[order], PAD).astype(np.int32)
