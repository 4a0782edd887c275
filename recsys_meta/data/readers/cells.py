"""Cells of a column as numbers or as text, by Arrow: no Python object for a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

_NUMBER = r"^(?i:[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?)$"


def arrow_text(cells: pd.Series | pd.Index) -> Any:
    """Text cells [n] as one Arrow array of large strings."""
    array = pa.array(cells, from_pandas=True)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array.cast(pa.large_string())


def parse_numbers(cells: pd.Series) -> tuple[npt.NDArray[np.float64], Mask]:
    """Cells as numbers [n] (NaN where they are none) and which of them are empty [n].

    A cell is read the same way whatever stands in the other cells.
    """
    if pd.api.types.is_numeric_dtype(cells):
        number = cells.to_numpy(np.float64, na_value=np.nan)
        return number, np.isnan(number)
    text = arrow_text(cells.astype("str").str.strip())
    fits = pc.match_substring_regex(text, _NUMBER)
    number = pc.if_else(fits, text, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return number, pc.equal(text, "").to_numpy(zero_copy_only=False)


def coalesce(values: npt.NDArray[Any], unread: Mask, cells: pd.Series) -> pd.Series:
    """Values [n] made of cells [n]; where a cell could not be read, the cell itself, so that it is refused later."""
    if not unread.any():
        return pd.Series(values, index=cells.index)
    return pd.Series(values, index=cells.index).astype("str").where(~unread, cells.astype("str"))
