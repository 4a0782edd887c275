"""Items as they are stored, and what is known of a new one from its first events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from recsys_meta.inference.requests.entity import RawFeatures


class StoredItem(NamedTuple):
    """An item as stored: raw features by name, a title for display, and whether lists may hold it. `revision` is
    another number after each change."""

    name: str
    features: RawFeatures = MappingProxyType({})
    title: str | None = None
    available: bool = True
    revision: int = 0


class ItemEvidence(NamedTuple):
    """First events of a new item.

    events: likes; traffic: events of all items since it came, as a share of those that the model was trained on, None
    where that is not known, as after so many likes of each item: their number then says nothing of its popularity;
    tastes [n, R]: coordinates of entities that liked it (`Recommender.tastes`); histories: ids of the model's own items
    that each of these liked.
    """

    events: int
    traffic: float | None
    tastes: Tensor
    histories: Sequence[Sequence[int]] = ()


Evidence = Mapping[str, ItemEvidence]
"""Evidence by item."""
