"""Prepared data sets: events grouped by entity as in a CSR matrix, feature tables and vocabulary.

Arrays may be memory-mapped, so no function here copies a whole column of the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from recsys_meta.core.arrays import FIRST, UNKNOWN, FloatArray, IntArray
from recsys_meta.core.schema import ARRIVAL, Schema

NO_TIME = np.iinfo(np.int64).max
"""Marks a row of unknown time. It is the largest number, so such rows sort after all others."""


@dataclass(frozen=True)
class Events:
    """Interactions of E entities in N rows, sorted by entity, then time: entity e has rows indptr[e] to indptr[e + 1].

    indptr [E + 1] int64; item [N] int32, padded ids; label [N] float32; time [N] int64 in seconds since 1970 UTC
    (NO_TIME where unknown), or None when the data set has no times at all. context: name -> [N] float32 (NaN missing)
    or int32 (padded ids of the space 'context.<field>'). actor and group [N] int32: equal numbers mean the same actor
    or group; they are not padded ids and no vocabulary names them.
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
        """Number of entities, E."""
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return len(self.item)

    @property
    def counts(self) -> IntArray:
        """Number of rows of each entity, [E]."""
        return np.diff(self.indptr)


@dataclass(frozen=True)
class FeatureColumn:
    """One feature of n rows.

    An id feature has the values [V] of all rows one after the other, and row i has values[indptr[i] : indptr[i + 1]],
    indptr [n + 1]. A numeric feature has values [n] float32, NaN where missing, and no indptr.
    """

    name: str
    values: IntArray | FloatArray
    indptr: IntArray | None = None
    size: int = 0
    """Number of rows that an embedding table for the ids needs (0 for a numeric feature)."""

    @property
    def numeric(self) -> bool:
        """True for numbers, False for ids."""
        return self.indptr is None

    def __len__(self) -> int:
        return len(self.values) if self.indptr is None else len(self.indptr) - 1


FeatureTable = Mapping[str, FeatureColumn]
"""Features of all entities or of all items: name -> column."""


@dataclass(frozen=True)
class Vocabulary:
    """Raw values of every id space: 'item', 'entity', 'item.<field>', 'entity.<field>', 'context.<field>'.

    `values[space][i]` has the padded id i + FIRST.
    """

    values: Mapping[str, pd.Index] = field(default_factory=dict)

    def ids(self, space: str, raw: Iterable[object]) -> IntArray:
        """Return the padded ids [n] of n raw values, UNKNOWN for values that are not in the space.

        Raises KeyError for an unknown space.
        """
        index = self.values[space]
        position = index.get_indexer(pd.Index([str(r) for r in raw], dtype=index.dtype))
        return np.where(position >= 0, position + FIRST, UNKNOWN)

    def value(self, space: str, padded: int) -> str:
        """Return the raw value of one padded id. Raises IndexError for PAD, UNKNOWN and ids beyond the space."""
        if padded < FIRST:
            raise IndexError(f"id {padded} of '{space}' stands for no value")
        return str(self.values[space][padded - FIRST])

    def size(self, space: str) -> int:
        """Return the number of rows of a table that is indexed by the padded ids of a space."""
        return len(self.values[space]) + FIRST


def add_arrival(entities: FeatureTable, events: Events) -> FeatureTable:
    """Return the feature table of the entities with the numeric feature "arrival": the time of the first event of each
    entity, NaN where it is unknown. Without times the table is returned unchanged."""
    if events.time is None:
        return entities
    arrival = np.full(events.entity_count, np.nan, np.float32)
    active = np.flatnonzero(events.counts > 0)
    earliest = np.asarray(events.time[events.indptr[active]])
    arrival[active] = np.where(earliest == NO_TIME, np.nan, earliest)
    return {**entities, ARRIVAL.name: FeatureColumn(ARRIVAL.name, arrival)}


@dataclass(frozen=True)
class Dataset:
    """A prepared data set, as `data prepare` writes it.

    `entities` is the feature table of the entities (E rows), `items` that of the items, a row for each padded item id
    (C rows, the first two empty). `digest` is the hash of all content; `about` holds its origin and its counts.
    """

    schema: Schema
    events: Events
    entities: FeatureTable
    items: FeatureTable
    vocab: Vocabulary
    digest: str = ""
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is valid but unusual in the data."""
        warnings = self.about.get("warnings")
        return tuple(str(w) for w in warnings) if isinstance(warnings, list) else ()

    @cached_property
    def catalogue(self) -> int:
        """C, the number of padded item ids: the items and the two reserved ids."""
        return self.vocab.size("item")

    @cached_property
    def derived(self) -> dict[str, object]:
        """Results last computed from these data, by name, kept so that they are not computed again for each method."""
        return {}

    @cached_property
    def ownership(self) -> ItemOwnership | None:
        """Owner of each item by the feature `home` of the schema; None where the schema has none."""
        home = self.schema.home
        if home is None:
            return None
        column = self.items[home]
        assert column.indptr is not None
        entity_of_value = self.vocab.values["entity"].get_indexer(self.vocab.values[f"item.{home}"])
        has_home = np.diff(column.indptr) > 0
        owner = np.full(self.catalogue, -1, np.int64)
        value = np.asarray(column.values)[np.asarray(column.indptr[:-1])[has_home]]
        owner[has_home] = np.where(value >= FIRST, entity_of_value[np.maximum(value - FIRST, 0)], -1)
        return ItemOwnership.from_owners(owner, self.events.entity_count)


@dataclass(frozen=True)
class ItemOwnership:
    """Items that each of E entities owns: entity e has item[indptr[e] : indptr[e + 1]], padded ids in ascending order.

    indptr [E + 1]. owner [C]: the entity of each padded item id, -1 for none. local [C]: the id of the item within the
    catalogue of its owner, counted from FIRST on; UNKNOWN without an owner.
    """

    indptr: IntArray
    item: IntArray
    owner: IntArray
    local: IntArray

    @classmethod
    def from_owners(cls, owner: IntArray, entities: int) -> ItemOwnership:
        """Build the ownership from the owner [C] of each padded item id (-1 for none) and the number of entities."""
        order = np.argsort(owner, kind="stable")
        order = order[owner[order] >= 0]
        counts = np.bincount(owner[order], minlength=entities)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        local = np.full(len(owner), UNKNOWN, np.int64)
        local[order] = FIRST + np.arange(len(order)) - indptr[owner[order]]
        return cls(indptr, order, owner, local)
