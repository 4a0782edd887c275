"""Conversion of the cells of a column to numbers or text by Arrow, without a Python object for each cell."""

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
    """Convert text cells [n] to one Arrow array of large strings."""
    array = pa.array(cells, from_pandas=True)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array.cast(pa.large_string())


def parse_numbers(cells: pd.Series) -> tuple[npt.NDArray[np.float64], Mask]:
    """Convert cells [n] to numbers [n] float64, NaN where a cell is not a number; also return the mask [n] of empty
    cells.

    Unlike with pandas, the result for a cell does not depend on the other cells.
    """
    if pd.api.types.is_numeric_dtype(cells):
        number = cells.to_numpy(np.float64, na_value=np.nan)
        return number, np.isnan(number)
    text = arrow_text(cells.astype("str").str.strip())
    is_number = pc.match_substring_regex(text, _NUMBER)
    number = pc.if_else(is_number, text, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return number, pc.equal(text, "").to_numpy(zero_copy_only=False)


def coalesce(values: npt.NDArray[Any], invalid: Mask, cells: pd.Series) -> pd.Series:
    """Return the values [n] computed from cells [n], and the text of the cell where it is invalid.

    The check of the rows then rejects the text and shows it in its message.
    """
    if not invalid.any():
        return pd.Series(values, index=cells.index)
    return pd.Series(values, index=cells.index).astype("str").where(~invalid, cells.astype("str"))
