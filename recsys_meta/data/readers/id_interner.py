"""Ids of raw values: numbered as they come, renumbered in sorted order at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys_meta.core.types import IntArray
from recsys_meta.data.readers.cells import arrow_text


class IdInterner:
    """Numbers values in order of first appearance. Holds every distinct value in memory, as bare text."""

    def __init__(self) -> None:
        self._values: Any = pa.array([], pa.large_string())

    def __len__(self) -> int:
        return len(self._values)

    def add(self, values: pd.Series) -> IntArray:
        """Numbers [n] int32 of values [n]."""
        coded = arrow_text(values).dictionary_encode()
        distinct = coded.dictionary
        found = pc.index_in(distinct, self._values)
        new = found.is_null()
        number = found.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int32)
        unseen = new.to_numpy(zero_copy_only=False)
        number[unseen] = len(self._values) + np.arange(unseen.sum(), dtype=np.int32)
        if unseen.any():
            self._values = pa.concat_arrays([self._values, distinct.filter(new)])
        numbers: IntArray = number[coded.indices.to_numpy(zero_copy_only=False)]
        return numbers

    def sort(self) -> tuple[pd.Index, IntArray]:
        """Values in order, and the place [n] int32 of each number in that order."""
        order = sort_ids(self._values)
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return pd.Index(self._values.take(pa.array(order)).to_pandas(), dtype="str"), place


def sort_ids(values: Any) -> IntArray:
    """The permutation that sorts distinct ids (Arrow text): whole numbers by value, then all else by code point."""
    # The order of UTF-8 bytes is that of code points.
    by_text = pc.sort_indices(values).to_numpy(zero_copy_only=False).astype(np.int64)
    whole = pc.match_substring_regex(values, "^[0-9]{1,18}$")
    number = pc.if_else(whole, values, None).cast(pa.int64()).fill_null(np.iinfo(np.int64).max)
    order: IntArray = by_text[np.argsort(number.to_numpy(zero_copy_only=False)[by_text], kind="stable")]
    return order
