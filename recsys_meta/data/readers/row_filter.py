"""Filters of rows by the cells of their columns, before anything else is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from recsys_meta.core.cells import Mask, category_cells, parse_numbers, value_text
from recsys_meta.data.readers.raw_tables import ReadChunks, map_chunks, select_rows

Scalar = str | bool | int | float


@dataclass(frozen=True)
class CellCondition:
    """Condition on a cell: one of the values `any`, none of `none`, a number from `min` to `max`, both included.

    A number among the values is compared as a number, so that 1 is 1.0; an empty cell is the value "".
    """

    any: tuple[Scalar, ...] | None = None
    none: tuple[Scalar, ...] = ()
    min: float | None = None
    max: float | None = None

    def mask(self, cells: pd.Series) -> Mask:
        """Return the mask [n] of cells that fulfil the condition."""
        mask = np.ones(len(cells), bool)
        if self.any is not None:
            mask &= _equals_any(cells, self.any)
        if self.none:
            mask &= ~_equals_any(cells, self.none)
        if self.min is not None or self.max is not None:
            number, _ = parse_numbers(cells)
            low = -np.inf if self.min is None else self.min
            high = np.inf if self.max is None else self.max
            mask &= (number >= low) & (number <= high)  # False for NaN
        return mask


def _equals_any(cells: pd.Series, values: Sequence[Scalar]) -> Mask:
    texts = {value_text(v) for v in values}
    mask: Mask = category_cells(cells).isin(texts | {"true" if v == "True" else str(v) for v in texts}).to_numpy(bool)
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return mask | np.isin(parse_numbers(cells, booleans=False)[0], numbers) if numbers else mask


def filter_rows(read: ReadChunks, conditions: Mapping[str, CellCondition], columns: Sequence[str]) -> ReadChunks:
    """Return a reader of the rows that fulfil all conditions, by column, with no other than these columns.

    Rows that could not be split stay rejected: what they are about is not known.
    """
    if not conditions:
        return read

    def mask(frame: pd.DataFrame) -> Mask:
        is_kept: Mask = np.logical_and.reduce([c.mask(frame[name]) for name, c in conditions.items()])
        return is_kept

    rows = map_chunks(read, lambda chunk: select_rows(chunk, mask(chunk.frame)))
    return map_chunks(rows, lambda chunk: replace(chunk, frame=chunk.frame[list(columns)]))
