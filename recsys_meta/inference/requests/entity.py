"""Entities: their features and events as callers give them, and the same encoded for one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from recsys_meta.core.types import FIRST

RawFeatures = Mapping[str, object]
"""Raw values by the name of their feature or context field."""

_encode_json = json.JSONEncoder(sort_keys=True, default=str).encode  # made once: that takes as long as encoding


class Interaction(NamedTuple):
    """One raw event of an entity. `label` None means "it happened"; `time` in seconds since 1970 UTC.

    `context` is what the row was like and, where every entity has items of its own, what its item is like; `actor` is
    who acted, where rows have several.
    """

    item: str
    label: float | None = None
    time: float | None = None
    context: RawFeatures | None = None
    actor: str | None = None


@dataclass(frozen=True)
class EntityRequest:
    """An entity as a caller describes it: raw feature values and its interactions in any order."""

    features: RawFeatures = field(default_factory=dict)
    events: Sequence[Interaction] = ()


@dataclass(frozen=True)
class QueryContext:
    """The context in which a list is asked for: fields of the row, who acts, at which latitude and longitude, and which
    items that actor met, the last one last.

    Without a history it is what the entity's events say of the actor.
    """

    context: RawFeatures = field(default_factory=dict)
    actor: str | None = None
    at: tuple[float, float] | None = None
    history: Sequence[str] | None = None


@dataclass(frozen=True)
class EntityCatalogSpec:
    """An entity's own catalogue: the names of its items by local id - FIRST, and the raw features of each."""

    names: tuple[str, ...] = ()
    features: tuple[RawFeatures, ...] = ()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Local ids by name."""
        return {name: i for i, name in enumerate(self.names, FIRST)}

    def with_item_features(self, item_features: Mapping[str, RawFeatures]) -> EntityCatalogSpec:
        """Return the catalogue with features of items, by item; new items come last, so that no id changes."""
        new = sorted(set(item_features) - self.ids.keys())
        features = [
            {**old, **item_features[name]} if item_features.get(name) else old
            for name, old in zip(self.names, self.features, strict=True)
        ]
        return EntityCatalogSpec((*self.names, *new), (*features, *(item_features[name] for name in new)))


@dataclass(frozen=True)
class EncodedEntity:
    """An entity encoded for one model: the rows of its support, and what the model lacks of it.

    items, labels: the support's rows; seen_items: ids of all items that it met, also outside the support;
    unknown_items: raw items that the model lacks; features: raw values; context, history: an entry for each row, or
    none at all; actor_items: the items that each actor met, the last one first; catalog: the entity's own catalogue, in
    which its ids are then local; base_digest: the digest before features of items were added to the catalogue, and
    those features; keeps_order: True where the model reads the order of the rows; dislikes: items of a ranking's
    support that the entity did not like.
    """

    items: tuple[int, ...]
    labels: tuple[float, ...]
    seen_items: frozenset[int]
    unknown_items: tuple[str, ...]
    features: RawFeatures
    context: tuple[RawFeatures, ...] = ()
    history: tuple[tuple[int, ...], ...] = ()
    actor_items: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    catalog: EntityCatalogSpec | None = None
    base_digest: tuple[str, str] | None = None
    keeps_order: bool = False
    dislikes: tuple[int, ...] = ()

    @property
    def support_size(self) -> int:
        """Number of events in the support, likes and dislikes."""
        return len(self.items) + len(self.dislikes)

    @cached_property
    def digest(self) -> str:
        """Hash of all that adaptation depends on beside the model, 32 hexadecimal digits; the order of events matters
        to a model that reads it only."""
        content: list[object]
        if self.base_digest is not None:
            content = list(self.base_digest)  # thousands of rows are not hashed again for one more item
        elif self.context or self.history or self.catalog is not None or self.keeps_order:
            content = [self.items, self.labels, self.context, self.history, self.features]
            content += [] if self.catalog is None else [self.catalog.names, self.catalog.features]
            content += [self.dislikes] if self.dislikes else []
        else:
            # The plain case: to write numbers as Python does takes a fifth of what JSON takes.
            plain = f"{sorted(zip(self.items, self.labels, strict=True))}{canonical_json(self.features)}"
            if self.dislikes:
                plain += f"{sorted(self.dislikes)}"
            return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:32]
        return hashlib.sha256(_encode_json(content).encode()).hexdigest()[:32]

    def with_item_features(self, item_features: Mapping[str, RawFeatures]) -> EncodedEntity:
        """Return the entity with features of items, by item, in its own catalogue; itself where that changes nothing or
        it has none."""
        catalog = self.catalog
        if catalog is None or all(not values and name in catalog.ids for name, values in item_features.items()):
            return self
        base_digest = self.digest, canonical_json(item_features)
        return replace(self, catalog=catalog.with_item_features(item_features), base_digest=base_digest)


def canonical_json(values: Mapping[str, object]) -> str:
    """Write values as JSON with sorted keys: equal values give equal texts."""
    return _encode_json(values) if values else "{}"
