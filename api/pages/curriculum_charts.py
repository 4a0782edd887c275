"""Buckets of tasks that a curriculum drew from, in words and as charts."""

from __future__ import annotations

from collections.abc import Sequence

from api.pages.charts import ChartSeries, PageChart
from recsys_meta.store.tracking.tables import CurriculumRecord

_MOST_SERIES = 12


def bucket_meaning(bucket: str) -> str:
    """Return in words which tasks a bucket holds; empty for a name that only its curriculum understands."""
    kind, _, name = bucket.partition(" ")
    if kind == "decile" and name.isdecimal():
        ends = {1: "the easiest tenth", 10: "the hardest tenth"}
        return f"{ends.get(int(name), f'tenth {int(name)} of 10 from the easiest')} of the tasks met so far"
    return f"tasks that the stage '{name}' of the curriculum drew" if kind == "stage" else ""


def bucket_charts(rows: Sequence[CurriculumRecord]) -> list[PageChart]:
    """Draw the weight and the loss of each bucket over the outer steps; nothing for a single step."""
    steps = sorted({row.step for row in rows})
    if len(steps) < 2:
        return []
    names = sorted({row.bucket for row in rows})[:_MOST_SERIES]
    return [
        PageChart("Share of the meta-batch", "outer step", "weight", steps, _series(rows, names, steps, "weight")),
        PageChart("Loss of the query", "outer step", "loss", steps, _series(rows, names, steps, "hardness")),
    ]


def _series(
    rows: Sequence[CurriculumRecord], names: Sequence[str], steps: Sequence[int], column: str
) -> list[ChartSeries]:
    values = {(row.bucket, row.step): getattr(row, column) for row in rows}
    return [ChartSeries(name, [values.get((name, step)) for step in steps]) for name in names]
