"""Newcomers: as callers tell them, and the same in a model's words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from recsys_meta.core.types import FIRST

RawFeatures = Mapping[str, object]
_encode = json.JSONEncoder(sort_keys=True, default=str).encode  # made once: that takes as long as encoding


class Interaction(NamedTuple):
    """One raw event of a newcomer. `label` None means "it happened"; `time` in seconds since 1970 UTC.

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
    """What a caller knows of one entity: raw feature values and its interactions in any order."""

    features: RawFeatures = field(default_factory=dict)
    events: Sequence[Interaction] = ()


@dataclass(frozen=True)
class QueryContext:
    """When and by whom a list is asked for: its context, who acts, where, and what that actor met, the last one last.

    Without a history it is what the entity's events say of the actor.
    """

    context: RawFeatures = field(default_factory=dict)
    actor: str | None = None
    at: tuple[float, float] | None = None
    history: Sequence[str] | None = None


@dataclass(frozen=True)
class EntityCatalogSpec:
    """An entity's own catalogue: its items by local id - FIRST, and what is known of each."""

    names: tuple[str, ...] = ()
    features: tuple[RawFeatures, ...] = ()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Local ids by name."""
        return {name: i for i, name in enumerate(self.names, FIRST)}

    def joined(self, told: Mapping[str, RawFeatures]) -> EntityCatalogSpec:
        """With what is told of items: new ones come last, so that no id changes."""
        new = sorted(set(told) - self.ids.keys())
        features = [
            {**old, **told[n]} if told.get(n) else old for n, old in zip(self.names, self.features, strict=True)
        ]
        return EntityCatalogSpec((*self.names, *new), (*features, *(told[n] for n in new)))


@dataclass(frozen=True)
class EncodedEntity:
    """A newcomer in the model's terms: support rows, all items it has met, and raw items the model lacks.

    Ids are local where the entity has a catalogue of its own (`own`). context and history have an entry for each row,
    or none at all; acts: the items each actor met, the last one first; base: the digest before items were told of, and
    what was told.
    """

    items: tuple[int, ...]
    labels: tuple[float, ...]
    seen: frozenset[int]
    unknown: tuple[str, ...]
    features: RawFeatures
    context: tuple[RawFeatures, ...] = ()
    history: tuple[tuple[int, ...], ...] = ()
    acts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    own: EntityCatalogSpec | None = None
    base: tuple[str, str] | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of all that adaptation depends on beside the model; the order of events does not matter."""
        content: list[object]
        if self.base is not None:
            content = list(self.base)  # thousands of rows are not read again for one more item
        elif self.context or self.history or self.own is not None:
            content = [self.items, self.labels, self.context, self.history, self.features]
            content += [] if self.own is None else [self.own.names, self.own.features]
        else:
            # The plain case: to write numbers as Python does takes a fifth of what JSON takes.
            plain = f"{sorted(zip(self.items, self.labels, strict=True))}{canonical(self.features)}"
            return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:32]
        return hashlib.sha256(_encode(content).encode()).hexdigest()[:32]

    def joined(self, told: Mapping[str, RawFeatures]) -> EncodedEntity:
        """With what is told of items of its own catalogue; the same where nothing is."""
        if self.own is None or all(not words and name in self.own.ids for name, words in told.items()):
            return self
        return replace(self, own=self.own.joined(told), base=(self.digest, canonical(told)))


def canonical(words: Mapping[str, object]) -> str:
    """The same text for the same words."""
    return _encode(words) if words else "{}"
