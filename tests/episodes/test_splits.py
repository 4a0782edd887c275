"""Which entities train, validate and are tested."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.dataset import FeatureColumn, Vocabulary
from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed, split_by_time, split_of, split_rule
from tests.fixtures.city_datasets import towns
from tests.fixtures.small_datasets import data_of


@given(st.integers(10, 60), st.integers(0, 5))
def test_parts_are_disjoint_complete_and_deterministic(n, seed):
    entities = np.arange(n) * 3
    split = split_by_seed(entities, seed)
    parts = [split.train, split.valid, split.test]
    assert sorted(np.concatenate(parts).tolist()) == entities.tolist()
    assert all(len(p) and p.dtype == np.int64 and (np.diff(p) > 0).all() for p in parts)
    assert abs(len(split.train) - 0.7 * n) <= 1 and abs(len(split.valid) - 0.1 * n) <= 1
    again = split_by_seed(entities[::-1], seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, [again.train, again.valid, again.test], strict=True))


def test_another_seed_is_another_split_and_each_entity_is_tested_about_equally_often():
    tested = np.zeros(20)
    for seed in range(300):
        tested[split_by_seed(np.arange(20), seed).test] += 1
    assert tested.sum() == 300 * 4
    assert tested.min() > 30 and tested.max() < 95  # 60 expected; 4.4 deviations of 6.9 either way


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_entities_are_an_error_that_says_how_many(n):
    with pytest.raises(ConfigError, match=f"{n} entities are too few"):
        split_by_seed(np.arange(n), 0)
    data = data_of([[0]] * max(n, 1), time=[[i] for i in range(max(n, 1))])
    with pytest.raises(ConfigError, match="too few"):
        split_by_time(data.events, np.arange(n))


def test_by_time_the_earliest_arrivals_train_whatever_the_order_of_the_entities():
    rng = np.random.default_rng(0)
    times = [np.sort(rng.integers(0, 4, 3)) for _ in range(40)]  # many arrive at once
    events = data_of([[0, 1, 2]] * 40, time=times).events
    split = split_by_time(events, np.arange(40))
    arrived = np.array([t[0] for t in times])
    assert arrived[split.train].max() <= arrived[split.valid].min()
    assert arrived[split.valid].max() <= arrived[split.test].min()
    assert sorted(np.concatenate([split.train, split.valid, split.test]).tolist()) == list(range(40))
    mixed = split_by_time(events, rng.permutation(40))
    assert np.array_equal(split.train, mixed.train) and np.array_equal(split.test, mixed.test)


def test_by_time_an_entity_without_events_arrives_last():
    rows = [[0]] * 9 + [[]] + [[0]] * 9 + [[]]
    events = data_of(rows, time=[[i] if r else [] for i, r in enumerate(rows)]).events
    split = split_by_time(events, np.arange(20))
    assert {9, 19} <= set(split.test.tolist())


def test_by_time_needs_times():
    with pytest.raises(ConfigError, match="no times"):
        split_by_time(data_of([[0]] * 20).events, np.arange(20))


def sharing(schema_change):
    """Twenty entities of ten rows, in five groups that share a feature."""
    data = towns(entities=20, items=3, actors=2, rows=5)
    rows = np.arange(21)
    street = FeatureColumn("street", (2 + np.arange(20) % 5).astype(np.int32), rows, 7)
    return replace(data, schema=data.schema.model_copy(update=schema_change), entities={"street": street})


def test_sharers_are_never_split():
    data = sharing({"together": "street"})
    for seed in range(8):
        split = split_of(data, EventIndex.of(data), "seed", seed)
        streets = [set((p % 5).tolist()) for p in (split.train, split.valid, split.test)]
        assert sorted(np.concatenate([split.train, split.valid, split.test]).tolist()) == list(range(20))
        assert not (streets[0] & streets[1] or streets[0] & streets[2] or streets[1] & streets[2])


def test_folds_of_sharers_test_every_entity_once_and_split_none():
    data = sharing({"together": "street", "folds": 5})
    parts = [split_of(data, EventIndex.of(data), "seed", seed) for seed in range(5)]
    assert sorted(np.concatenate([p.test for p in parts]).tolist()) == list(range(20))
    for split in parts:
        streets = [set((p % 5).tolist()) for p in (split.train, split.valid, split.test)]
        assert sum(map(len, streets)) == 5
        assert [len(p) for p in (split.train, split.valid, split.test)] == [12, 4, 4]


def test_too_few_sharers_are_refused_in_words():
    data = sharing({"together": "street"})
    one = replace(data, entities={"street": FeatureColumn("street", np.full(20, 2, np.int32), np.arange(21), 7)})
    with pytest.raises(ConfigError, match="each part needs one at least"):
        split_of(one, EventIndex.of(one), "seed", 0)


def test_entities_with_too_few_rows_are_in_no_part():
    data = sharing({"least_rows": 11})
    with pytest.raises(ConfigError, match="too few"):
        split_of(data, EventIndex.of(data), "seed", 0)


def test_an_unknown_way_to_split_is_refused():
    data = data_of([[0, 1]] * 20)
    with pytest.raises(ConfigError, match="no split 'sideways'; there are seed, seed:N, hash:N"):
        split_of(data, EventIndex.of(data), "sideways", 0)


def test_a_split_of_a_named_seed_does_not_follow_the_seed_of_the_run():
    data = towns()
    index = EventIndex.of(data)
    wanted = split_of(data, index, "seed", 3)
    parts = [split_of(data, index, "seed:3", seed) for seed in (0, 7)]
    assert all(np.array_equal(wanted.test, part.test) and np.array_equal(wanted.train, part.train) for part in parts)
    assert not np.array_equal(wanted.test, split_of(data, index, "seed", 0).test)


def named(data, prefix="id"):
    """The same data with the ids of entities in its vocabulary."""
    names = pd.Index([f"{prefix}-{i}" for i in range(data.events.entity_count)], dtype="str")
    return replace(data, vocab=Vocabulary({**data.vocab.values, "entity": names}))


def test_by_a_hash_an_entity_keeps_its_part_while_data_grow():
    small, large = (named(data_of([[0, 1]] * count)) for count in (400, 1000))
    parts = [split_of(data, EventIndex.of(data), "hash:1", seed) for data, seed in ((small, 0), (large, 5))]
    for before, after in zip(parts[0].__dict__.values(), parts[1].__dict__.values(), strict=True):
        assert before.tolist() == [entity for entity in after.tolist() if entity < 400]
    shares = [len(part) / 1000 for part in (parts[1].train, parts[1].valid, parts[1].test)]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.05)


def test_each_number_of_a_hash_is_another_split_and_ids_alone_count():
    data = named(data_of([[0, 1]] * 300))
    first, second = (split_of(data, EventIndex.of(data), f"hash:{number}", 0) for number in (0, 1))
    both = len(np.intersect1d(first.test, second.test)) / len(first.test)
    assert 0.05 < both < 0.4  # a fifth, as if drawn anew
    assert not np.array_equal(first.test, split_of(named(data, "other"), EventIndex.of(data), "hash:0", 0).test)


def test_by_a_hash_sharers_are_never_split():
    data = sharing({"together": "street"})
    streets = pd.Index([f"street-{i}" for i in range(5)], dtype="str")
    data = named(replace(data, vocab=Vocabulary({"entity.street": streets})))
    split = split_of(data, EventIndex.of(data), "hash:1", 0)
    streets_of = [set((p % 5).tolist()) for p in (split.train, split.valid, split.test)]
    assert sum(map(len, streets_of)) == 5 and sum(map(len, (split.train, split.valid, split.test))) == 20


def test_by_a_hash_folds_test_every_entity_once():
    data = named(data_of([[0, 1]] * 100))
    data = replace(data, schema=data.schema.model_copy(update={"folds": 4}))
    parts = [split_of(data, EventIndex.of(data), f"hash:{number}", 0) for number in range(4, 8)]
    assert sorted(np.concatenate([p.test for p in parts]).tolist()) == list(range(100))


def test_by_a_hash_entities_are_not_split_by_their_size():
    data = named(data_of([[0, 1]] * 40))
    data = replace(data, schema=data.schema.model_copy(update={"past_rows": 2}))
    with pytest.raises(ConfigError, match="split by seed instead"):
        split_of(data, EventIndex.of(data), "hash:0", 0)


@pytest.mark.parametrize(
    "text", ["hash", "hash:", "hash:-1", "seed:", "seed:-1", "seed:x", "seed:1.0", "seed:²", "time:3", "by", ""]
)
def test_an_unknown_rule_of_a_split_says_which_there_are(text):
    with pytest.raises(ConfigError, match="there are seed, seed:N"):
        split_rule(text, 0)
