"""Choices on meta-validation for new items: weights of signals, and places among known items, by events."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys_meta.models.new_items.catalogue_placement import CataloguePlacement
from recsys_meta.models.new_items.content_form import PLAIN_FORM, ContentForm
from recsys_meta.models.new_items.content_profiles import ALL_FEATURES

NEW_ITEM_CHOICES = "new_items"
"""The key of a bundle's `about` under which the choices stand."""

EVENT_BINS = (1, 3, 7, 20)
"""Numbers of first events from which on items have choices of their own."""

BIN_EVENTS = (0, 1, 5, 10, 20)
"""Numbers of events that stand for each of the bins."""

REGRESSION, POPULARITY, TASTE, SHARED = "regression", "popularity", "taste", "shared entities"
"""Signals beside the similarity by groups of features."""

BY_EVENTS = (TASTE, SHARED)
"""Signals whose mean and deviation are those of meta-validation: they are of first events, which known items as if they
were new do not have."""


BEHIND_TENTH = CataloguePlacement(2.0**-7, -0.05, 0.0)
"""Where new items stand as long as nothing was chosen."""


@dataclass(frozen=True)
class BinChoices:
    """Choices for items with about so many events. weights: of standardized signals, those of weight 0 left out;
    moments: mean and deviation of signals of `BY_EVENTS`; placement: among known items."""

    weights: Mapping[str, float]
    moments: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    placement: CataloguePlacement = BEHIND_TENTH


@dataclass(frozen=True)
class RelevanceChoices:
    """Form of the similarity by content, and choices for each of the bins of `EVENT_BINS`."""

    form: ContentForm
    bins: Sequence[BinChoices]

    def of(self, bin_number: int) -> BinChoices:
        """Choices of a bin; of the one before where no item of the validation had so many events."""
        return self.bins[min(bin_number, len(self.bins) - 1)]

    @classmethod
    def read(cls, about: Mapping[str, Any], groups: Sequence[str]) -> RelevanceChoices:
        """Read the choices of a bundle. Where nothing was chosen similarity by all features, the regression and
        first events count alike, and new items stand where known ones of their relevance do, but behind an entity's
        tenth."""
        stored = about.get(NEW_ITEM_CHOICES)
        if stored is None:
            names = [*(g for g in groups if g == ALL_FEATURES or len(groups) == 1), REGRESSION, *BY_EVENTS]
            return cls(PLAIN_FORM, [BinChoices(dict.fromkeys(names, 1.0))])
        bins = [
            BinChoices(
                {name: float(weight) for name, weight in one["weights"].items()},
                {name: (float(mean), float(deviation)) for name, (mean, deviation) in one["moments"].items()},
                CataloguePlacement(*(math.inf if number is None else float(number) for number in one["placement"])),
            )
            for one in stored["bins"]
        ]
        return cls(ContentForm(*stored["form"]), bins)

    def to_json(self) -> dict[str, Any]:
        """Write the choices as a bundle holds them, rounded: sums of another order shall give the same version."""
        return {
            "form": list(self.form),
            "bins": [
                {
                    "weights": {name: _rounded(w) for name, w in one.weights.items()},
                    "moments": {name: [_rounded(m), _rounded(d)] for name, (m, d) in one.moments.items()},
                    "placement": [None if math.isinf(x) else _rounded(x) for x in one.placement],
                }
                for one in self.bins
            ],
        }


def event_bin(events: int) -> int:
    """Return the number of the bin of items with so many events."""
    return bisect_right(EVENT_BINS, events)


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")
