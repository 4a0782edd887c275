"""Figures of the events of a file, and what is implausible about them: unknown items, impossible times."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from time import time

import numpy as np
import pandas as pd

from recsys_meta.core.cells import LEAST_KNOWN
from recsys_meta.data.readers.time_columns import range_warnings
from recsys_meta.inference.requests.entity import Interaction


@dataclass
class EventSummary:
    """Counts of events, of those whose item is among the `known_items`, and the range of their times in seconds.

    Without `known_items`, where every entity has items of its own, nothing is said of items. `time_format` is that of
    the model's schema.
    """

    known_items: Collection[str] = ()
    time_format: str | None = None
    events: int = 0
    known_events: int = 0
    timed_events: int = 0
    first: float = np.inf
    last: float = -np.inf
    unknown_item: str = ""
    _names: pd.Index = field(default_factory=lambda: pd.Index([], dtype="str"), repr=False)

    def __post_init__(self) -> None:
        self._names = pd.Index(list(self.known_items), dtype="str")

    def add(self, items: pd.Series, times: pd.Series | None) -> None:
        """Add events by their items and their times in seconds, NaN without one."""
        known = items.isin(self._names).to_numpy(bool)
        self.events, self.known_events = self.events + len(items), self.known_events + int(known.sum())
        if not self.unknown_item and not known.all():
            self.unknown_item = str(items[~known].iloc[0])
        seconds = np.array([], np.float64) if times is None else times.dropna().to_numpy(np.float64)
        if len(seconds):
            self.timed_events += len(seconds)
            self.first, self.last = min(self.first, float(seconds.min())), max(self.last, float(seconds.max()))

    def add_interactions(self, events: Iterable[Interaction]) -> None:
        """Add the events of one entity."""
        rows = list(events)
        times = pd.Series([np.nan if e.time is None else e.time for e in rows], dtype=np.float64)
        self.add(pd.Series([e.item for e in rows], dtype="str"), times)

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is likely to be wrong with the events."""
        if not self.events:
            return ["there are no events: the answer is that for somebody of whom nothing is known"]
        warnings = []
        if len(self._names) and self.known_events < LEAST_KNOWN * self.events:
            share = "none" if not self.known_events else f"only {self.known_events:,}"
            warnings.append(
                f"{share} of {self.events:,} events is about an item that the model knows, the others tell it nothing. "
                f"Are the ids written in another way? The events have '{self.unknown_item[:80]}', "
                f"the model '{self._names[0][:80]}'"
            )
        if self.timed_events:
            # One event, or events of one moment, are nothing unusual here: an entity may have few.
            warnings += range_warnings(self.first, self.last, 1, time(), self.time_format)
        return warnings
