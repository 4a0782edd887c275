"""Splits of items: what training may know, drawn or published, and supports that come before queries."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import FeatureField
from recsys_meta.episodes.item_split import COLD_TEST, COLD_VALID, PARTS, TRAIN, WARM_TEST, item_split
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import data_of


def world():
    return ranking_world(entities=60, items=50, rows=12)


def published(data, parts):
    """The same data with a published part in each row."""
    schema = data.schema.model_copy(update={"context": (FeatureField(name="part"),), "part": "part"})
    names = pd.Index(sorted(set(parts)), dtype="str")
    code = names.get_indexer(pd.Index(parts)) + 2
    return replace(
        data,
        schema=schema,
        events=replace(data.events, context={"part": code.astype(np.int32)}),
        vocab=Vocabulary({**data.vocab.values, "context.part": names}),
    )


def test_training_knows_no_new_item():
    split = item_split(world(), seed=0)
    parts = [set(split.items(p).tolist()) for p in (TRAIN, COLD_VALID, COLD_TEST)]
    assert all(parts)
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert set(split.items(WARM_TEST).tolist()) <= parts[0]
    assert len(split.item) == len(world().events.item)
    other = item_split(world(), seed=1)
    assert set(other.items(COLD_TEST).tolist()) != parts[2]


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_supports_and_queries_share_no_row(shots):
    split = item_split(world(), seed=0)
    support, query = split.support_and_query(COLD_TEST, shots)
    assert not support.multiply(query).nnz
    counts = np.asarray(support.sum(0)).ravel()
    assert set(counts.tolist()) <= {0, shots}
    reached = np.asarray(query.sum(0)).ravel() > 0
    assert (counts[reached] == shots).all()
    more, _ = split.support_and_query(COLD_TEST, shots + 1)
    kept = np.asarray(more.sum(0)).ravel() > 0
    assert (support[:, kept] - more[:, kept]).max() <= 0  # a larger support holds the smaller one


def test_the_earliest_rows_are_the_support():
    data = data_of([[i, i + 1, 9] for i in range(8)], time=[[10 * i, 10 * i + 1, 100 - i] for i in range(8)])
    split = item_split(data, seed=0, split="time")
    assert 11 in split.items(COLD_TEST)  # item 9 appeared last
    support, query = split.support_and_query(COLD_TEST, 2)
    assert np.flatnonzero(support[:, 11].toarray()).tolist() == [6, 7]
    assert np.flatnonzero(query[:, 11].toarray()).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_published_division_is_taken_as_it_is():
    data = world()
    of_item = np.array(["train", "cold_val", "cold_test", "train", "train"])[np.asarray(data.events.item) % 5]
    split = item_split(published(data, of_item), seed=3)
    assert set((split.items(COLD_TEST) % 5).tolist()) == {2}
    assert set((split.items(TRAIN) % 5).tolist()) == {0, 3, 4}


def test_what_cannot_be_split_is_said():
    data = world()
    with pytest.raises(ConfigError, match=f"'other'; there are {', '.join(PARTS)}"):
        item_split(published(data, ["other"] * len(data.events.item)), seed=0)
    with pytest.raises(ConfigError, match="no rows of the part cold_val"):
        item_split(published(data, ["train"] * len(data.events.item)), seed=0)
    with pytest.raises(ConfigError, match="too few items"):
        item_split(data_of([[0], [0], [0]]), seed=0)
    with pytest.raises(ConfigError, match="no times"):
        item_split(replace(data, events=replace(data.events, time=None)), seed=0, split="time")
    with pytest.raises(ConfigError, match="for rankings"):
        item_split(data_of([[0, 1], [1, 0]], objective="click"), seed=0)


def test_items_of_a_named_seed_stay_while_the_seed_of_supports_varies():
    wanted = item_split(world(), seed=3)
    splits = [item_split(world(), seed, "seed:3") for seed in (3, 0, 7)]
    for part in (TRAIN, COLD_VALID, COLD_TEST):
        assert all(np.array_equal(one.items(part), wanted.items(part)) for one in splits)
    assert not np.array_equal(splits[1].item, splits[2].item)


def test_by_a_hash_an_item_keeps_its_part_while_a_catalogue_grows():
    small, large = (item_split(ranking_world(entities=60, items=n, rows=12), 0, "hash:0") for n in (50, 200))
    parts = {part: set(small.items(part).tolist()) for part in (TRAIN, COLD_VALID, COLD_TEST)}
    assert all(parts.values())
    for part, items in parts.items():
        assert items & set(large.items(*set(parts) - {part}).tolist()) == set()
    other = item_split(ranking_world(entities=60, items=200, rows=12), 0, "hash:1")
    assert not np.array_equal(other.items(COLD_TEST), large.items(COLD_TEST))
