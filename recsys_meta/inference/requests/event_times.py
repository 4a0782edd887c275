"""Times of the events of a request, also those that are written as in the data of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from recsys_meta.core.cells import parse_numbers
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema
from recsys_meta.core.time_parsing import LATEST, TIME_UNITS, parse_zoned_time
from recsys_meta.data.readers.time_columns import exact_seconds_column


def read_times(times: Sequence[float | str | None], schema: Schema | None = None) -> list[float | None]:
    """Return times as seconds since 1970 UTC; texts are read as the preparation reads them, where the schema has a
    `time_format` or a `time_zone`, else they need a zone.

    Raises DataError for the first text that is no time; it says what the model expects.
    """
    texts = [time for time in times if isinstance(time, str)]
    if not texts:
        return cast("list[float | None]", list(times))
    seconds = iter(_text_seconds(texts, schema))
    return [next(seconds) if isinstance(time, str) else time for time in times]


def _text_seconds(texts: Sequence[str], schema: Schema | None) -> list[float]:
    form = None if schema is None or schema.time_format in TIME_UNITS else schema.time_format
    if schema is None or (form is None and schema.time_zone is None):
        try:
            return [parse_zoned_time(text) for text in texts]
        except ValueError as error:
            raise DataError(str(error), field="time") from None
    cells = pd.Series(texts, dtype="str")
    seconds, _ = exact_seconds_column(cells, form, schema.time_zone)
    if form is None:  # a number is a number in JSON: as a text it would be one at this model only
        seconds[~np.isnan(parse_numbers(cells, booleans=False)[0])] = np.nan
    bad = ~((seconds >= 0) & (seconds < LATEST + 1))
    if bad.any():
        expected = f"expected the form of the model's data, {form}," if form else "expected ISO 8601,"
        problem = f"{texts[int(bad.argmax())]!r} is not a time from 1970 on: {expected} or seconds since 1970 UTC"
        raise DataError(problem, field="time")
    return [float(value) for value in seconds]
