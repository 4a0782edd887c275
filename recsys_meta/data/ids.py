"""Ids of raw values: numbered as they come, renumbered in sorted order at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys_meta.types import IntArray


class Interner:
    """Numbers values in order of first appearance. Holds every distinct value in memory."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, values: pd.Series) -> IntArray:
        """Numbers [n] int32 of values [n]; only the distinct ones are looped over."""
        codes, distinct = pd.factorize(values)
        numbers = self._numbers
        found = (numbers.setdefault(str(v), len(numbers)) for v in distinct)
        return np.fromiter(found, np.int32, len(distinct))[codes]

    def sorted(self) -> tuple[pd.Index, IntArray]:
        """Values in order, and the place [n] int32 of each number in that order."""
        values = pd.Index(list(self._numbers), dtype="str")
        order = in_order(values)
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        return values[order], place


def in_order(values: pd.Index) -> IntArray:
    """The permutation that sorts distinct ids: whole numbers by value, then all else by code point."""
    series = pd.Series(values, dtype="str")
    whole = series.str.fullmatch(r"[0-9]{1,18}").to_numpy(bool)
    by_text = np.argsort(series.to_numpy(dtype=object), kind="stable")
    number = np.full(len(series), np.iinfo(np.int64).max)
    number[whole] = series[whole].astype("int64").to_numpy()
    return by_text[np.argsort(number[by_text], kind="stable")]
