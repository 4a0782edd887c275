"""Newcomers of an evaluation: what is known of them, and the groups that they are in."""

import numpy as np
import pytest

from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.evaluation.newcomer_groups import LEAST_NEWCOMERS, newcomer_groups
from recsys_meta.evaluation.newcomers import describe_newcomers, item_popularity
from recsys_meta.metrics.pooled_metrics import RowSample, compute_metric, entity_means
from tests.fixtures.simulated_datasets import dataset

COUNT, SHOTS = 120, (0, 2, 5)


@pytest.fixture(scope="module")
def world():
    """Entities of which every third lacks its group and every fifth its number."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(40)[: rng.integers(3, 12)] for _ in range(COUNT)]
    groups = [[] if e % 3 == 0 else [e % 2] for e in range(COUNT)]
    numbers = np.where(np.arange(COUNT) % 5 == 0, np.nan, np.arange(COUNT) // 2)
    features = (("group", groups), ("number", numbers))
    return dataset("newcomers", "ranking", rows, [np.ones(len(r)) for r in rows], entity_features=features)


@pytest.fixture(scope="module")
def newcomers(world):
    index = EventIndex.of(world)
    popularity = item_popularity(world, index, np.arange(60))
    return describe_newcomers(world, index, np.arange(60, COUNT), popularity, shots=SHOTS, order="random", seed=3)


def test_popularity_is_the_share_of_items_that_fewer_met(world):
    index = EventIndex.of(world)
    popularity = item_popularity(world, index, np.arange(60))
    task, item, _ = index.of_entities(np.arange(60))
    count = np.bincount(item.numpy(), minlength=world.catalogue)[FIRST:]
    for i in (0, 7, 39):
        assert popularity[FIRST + i] == pytest.approx(((count < count[i]).sum() + (count == count[i]).sum() / 2) / 40)
    assert np.isnan(popularity[:FIRST]).all() and len(task) == count.sum()


def test_supports_are_those_of_the_curve(world, newcomers):
    index = EventIndex.of(world)
    popularity = item_popularity(world, index, np.arange(60))
    rows = order_rows(index, "random", 3)
    for shots in SHOTS:
        support = newcomers.support[shots]
        enough = index.has_support(newcomers.entities, shots, world.schema.min_query)
        assert ((support.size == shots) == enough).all() and ((support.size == -1) == ~enough).all()
        batch = episodes_at(world, rows, newcomers.entities[enough], shots)
        items = batch.support.rows.item.numpy()
        expected = popularity[items].mean(1) if shots else np.full(len(items), np.nan)
        assert support.popularity[enough] == pytest.approx(expected, nan_ok=True)
    assert 0 < enough.sum() < len(enough)


def test_what_is_known_of_a_newcomer(newcomers):
    first = list(newcomers.entities).index(60)  # neither group nor number
    assert (newcomers.features_known[first], newcomers.feature_values(first)) == (0, {})
    other = first + 1
    assert newcomers.entity_id(other) == "e61"
    assert newcomers.feature_values(other) == {"group": ["group1"], "number": 30.0}
    assert newcomers.features_known[other] == 2


def test_groups_hold_those_whom_their_name_says(newcomers):
    groups = {(g.segment, g.part): g for g in newcomer_groups({0: newcomers, 1: newcomers}, 2)}
    measured = newcomers.support[2].size >= 0
    one = groups["group", "group1"].masks[0]
    assert (one == ((newcomers.features["group"] == FIRST + 1).any(1) & measured)).all()
    thirds = [groups["number", part] for part in ("low", "middle", "high")]
    assert sum(g.masks[1].astype(int) for g in thirds).max() == 1
    assert thirds[0].high < thirds[1].low <= thirds[1].high < thirds[2].low
    sizes = [g.masks[0].sum() for g in thirds]
    assert max(sizes) - min(sizes) <= 2
    assert ("support popularity", "high") in groups
    # Every support has two rows, and nobody has a group of twenty by chance.
    assert not [g for g in groups.values() if g.segment == "support size"]
    assert all(sum(m.sum() for m in g.masks.values()) >= LEAST_NEWCOMERS for g in groups.values())


def test_rows_of_a_group_and_the_mean_of_each_entity():
    rng = np.random.default_rng(0)
    entity = np.repeat(np.arange(6), 5)
    sample = RowSample(entity, rng.normal(size=30), (rng.random(30) < 0.5).astype(float))
    means = entity_means("logloss", sample, np.arange(8))
    for e in range(6):
        keep = entity == e
        alone = RowSample(entity[keep], sample.value[keep], sample.label[keep])
        assert means[e] == pytest.approx(compute_metric("logloss", alone))
    assert np.isnan(means[6:]).all() and entity_means("auc", sample, np.arange(8)) is None
