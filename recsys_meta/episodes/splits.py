"""Splits of entities into meta-training, meta-validation and meta-test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_meta.core.dataset import NO_TIME, Dataset, Events, FeatureColumn
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.core.types import FIRST, IntArray
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.id_hash import hash_shares


@dataclass(frozen=True)
class EntitySplit:
    """Disjoint sorted int64 indices of the entities that train, validate and test."""

    train: IntArray
    valid: IntArray
    test: IntArray


def split_by_seed(entities: IntArray, seed: int, shares: tuple[float, float] = (0.7, 0.1)) -> EntitySplit:
    """Split entities at random into train and valid by their shares, and test with the rest.

    Equal entities and seed give equal splits.

    Raises ConfigError when a part would be empty.
    """
    order = np.random.default_rng(seed).permutation(np.sort(np.asarray(entities, np.int64)))
    return _cut(order, shares)


def split_by_time(events: Events, entities: IntArray, shares: tuple[float, float] = (0.7, 0.1)) -> EntitySplit:
    """Split entities by arrival: the earliest train, later ones validate, the last test (protocol U4).

    An entity arrives with its first event; one without events comes last. Raises ConfigError if the events have no
    times or a part would be empty.
    """
    if events.time is None:
        raise ConfigError("this data set has no times, so it cannot be split by time; split by seed instead")
    candidates = np.sort(np.asarray(entities, np.int64))
    first = events.indptr[candidates]
    arrival = np.where(first < events.indptr[candidates + 1], events.time[np.minimum(first, len(events) - 1)], NO_TIME)
    return _cut(candidates[np.argsort(arrival, kind="stable")], shares)


def split_rule(by: str, seed: int) -> tuple[str, int]:
    """Return the rule of a split, "time", "seed" or "hash", and its number: "seed:3" is seed 3 whatever the run's is.

    A split that stays while the seed of a training varies tells the spread of training from that of the split. Raises
    ConfigError for any other text.
    """
    if by in ("seed", "time"):
        return by, seed
    rule, _, number = by.partition(":")
    if rule not in ("seed", "hash") or not (number.isascii() and number.isdecimal()):
        raise ConfigError(f"no split '{by}'; there are seed, seed:N, hash:N (N from 0 on), time")
    return rule, int(number)


def split_of(data: Dataset, index: EventIndex, by: str = "seed", seed: int = 0) -> EntitySplit:
    """Split the entities with at least `least_rows` rows, by "time" of arrival, or by "seed" or "hash" as the schema
    says.

    With `past_rows` entities of at least so many rows train and validate, the others test. The latter are smaller than
    any of the former, so the smaller half of a random fifth of the former validates: choices made on it are to hold for
    small entities. With `together` entities that share that feature's value go to the same part; with `folds` the seed
    counts through the parts of a cross-validation, repetition after repetition; the two combine. Without any of these
    the split is random. By "hash" the part of an entity follows from its id alone, or from the value that is kept
    together, so it stays while data grow. Raises ConfigError if a part would be empty, for an unknown rule, see
    `split_rule`, and for "hash" with `past_rows`.
    """
    by, seed = split_rule(by, seed)
    schema = data.schema
    entities = index.entities_with(schema.least_rows)
    if by == "time":
        return split_by_time(data.events, entities)
    if by == "hash":
        return _split_by_hash(data, entities, seed)
    if schema.past_rows is not None:
        return _split_by_size(entities, index.counts.cpu().numpy()[entities], schema.past_rows, seed)
    if schema.together is not None:
        value = _first_values(data.entities[schema.together], entities)
        if schema.folds:
            return _fold_together(entities, value, seed, schema.folds)
        return _split_together(entities, value, seed)
    if schema.folds:
        return _fold(entities, seed, schema.folds)
    return split_by_seed(entities, seed)


def _split_by_hash(data: Dataset, entities: IntArray, number: int) -> EntitySplit:
    """Split by a hash of each entity's id, or of its value of the schema's `together`, whose key is the number; with
    folds that counts through them, and a fifth of what does not test validates."""
    schema = data.schema
    if schema.past_rows is not None:
        raise ConfigError(
            f"'{schema.name}' tests entities below past_rows rows, which may grow beyond them; split by seed instead"
        )
    key, fold = divmod(number, schema.folds) if schema.folds else (number, 0)
    ids = _split_ids(data, entities)
    share = hash_shares(ids, f"split {key}")
    if schema.folds:
        test = np.floor(share * schema.folds) == fold
        valid = ~test & (hash_shares(ids, f"validation {number}") < 0.2)
    else:
        test, valid = share >= 0.8, (share >= 0.7) & (share < 0.8)
    return _parts(entities[~test & ~valid], entities[valid], entities[test])


def _split_ids(data: Dataset, entities: IntArray) -> list[str]:
    """Ids of entities, or the texts of the first values of the feature that keeps entities together."""
    together = data.schema.together
    if together is None:
        return [str(one) for one in data.vocab.values["entity"][entities]]
    values = _first_values(data.entities[together], entities)
    names = [str(value) for value in data.vocab.values[f"entity.{together}"]]
    return [names[value - FIRST] if value >= FIRST else "" for value in values.tolist()]


def _split_by_size(entities: IntArray, counts: IntArray, past_rows: int, seed: int) -> EntitySplit:
    """Entities below `past_rows` rows test; the smaller half of a random fifth of the others validates."""
    past = counts >= past_rows
    order = np.random.default_rng(seed).permutation(np.flatnonzero(past))
    near = order[: max(2, round(0.2 * len(order)))]
    valid = near[np.argsort(counts[near], kind="stable")][: max(1, len(near) // 2)]
    return _parts(np.setdiff1d(entities[past], entities[valid]), entities[valid], entities[~past])


def _split_together(entities: IntArray, value: IntArray, seed: int) -> EntitySplit:
    values, code = np.unique(value, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(len(values))[code]
    order = np.argsort(rank, kind="stable")
    # Cut by the number of entities, then move each cut back to where one value ends and the next begins.
    cuts = rank[order][[round(0.7 * len(order)), min(round(0.8 * len(order)), len(order) - 1)]]
    return _parts(entities[rank < cuts[0]], entities[(rank >= cuts[0]) & (rank < cuts[1])], entities[rank >= cuts[1]])


def _first_values(column: FeatureColumn, entities: IntArray) -> IntArray:
    """First value of a categorical feature for each entity, [n], 0 where there is none."""
    return lookup_rows({"value": column}, entities)["value"][:, 0].numpy()


def _fold(entities: IntArray, seed: int, folds: int) -> EntitySplit:
    order = np.random.default_rng(seed // folds).permutation(entities)
    parts = np.array_split(order, folds)
    rest = np.concatenate([p for i, p in enumerate(parts) if i != seed % folds])
    valid_count = max(1, round(0.2 * len(rest)))
    return _parts(rest[valid_count:], rest[:valid_count], parts[seed % folds])


def _fold_together(entities: IntArray, value: IntArray, seed: int, folds: int) -> EntitySplit:
    """Cut the values, in random order, into `folds` parts of about equally many entities; one part tests.

    Of the others the values that follow the test part validate, until they hold a fifth of the remaining entities.
    """
    _, code, size = np.unique(value, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed // folds).permutation(len(size))
    part = np.empty(len(size), np.int64)
    part[order] = (size[order].cumsum() - 1) * folds // len(entities)
    part_offset = (part - seed % folds) % folds
    rest = order[np.argsort(part_offset[order], kind="stable")]
    rest = rest[part_offset[rest] > 0]
    valid_values = rest[size[rest].cumsum() - size[rest] < 0.2 * size[rest].sum()]
    valid = np.isin(code, valid_values)
    test = part_offset[code] == 0
    return _parts(entities[~test & ~valid], entities[valid], entities[test])


def _parts(train: IntArray, valid: IntArray, test: IntArray) -> EntitySplit:
    if not (len(train) and len(valid) and len(test)):
        raise ConfigError(
            f"{len(train)} entities to train on, {len(valid)} to validate and {len(test)} to test on: each part needs "
            "one at least; prepare more data, or change past_rows, together, folds or least_rows of the schema"
        )
    return EntitySplit(np.sort(train), np.sort(valid), np.sort(test))


def _cut(order: IntArray, shares: tuple[float, float]) -> EntitySplit:
    first = round(len(order) * shares[0])
    second = first + max(1, round(len(order) * shares[1]))
    parts = order[:first], order[first:second], order[second:]
    if not len(order):
        raise ConfigError(
            "0 entities are too few: none has a usable row; for a ranking, does a label reach `positive` of the schema?"
        )
    if not all(len(p) for p in parts):
        raise ConfigError(
            f"{len(order)} entities are too few to split into train, validation and test by the shares "
            f"{shares[0]:g} and {shares[1]:g}; prepare more data (10 entities are enough for the usual shares)"
        )
    return EntitySplit(*(np.sort(p) for p in parts))
