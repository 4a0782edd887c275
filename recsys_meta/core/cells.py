"""The rule for cells: how one value is read as text, as an id, as a number, or as several values.

Every door reads by it: the preparation of data sets, event files, and the bodies of requests. So a value means the same
wherever it comes from: a Parquet boolean, the `true` of a JSON body and the `True` of a CSV file are one category.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

LIST_MARK = "\ufdd0"
"""Character before each value of a list that is written as one cell.

It is a Unicode noncharacter, which no interchanged text holds. If the separator of the field were used instead, a value
that holds the separator would be split in two.
"""

MISSING_NUMBERS = ("nan", "na", "null")
"""Words for a number of a feature that is not known, in any case."""

BOOLEAN_WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
"""Spellings of a boolean in files, and the one that JSON has."""

_WHOLE_WITH_ZEROS = re.compile(r"-?[0-9]{1,15}\.0+")

EXACT_WHOLE = 2**53
"""Whole numbers of float64 below this are exact."""

_NUMBER = r"^(?i:[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?)$"
_MAX_LITERAL = 20_000  # characters of a cell that is tried as a written list


def is_missing(value: object) -> bool:
    """Return True for None and for the missing values of numpy, pandas and Decimal."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float | np.floating):
        return bool(math.isnan(value))
    return isinstance(value, Decimal) and value.is_nan()


