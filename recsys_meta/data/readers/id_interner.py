"""Numbering of raw values: provisional numbers in order of appearance, and their ranks in sorted order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_meta.core.arrays import IntArray
from recsys_meta.core.cells import arrow_text


class IdInterner:
    """Numbering of values in order of first appearance. It holds every distinct value in memory, as Arrow text."""

    def __init__(self) -> None:
        self._values: Any = pa.array([], pa.large_string())

    def __len__(self) -> int:
        return len(self._values)

    def add(self, values: pd.Series) -> IntArray:
        """Number values [n]; return their numbers [n] int32."""
        dictionary = arrow_text(values).dictionary_encode()
        distinct = dictionary.dictionary
        position = pc.index_in(distinct, self._values)
        number = position.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
        is_new = position.is_null().to_numpy(zero_copy_only=False)
        number[is_new] = len(self._values) + np.arange(is_new.sum(), dtype=np.int32)
        if is_new.any():
            self._values = pa.concat_arrays([self._values, distinct.filter(position.is_null())])
        numbers: IntArray = number[dictionary.indices.to_numpy(zero_copy_only=False)]
        return numbers

    def sort(self) -> tuple[pd.Index, IntArray]:
        """Return the sorted values, and the rank [n] int32 of each number among them."""
        order = sort_ids(self._values)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        return pd.Index(self._values.take(pa.array(order)).to_pandas(), dtype="str"), rank


def sort_ids(values: Any) -> IntArray:
    """Return the permutation that sorts distinct ids (Arrow text): whole numbers by value, then other text by code
    point."""
    # Arrow compares UTF-8 bytes, whose order is that of the code points.
    by_text = pc.sort_indices(values).to_numpy(zero_copy_only=False).astype(np.int64)
    whole = pc.match_substring_regex(values, "^[0-9]{1,18}$")
    number = pc.if_else(whole, values, None).cast(pa.int64()).fill_null(np.iinfo(np.int64).max)
    order: IntArray = by_text[np.argsort(number.to_numpy(zero_copy_only=False)[by_text], kind="stable")]
    return order
