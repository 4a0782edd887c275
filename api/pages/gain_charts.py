"""Charts of outcomes: what adapting was worth, and hits of lists beside those of popularity."""

from __future__ import annotations

from collections.abc import Sequence

from api.pages.charts import ChartSeries, PageChart
from recsys_meta.store.entities.outcome_summary import DayQuality, SupportGain


def gain_chart(gains: Sequence[SupportGain]) -> PageChart | None:
    """Draw the gain over the events known; None where nothing is known of it."""
    if not gains:
        return None
    low, high = [gain.low for gain in gains], [gain.high for gain in gains]
    series = [ChartSeries("gain", [gain.gain for gain in gains], low, high, is_main=True)]
    sizes = [gain.support_size for gain in gains]
    return PageChart("What adapting was worth, online", "events known", "fall of the next event's loss", sizes, series)


def hit_chart(days: Sequence[DayQuality]) -> PageChart | None:
    """Draw the hits of each day; None where no list was answered."""
    if not any(day.hit_10 is not None for day in days):
        return None
    series = [
        ChartSeries("the model", [day.hit_10 for day in days], is_main=True),
        ChartSeries("by popularity", [day.popular_hit_10 for day in days]),
    ]
    return PageChart("Hits among the first ten, online", "day", "share", [str(day.day) for day in days], series)