def value_text(value: object) -> str:
    """Convert one value to the text that stands for it in a vocabulary; empty for a missing one.

    Text is stripped. A boolean is "true" or "false", a whole number its digits, whatever its type (7.0 is "7"), another
    number the shortest decimal that reads back as it, a date ISO 8601, a list what `list_cell` returns.
    """
    if isinstance(value, str):
        return value.strip()
    if is_missing(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        return _number_text(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        return list_cell(value)
    return str(value).strip()


def _number_text(value: float | np.floating[Any] | Decimal) -> str:
    if isinstance(value, Decimal):
        return str(int(value)) if value == value.to_integral_value() else f"{value.normalize():f}"
    if math.isfinite(value) and value == int(value) and abs(int(value)) < EXACT_WHOLE:
        return str(int(value))
    return str(value)  # of a float32 too the shortest text, which its float64 has not


def list_cell(values: Iterable[object]) -> str:
    """Join a list to one cell of a multi-valued field, which `list_values` splits into the same values.

    Lists within the list are joined into it; missing values are left out.
    """
    texts: list[str] = []
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            texts += list_cell(value).split(LIST_MARK)[1:]
        elif not is_missing(value):
            texts.append(value_text(value))
    return LIST_MARK + LIST_MARK.join(texts) if texts else LIST_MARK


def list_values(cell: str, separator: str) -> list[str]:
    """Split a cell of a multi-valued field, given as text, into its values.

    A list may be marked (`list_cell`), written as JSON or as Python prints it ("['a', 'b']"), or else joined by the
    separator.
    """
    if LIST_MARK in cell:
        return cell.split(LIST_MARK)
    text = cell.strip()
    if text[:1] == "[" and text[-1:] == "]" and (values := _written_list(text)) is not None:
        return list_cell(values).split(LIST_MARK)
    return cell.split(separator)


def _written_list(text: str) -> list[Any] | None:
    """Read a list that was written as text; None where the text is no list, or a list of objects."""
    if len(text) > _MAX_LITERAL:
        return None
    try:
        values = json.loads(text)
    except ValueError:
        try:
            values = ast.literal_eval(text)  # literals only: nothing is evaluated
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
    except RecursionError:
        return None
    is_plain = isinstance(values, list) and not any(isinstance(v, dict | set) for v in values)
    return values if is_plain else None


def text_cells(cells: pd.Series) -> pd.Series:
    """Convert cells [n] to text [n] by the rule of `value_text`, empty where they are missing."""
    if isinstance(cells.dtype, pd.StringDtype):
        return cells.astype("str").fillna("").str.strip()
    if isinstance(cells.dtype, pd.ArrowDtype) and pd.api.types.is_integer_dtype(cells.dtype):
        text = pa.array(cells).cast(pa.string()).fill_null("")
        return pd.Series(text.to_pandas(), dtype="str").set_axis(cells.index)
    if cells.dtype == object or isinstance(cells.dtype, pd.ArrowDtype):
        # Not by distinct values: True and 1 are equal to Python.
        return pd.Series([value_text(v) for v in cells.tolist()], index=cells.index, dtype="str")
    codes, distinct = pd.factorize(cells)
    texts = pd.array([*(value_text(v) for v in distinct), ""], dtype="str")
    return pd.Series(texts.take(codes), index=cells.index, dtype="str")  # -1, of a missing cell, is the last


def category_text(text: str) -> str:
    """Return the spelling of a category: "True" is "true", and "7.0", as a column with gaps is often written, "7"."""
    if text[-1:] == "0" and _WHOLE_WITH_ZEROS.fullmatch(text):
        return value_text(float(text))
    return BOOLEAN_WORDS.get(text, text)


def category_cells(cells: pd.Series) -> pd.Series:
    """Convert cells [n] to the text of categories [n] in their one spelling, empty where they are missing."""
    codes, distinct = pd.factorize(text_cells(cells))
    spellings = pd.array([category_text(text) for text in distinct], dtype="str")
    return pd.Series(spellings.take(codes), index=cells.index, dtype="str")


def id_cells(cells: pd.Series) -> pd.Series:
    """Convert cells [n] to ids, text [n], empty where they are missing. Text stays as it is: "007" and "7" differ.

    Raises ValueError, which says why, for cells that cannot be ids: fractional numbers, booleans, times, lists.
    """
    kind = cells.dtype
    if isinstance(kind, pd.ArrowDtype) and not pd.api.types.is_integer_dtype(kind):
        cells = pd.Series(cells.array.to_numpy(dtype=object), index=cells.index, dtype=object)
        kind = cells.dtype
    if pd.api.types.is_bool_dtype(kind):
        raise ValueError("the column holds booleans, so it holds no ids")
    if pd.api.types.is_datetime64_any_dtype(kind):
        raise ValueError("the column holds times, so it holds no ids")
    if pd.api.types.is_float_dtype(kind):
        _check_whole(cells.dropna().to_numpy(np.float64), 2**24 if kind == np.float32 else EXACT_WHOLE)
    elif pd.api.types.is_object_dtype(kind):
        for value in cells:
            _check_id(value)
    return text_cells(cells)


def _check_whole(numbers: npt.NDArray[np.float64], limit: int) -> None:
    if not (np.isfinite(numbers) & (numbers == np.floor(numbers)) & (np.abs(numbers) < limit)).all():
        raise ValueError("the column holds fractional numbers, so its ids cannot be read safely")


def _check_id(value: object) -> None:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return
    if isinstance(value, float | np.floating | Decimal) and not is_missing(value):
        _check_whole(np.array([float(value)]), EXACT_WHOLE)
    elif isinstance(value, bool | np.bool_):
        raise ValueError("the column holds booleans, so it holds no ids")
    elif isinstance(value, datetime | date) and not is_missing(value):
        raise ValueError("the column holds times, so it holds no ids")
    elif isinstance(value, list | tuple | dict | set | bytes | np.ndarray):
        raise ValueError(f"the column holds values of the type {type(value).__name__}, which are no ids")


LEAST_KNOWN = 0.1
"""Share of ids that must be known: below it, ids of two sources are likely to be written in two ways."""


def describe_mismatch(what: str, ids: Iterable[str], where: str, known: Any) -> str:
    """Describe a mismatch of ids (`what` they are) with the `known` ones of another source (`where`), with an example
    of each side; empty where at least `LEAST_KNOWN` of the distinct ids are known, or where there are none."""
    distinct = pd.Index(list(dict.fromkeys(ids)), dtype="str")
    index = pd.Index(known, dtype="str")
    is_known = distinct.isin(index)
    if not len(distinct) or not len(index) or is_known.mean() >= LEAST_KNOWN:
        return ""
    share = "none" if not is_known.any() else f"only {int(is_known.sum()):,}"
    others = index[~index.isin(distinct)]
    example, other = distinct[~is_known][0], (others if len(others) else index)[0]
    return (
        f"{share} of {len(distinct):,} of {what} is {where}: are they written in another way? "
        f"An example of them is '{example[:80]}', one of the others '{other[:80]}'"
    )


def arrow_text(cells: pd.Series | pd.Index) -> Any:
    """Convert text cells [n] to one Arrow array of large strings."""
    array = pa.array(cells, from_pandas=True)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return array.cast(pa.large_string())


def parse_numbers(cells: pd.Series, booleans: bool = True) -> tuple[npt.NDArray[np.float64], Mask]:
    """Convert cells [n] to numbers [n] float64, NaN where a cell is not a number; also return the mask [n] of empty
    cells.

    With `booleans` true is 1 and false is 0, in any case. Unlike with pandas, the result for a cell does not depend on
    the other cells.
    """
    kind = cells.dtype
    if pd.api.types.is_numeric_dtype(kind) and (booleans or not pd.api.types.is_bool_dtype(kind)):
        number = cells.to_numpy(np.float64, na_value=np.nan)
        return number, np.isnan(number)
    text = arrow_text(text_cells(cells))
    if booleans:
        lower = pc.utf8_lower(text)
        text = pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", text))
    is_number = pc.match_substring_regex(text, _NUMBER)
    number = pc.if_else(is_number, text, None).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return number, pc.equal(text, "").to_numpy(zero_copy_only=False)


def parse_labels(cells: pd.Series, words: Mapping[str, float]) -> tuple[npt.NDArray[np.float64], Mask]:
    """Convert labels [n] to numbers as `parse_numbers` does; `words` are the numbers that some texts stand for."""
    number, empty = parse_numbers(cells)
    if words:
        number = number.copy()
        of_word = text_cells(cells).map(dict(words)).to_numpy(np.float64, na_value=np.nan)
        number = np.where(np.isnan(of_word), number, of_word)
    return number, empty
