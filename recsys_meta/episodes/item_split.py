"""Split of items into known and new ones, for entities that are known (protocol I1 of docs/evaluation.md).

Training knows the rows of known items alone. A published division is used where the schema names one (`part`), with the
values train, warm_val, warm_test, cold_val and cold_test; else items are drawn by the seed, or the latest are new.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.id_hash import hash_shares
from recsys_meta.episodes.splits import split_rule

PARTS = ("train", "warm_val", "warm_test", "cold_val", "cold_test")
TRAIN, WARM_VALID, WARM_TEST, COLD_VALID, COLD_TEST = range(5)

VALID_SHARE, TEST_SHARE = 0.2, 0.2
"""Shares of items that are new in validation and in the test (Monteil et al. 2024)."""

HELD_OUT = 0.05
"""Share of the rows of known items that is held out for validation, and again for the test."""


@dataclass(frozen=True)
class ItemSplit:
    """Rows of E entities and C item ids in five parts: entity [R], item [R] and part [R], a number of `PARTS`. Rows of
    an item are in the order in which they may become its support."""

    entity: IntArray
    item: IntArray
    part: IntArray
    entities: int
    catalogue: int

    def matrix(self, *parts: int) -> sp.csr_matrix:
        """Rows of some parts as zeros and ones [E, C]."""
        keep = np.isin(self.part, parts)
        return binary_rows(self.entity[keep], self.item[keep], (self.entities, self.catalogue))

    def items(self, *parts: int) -> IntArray:
        """Ids of the items with rows in some parts, ascending."""
        return np.unique(self.item[np.isin(self.part, parts)])

    def support_and_query(self, part: int, shots: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """The first `shots` rows of each new item of a part, and those that follow them, both [E, C]. Items with fewer
        rows than shots + 1 have neither."""
        entity, item = self.entity[self.part == part], self.item[self.part == part]
        order = np.argsort(item, kind="stable")
        entity, item = entity[order], item[order]
        start = np.searchsorted(item, item)
        rank = np.arange(len(item)) - start
        enough = np.bincount(item, minlength=self.catalogue)[item] > shots
        shape = self.entities, self.catalogue
        first, rest = enough & (rank < shots), enough & (rank >= shots)
        return binary_rows(entity[first], item[first], shape), binary_rows(entity[rest], item[rest], shape)


def binary_rows(entity: IntArray, item: IntArray, shape: tuple[int, int]) -> sp.csr_matrix:
    """Build a matrix of zeros and ones from pairs; repeated ones count once."""
    matrix = sp.csr_matrix((np.ones(len(entity), np.float32), (entity, item)), shape=shape)
    matrix.data[:] = 1
    return matrix


def item_split(data: Dataset, seed: int, split: str = "seed", order: str | None = None) -> ItemSplit:
    """Split the liked rows of a data set. `split`: new items are drawn by the seed ("seed", or "seed:N" for the items
    of seed N whatever the seed is), by a hash of their id ("hash:N"), or are the last to appear ("time"); `order`:
    supports are the earliest rows ("time") or random ones. A published division goes before `split`.

    Raises ConfigError where the data are no ranking, have no times for it, or too few items.
    """
    if data.schema.objective != "ranking" or data.schema.home is not None:
        raise ConfigError(f"new items are for rankings of one catalogue; '{data.schema.name}' has no such objective")
    index = EventIndex.of(data)
    entity, item = index.entity.numpy(), index.item.numpy().astype(np.int64)
    order = order or data.schema.order
    rule, number = split_rule(split, seed)
    if "time" in (rule, order) and data.events.time is None:
        raise ConfigError(f"'{data.schema.name}' has no times; take --split seed and --order random")
    time = _times(data) if data.events.time is not None else None
    is_random = order == "random" or time is None
    rows = np.random.default_rng(seed).permutation(len(item))
    if not is_random and time is not None:
        rows = np.argsort(time, kind="stable")
    if data.schema.part:
        part = _published_parts(data, index)
    else:
        rng = np.random.default_rng(number)
        if is_random:
            rng.permutation(len(item))  # the rows' order of that seed
        part = _held_out_rows(_item_kinds(data, item, rule, number, rng, time)[item], rng)
    parts_of_rows = ItemSplit(entity[rows], item[rows], part[rows], len(index.counts), data.catalogue)
    _check(parts_of_rows, data.schema.name)
    return parts_of_rows


def _times(data: Dataset) -> IntArray:
    time, schema = np.asarray(data.events.time), data.schema
    return time if schema.positive is None else time[np.asarray(data.events.label) >= schema.positive]


def _published_parts(data: Dataset, index: EventIndex) -> IntArray:
    name = data.schema.part
    values = data.vocab.values[f"context.{name}"]
    if unknown := sorted(set(values) - set(PARTS)):
        raise ConfigError(f"'{name}' of {data.schema.name} has the value '{unknown[0]}'; there are {', '.join(PARTS)}")
    number = np.array([0] * FIRST + [PARTS.index(v) for v in values])
    code = index.context[str(name)].numpy()
    if (code < FIRST).any():
        raise ConfigError(f"'{name}' of {data.schema.name} is empty in some rows; each must say {', '.join(PARTS)}")
    part: IntArray = number[code]
    return part


def _item_kinds(
    data: Dataset, item: IntArray, rule: str, number: int, rng: np.random.Generator, time: IntArray | None
) -> IntArray:
    """Find which items of rows [R] are known, new in validation or new in the test, [C]: a number of `PARTS`."""
    items = np.unique(item)
    kind = np.full(data.catalogue, TRAIN)
    if rule == "hash":
        share = hash_shares((data.vocab.value("item", i) for i in items.tolist()), f"items {number}")
        kind[items[share >= 1 - TEST_SHARE - VALID_SHARE]] = COLD_VALID
        kind[items[share >= 1 - TEST_SHARE]] = COLD_TEST
        return kind
    if rule == "time" and time is not None:
        order = items[np.argsort(_first_times(item, time)[items], kind="stable")]
    else:
        order = rng.permutation(items)
    tests, validates = (round(len(items) * share) for share in (TEST_SHARE, VALID_SHARE))
    last = len(order) - tests
    kind[order[last:]] = COLD_TEST
    kind[order[last - validates : last]] = COLD_VALID
    return kind


def _held_out_rows(part: IntArray, rng: np.random.Generator) -> IntArray:
    """Hold some rows of known items out, for validation and for the test."""
    chance = rng.random(len(part))
    known = part == TRAIN
    part[known & (chance < 2 * HELD_OUT)] = WARM_VALID
    part[known & (chance < HELD_OUT)] = WARM_TEST
    return part


def _first_times(item: IntArray, time: IntArray) -> IntArray:
    first = np.full(item.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, item, time)
    return first


def _check(split: ItemSplit, name: str) -> None:
    present: npt.NDArray[np.int64] = np.bincount(split.part, minlength=len(PARTS))
    for number in (TRAIN, COLD_VALID, COLD_TEST):
        if not present[number]:
            raise ConfigError(f"'{name}' has no rows of the part {PARTS[number]}: too few items to hold some out")
