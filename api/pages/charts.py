"""Charts of pages: the same figures are drawn by `static/charts.js` and stand in a table beneath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ChartSeries:
    """Figures of one line or of one group of bars, one for each place on the x-axis; None where there is none.

    `low` and `high` are the ends of their intervals. `is_main` is what the chart is about.
    """

    label: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    is_main: bool = False


@dataclass(frozen=True)
class PageChart:
    """A chart with its axes. `x` holds numbers, or names for bars; `even` puts numbers at equal distances."""

    title: str
    x_label: str
    y_label: str
    x: Sequence[float | str]
    series: Sequence[ChartSeries] = field(default_factory=tuple)
    kind: Literal["line", "bar"] = "line"
    even: bool = False

    @property
    def drawing(self) -> dict[str, Any]:
        """Return the drawing of the script, as JSON can hold it."""
        return {
            "kind": self.kind,
            "x": list(self.x),
            "even": self.even or any(isinstance(one, str) for one in self.x),
            "xLabel": self.x_label,
            "yLabel": self.y_label,
            "series": [
                {
                    "label": one.label,
                    "main": one.is_main,
                    "values": _finite(one.values),
                    "low": _finite(one.low),
                    "high": _finite(one.high),
                }
                for one in self.series
            ],
        }


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None or not math.isfinite(value) else value for value in values]
