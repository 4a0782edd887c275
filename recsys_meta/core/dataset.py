"""A prepared data set: events in compressed rows by entity, feature tables, vocabulary.

Ragged at rest. Arrays may be memory-mapped, so nothing here copies a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from recsys_meta.core.schema import ARRIVAL, Schema
from recsys_meta.core.types import FIRST, UNKNOWN, FloatArray, IntArray

NO_TIME = np.iinfo(np.int64).max
"""Marks a row whose time is not known; such rows sort after those whose time is."""


@dataclass(frozen=True)
class Events:
    """Interactions sorted by entity, then time: entity e owns rows indptr[e] to indptr[e + 1].

    indptr [E + 1] int64; item [N] int32, padded ids; label [N] float32; time [N] int64 in seconds since 1970
    UTC, or None when the data set has no times at all. context: name -> [N] float32 (NaN missing) or int32 (padded ids
    of the space 'context.<field>'). actor and group [N] int32: numbers that equal ones share, no padded ids.
    """

    indptr: IntArray
    item: IntArray
    label: FloatArray
    time: IntArray | None = None
    context: Mapping[str, IntArray | FloatArray] = field(default_factory=dict)
    actor: IntArray | None = None
    group: IntArray | None = None

    @property
    def entity_count(self) -> int:
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return len(self.item)

    @property
    def counts(self) -> IntArray:
        """Rows of each entity, [E]."""
        return np.diff(self.indptr)


@dataclass(frozen=True)
class FeatureColumn:
    """One feature of n rows. Ids: values [V] with indptr [n + 1]; numbers: values [n] float32, NaN missing."""

    name: str
    values: IntArray | FloatArray
    indptr: IntArray | None = None
    size: int = 0
    """Rows that an embedding table for the ids needs (0 for numbers)."""

    @property
    def numeric(self) -> bool:
        return self.indptr is None

    def __len__(self) -> int:
        return len(self.values) if self.indptr is None else len(self.indptr) - 1


FeatureTable = Mapping[str, FeatureColumn]


@dataclass(frozen=True)
class Vocabulary:
    """Raw values of every id space: 'item', 'entity', 'item.<field>', 'entity.<field>', 'context.<field>'.

    `values[space][i]` has the padded id i + 2.
    """

    values: Mapping[str, pd.Index] = field(default_factory=dict)

    def ids(self, space: str, raw: Iterable[object]) -> IntArray:
        """Padded ids [n] of raw values; those never seen are UNKNOWN. KeyError for an unknown space."""
        index = self.values[space]
        found = index.get_indexer(pd.Index([str(r) for r in raw], dtype=index.dtype))
        return np.where(found >= 0, found + FIRST, UNKNOWN)

    def value(self, space: str, padded: int) -> str:
        """The raw value of one padded id; IndexError for padding, unknown and ids beyond the table."""
        if padded < FIRST:
            raise IndexError(f"id {padded} of '{space}' stands for no value")
        return str(self.values[space][padded - FIRST])

    def size(self, space: str) -> int:
        """Rows that a table indexed by these padded ids needs."""
        return len(self.values[space]) + FIRST


def add_arrival(entities: FeatureTable, events: Events) -> FeatureTable:
    """The table with the time of each entity's first event as the feature "arrival" (NaN where it is not known)."""
    if events.time is None:
        return entities
    first = np.full(events.entity_count, np.nan, np.float32)
    some = np.flatnonzero(events.counts > 0)
    earliest = np.asarray(events.time[events.indptr[some]])
    first[some] = np.where(earliest == NO_TIME, np.nan, earliest)
    return {**entities, ARRIVAL.name: FeatureColumn(ARRIVAL.name, first)}


@dataclass(frozen=True)
class Dataset:
    """What `data prepare` makes and everything else reads.

    `entities` has a row for each entity (E rows), `items` one for each padded item id (C rows, the first two
    empty). `digest` is the hash of all content; `about` says where it came from.
    """

    schema: Schema
    events: Events
    entities: FeatureTable
    items: FeatureTable
    vocab: Vocabulary
    digest: str = ""
    about: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def catalogue(self) -> int:
        """C: items and the two reserved ids."""
        return self.vocab.size("item")

    @cached_property
    def ownership(self) -> ItemOwnership | None:
        """Whose items are whose, where the schema has a `home`."""
        home = self.schema.home
        if home is None:
            return None
        column = self.items[home]
        assert column.indptr is not None
        entity_of = self.vocab.values["entity"].get_indexer(self.vocab.values[f"item.{home}"])
        known = np.diff(column.indptr) > 0
        owner = np.full(self.catalogue, -1, np.int64)
        value = np.asarray(column.values)[np.asarray(column.indptr[:-1])[known]]
        owner[known] = np.where(value >= FIRST, entity_of[np.maximum(value - FIRST, 0)], -1)
        return ItemOwnership.from_owners(owner, self.events.entity_count)


@dataclass(frozen=True)
class ItemOwnership:
    """The items of each entity: entity e owns items item[indptr[e] : indptr[e + 1]], whose local ids are FIRST on.

    owner [C]: the entity of each padded item id, -1 for none; local [C]: its id in the owner's catalogue.
    """

    indptr: IntArray
    item: IntArray
    owner: IntArray
    local: IntArray

    @classmethod
    def from_owners(cls, owner: IntArray, entities: int) -> ItemOwnership:
        """From the owner of each item."""
        order = np.argsort(owner, kind="stable")
        order = order[owner[order] >= 0]
        counts = np.bincount(owner[order], minlength=entities)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        local = np.full(len(owner), UNKNOWN, np.int64)
        local[order] = FIRST + np.arange(len(order)) - indptr[owner[order]]
        return cls(indptr, order, owner, local)
