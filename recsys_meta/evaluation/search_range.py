"""Ranges that a baseline's numeric fields are searched in: the ends of what was tried, and values beyond them.

A best value at an end says that the search stopped, not where the optimum is. So ranges grow past such an end, in the
grid's own steps, until the best value lies inside, the metric is level, or the field's type allows no further value.
Whole numbers (dimensions, sweeps) are the cost of a method and stay as the grid has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from recsys_meta.core.types import FloatArray
from recsys_meta.models.baselines import BaselineConfig

EDGE_TOLERANCE = 0.002
"""Difference of the metric up to which an inner value counts as good as one at the end of a range."""
STEPS = 2
"""Values that a range is widened by at a time; a gain below EDGE_TOLERANCE / 2 over as many values is none."""
MIN_RATIO, DEFAULT_RATIO, MAX_RATIO = 1.5, 3.0, 10.0
"""Ratio of neighbouring values beyond a geometric grid: bounds, and that of a grid with one positive value."""


class RangeEnd(NamedTuple):
    """End of the range of a field: the value there."""

    field: str
    value: float
    is_upper: bool

    def __str__(self) -> str:
        return f"{self.field}={self.value:g} ({'upper' if self.is_upper else 'lower'} end)"


class FieldBounds(NamedTuple):
    """Bounds that a field's type sets; an open one is no value itself."""

    lower: float
    upper: float
    is_lower_open: bool
    is_upper_open: bool

    @classmethod
    def of(cls, setting: BaselineConfig, field: str) -> FieldBounds:
        """Read the bounds from the annotations of the field (`gt`, `ge`, `lt`, `le`)."""
        bounds = {
            name: float(getattr(constraint, name))
            for constraint in type(setting).model_fields[field].metadata
            for name in ("gt", "ge", "lt", "le")
            if hasattr(constraint, name)
        }
        lower, upper = bounds.get("gt", bounds.get("ge", -np.inf)), bounds.get("lt", bounds.get("le", np.inf))
        return cls(lower, upper, "ge" not in bounds, "le" not in bounds)


def open_ends(
    settings: Sequence[BaselineConfig],
    signed_metric: FloatArray,
    best: int,
    shots: int,
    steps: int = 1,
    tolerance: float = EDGE_TOLERANCE,
) -> list[RangeEnd]:
    """Return the ends of the settings' ranges at which the setting `best` lies, and beyond which a better may.

    An end is left out if a value `steps` or more values away from it does as well up to `tolerance`, if no further
    value is allowed, or if the field does not matter at so many shots. signed_metric [settings] is the metric, higher
    is better, NaN where screening excluded the setting.
    """
    setting = settings[best]
    ends = []
    for field in _searched_fields(setting, shots):
        column = np.array([float(getattr(s, field)) for s in settings])
        values, bounds = np.unique(column), FieldBounds.of(setting, field)
        inward = min(steps, len(values) - 1)
        for is_upper in (False, True):
            value = values[-1 if is_upper else 0]
            if len(values) < 2 or column[best] != value or value in (bounds.lower, bounds.upper):
                continue
            inner = column <= values[-1 - inward] if is_upper else column >= values[inward]
            if not signed_metric[best] - np.nanmax(np.append(signed_metric[inner], -np.inf)) <= tolerance:
                ends.append(RangeEnd(field, float(value), is_upper))
    return ends


def wider_settings(
    settings: Sequence[BaselineConfig], signed_metric: FloatArray, best: int, shots: int
) -> list[BaselineConfig]:
    """Return settings with values beyond the ends at which the best one lies, none where its ranges need not grow.

    One field at a time moves on by STEPS values. Of the other fields, those that need no other fit take the best value
    and its neighbours. Arguments are those of `open_ends`.
    """
    setting = settings[best]
    wider: list[BaselineConfig] = []
    for end in open_ends(settings, signed_metric, best, shots, STEPS, EDGE_TOLERANCE / 2):
        for value in values_beyond(end, setting.search_space()[end.field], FieldBounds.of(setting, end.field)):
            moved = setting.model_copy(update={end.field: value})
            wider += [moved, *_neighbours(moved, settings, end.field, shots)]
    return wider


def values_beyond(end: RangeEnd, grid: Iterable[float], bounds: FieldBounds) -> list[float]:
    """Return the next STEPS values beyond an end: geometric where the grid is, else additive, inside the bounds.

    Steps are those between the grid's two values nearest to that end. A closed bound is the last value.
    """
    origin = bounds.lower if np.isfinite(bounds.lower) else 0.0
    distances = np.sort([v - origin for v in grid])
    positive = distances[distances > 0]
    near = positive[-2:] if end.is_upper else positive[:2]
    if _is_geometric(positive):
        ratio = float(np.clip(near[1] / near[0], MIN_RATIO, MAX_RATIO)) if len(near) == 2 else DEFAULT_RATIO
        factor = ratio if end.is_upper else 1 / ratio
        steps = [(end.value - origin) * factor**i for i in range(1, STEPS + 1)]
    else:
        step = float(near[1] - near[0]) * (1 if end.is_upper else -1)
        steps = [end.value - origin + step * i for i in range(1, STEPS + 1)]
    values = [float(np.clip(origin + float(f"{step:.3g}"), bounds.lower, bounds.upper)) for step in steps]
    allowed = [
        v
        for v in values
        if not (v == bounds.lower and bounds.is_lower_open) and not (v == bounds.upper and bounds.is_upper_open)
    ]
    return [v for i, v in enumerate(allowed) if v != end.value and v not in allowed[:i]]


def _is_geometric(positive: FloatArray) -> bool:
    """True if ratios of ascending positive values vary less than differences; of two values, if one is the double."""
    if len(positive) < 3:
        return len(positive) < 2 or bool(positive[1] >= 2 * positive[0])
    differences, ratios = np.diff(positive), np.diff(np.log(positive))
    return bool(ratios.std() / ratios.mean() < differences.std() / differences.mean())


def _searched_fields(setting: BaselineConfig, shots: int) -> Iterator[str]:
    """Yield the real-valued fields of the search space that matter at so many shots."""
    for field in setting.search_space():
        if type(getattr(setting, field)) is float and (shots > 0 or field in setting.cold_fields):
            yield field


def _neighbours(
    setting: BaselineConfig, settings: Sequence[BaselineConfig], fixed: str, shots: int
) -> list[BaselineConfig]:
    """Return the setting with each field but `fixed` moved to the next lower and the next higher value tried.

    Fields that need another fit stay as they are.
    """
    neighbours = []
    for field in setting.search_space():
        if field == fixed or field in setting.fit_fields or (shots == 0 and field not in setting.cold_fields):
            continue
        values = sorted({getattr(s, field) for s in settings})
        position = values.index(getattr(setting, field))
        near = values[max(position - 1, 0) : position] + values[position + 1 : position + 2]
        neighbours += [setting.model_copy(update={field: value}) for value in near]
    return neighbours
