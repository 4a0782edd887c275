"""Cells that were computed from others, for the checks of rows."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import pandas as pd

from recsys_meta.core.cells import Mask


def coalesce(values: npt.NDArray[Any], invalid: Mask, cells: pd.Series) -> pd.Series:
    """Return the values [n] computed from cells [n], and the text of the cell where it is invalid.

    The check of the rows then rejects the text and shows it in its message.
    """
    if not invalid.any():
        return pd.Series(values, index=cells.index)
    return pd.Series(values, index=cells.index).astype("str").where(~invalid, cells.astype("str"))
