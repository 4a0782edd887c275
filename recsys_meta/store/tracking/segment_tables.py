"""Paired tests by group of newcomers, arranged as tables: a row for each group, a column for each number of shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys_meta.store.tracking.paired_tests import NewPairedTest
from recsys_meta.store.tracking.tables import PairedTestRecord

PairedTest = NewPairedTest | PairedTestRecord


@dataclass(frozen=True)
class SegmentTable:
    """Groups of one segment: part -> shots -> reference -> test. `shots` are those of any group, ascending."""

    segment: str
    shots: Sequence[int]
    parts: Mapping[str, Mapping[int, Mapping[str, PairedTest]]]


def segment_tables(tests: Sequence[PairedTest]) -> list[SegmentTable]:
    """Arrange the tests of one method and metric that are of groups; those of all newcomers are left out."""
    segments: dict[str, dict[str, dict[int, dict[str, PairedTest]]]] = {}
    for test in tests:
        if test.segment is not None and test.part is not None:
            point = segments.setdefault(test.segment, {}).setdefault(test.part, {}).setdefault(test.shots, {})
            point[test.reference] = test
    return [
        SegmentTable(segment, sorted({shots for row in parts.values() for shots in row}), parts)
        for segment, parts in segments.items()
    ]
