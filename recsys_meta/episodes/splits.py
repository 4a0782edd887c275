"""Which entities train, validate and are tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_meta.core.dataset import NO_TIME, Dataset, Events, FeatureColumn
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.feature_encoding import lookup_rows
from recsys_meta.core.types import IntArray
from recsys_meta.episodes.event_index import EventIndex


@dataclass(frozen=True)
class EntitySplit:
    """Entities of the three parts, disjoint, int64 indices into the data set."""

    train: IntArray
    valid: IntArray
    test: IntArray


def split_by_seed(entities: IntArray, seed: int, shares: tuple[float, float] = (0.7, 0.1)) -> EntitySplit:
    """Random split into train, valid and the rest; the same entities and seed give the same split.

    Raises ConfigError when a part would be empty.
    """
    order = np.random.default_rng(seed).permutation(np.sort(np.asarray(entities, np.int64)))
    return _cut(order, shares)


def split_by_time(events: Events, entities: IntArray, shares: tuple[float, float] = (0.7, 0.1)) -> EntitySplit:
    """Earliest arrivals train, later ones validate, the last are tested (protocol U4).

    An entity arrives with its first event; one without events comes last. Raises ConfigError without times.
    """
    if events.time is None:
        raise ConfigError("this data set has no times, so it cannot be split by time; split by seed instead")
    chosen = np.sort(np.asarray(entities, np.int64))
    first = events.indptr[chosen]
    arrived = np.where(first < events.indptr[chosen + 1], events.time[np.minimum(first, len(events) - 1)], NO_TIME)
    return _cut(chosen[np.argsort(arrived, kind="stable")], shares)


def split_of(data: Dataset, index: EventIndex, by: str = "seed", seed: int = 0) -> EntitySplit:
    """The split that the schema asks for, of entities with `least_rows` rows; else at random or, with `by` "time", by
    arrival.

    Entities with `past_rows` rows train and validate, the others are tested. These have fewer rows than any past one,
    so of a random fifth of the past the smaller half validates: what is chosen there is to hold for them. Sharers of
    the feature `together` go to the same part; with `folds` the seed counts through the parts of a cross-validation,
    repetition after repetition. Both may be given.
    Raises ConfigError when a part would be empty, or for another `by`.
    """
    if by not in ("seed", "time"):
        raise ConfigError(f"entities cannot be split by '{by}'; there are seed, time")
    schema = data.schema
    entities = index.entities_with(schema.least_rows)
    if by == "time":
        return split_by_time(data.events, entities)
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


def _split_by_size(entities: IntArray, counts: IntArray, past_rows: int, seed: int) -> EntitySplit:
    """Newcomers are smaller than past entities: of a random fifth of these the smaller half validates."""
    past = counts >= past_rows
    mixed = np.random.default_rng(seed).permutation(np.flatnonzero(past))
    near = mixed[: max(2, round(0.2 * len(mixed)))]
    held = near[np.argsort(counts[near], kind="stable")][: max(1, len(near) // 2)]
    return _parts(np.setdiff1d(entities[past], entities[held]), entities[held], entities[~past])


def _split_together(entities: IntArray, value: IntArray, seed: int) -> EntitySplit:
    kinds, place = np.unique(value, return_inverse=True)
    mixed = np.random.default_rng(seed).permutation(len(kinds))[place]
    order = np.argsort(mixed, kind="stable")
    # Cut by entities, then move the cuts back to where one value ends and the next begins.
    at = mixed[order][[round(0.7 * len(order)), min(round(0.8 * len(order)), len(order) - 1)]]
    return _parts(entities[mixed < at[0]], entities[(mixed >= at[0]) & (mixed < at[1])], entities[mixed >= at[1]])


def _first_values(column: FeatureColumn, entities: IntArray) -> IntArray:
    """The (first) value of a categorical feature, 0 where there is none."""
    return lookup_rows({"value": column}, entities)["value"][:, 0].numpy()


def _fold(entities: IntArray, seed: int, folds: int) -> EntitySplit:
    order = np.random.default_rng(seed // folds).permutation(entities)
    parts = np.array_split(order, folds)
    rest = np.concatenate([p for i, p in enumerate(parts) if i != seed % folds])
    held = max(1, round(0.2 * len(rest)))
    return _parts(rest[held:], rest[:held], parts[seed % folds])


def _fold_together(entities: IntArray, value: IntArray, seed: int, folds: int) -> EntitySplit:
    """Values in a random order are cut into parts of about equally many entities. Of what is left beside the part that
    is tested, the values that come next validate, until they have a fifth of the entities."""
    _, place, size = np.unique(value, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed // folds).permutation(len(size))
    part = np.empty(len(size), np.int64)
    part[order] = (size[order].cumsum() - 1) * folds // len(entities)
    turn = (part - seed % folds) % folds
    rest = order[np.argsort(turn[order], kind="stable")]
    rest = rest[turn[rest] > 0]
    held = rest[size[rest].cumsum() - size[rest] < 0.2 * size[rest].sum()]
    valid = np.isin(place, held)
    test = turn[place] == 0
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
