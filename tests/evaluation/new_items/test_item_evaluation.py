"""The curve of new items: content tells them apart, first interactions add to it, and no test row is looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.item_split import COLD_TEST, item_split
from recsys_meta.evaluation.new_items.item_evaluation import TRAINED, ItemEvaluation
from recsys_meta.models.new_items import dropout_net
from recsys_meta.models.new_items.methods import ITEM_BASELINES
from recsys_meta.models.new_items.signals import aligned, metadata_kernel, smoothed
from tests.fixtures.simulated_datasets import dataset


@pytest.fixture(scope="module")
def data():
    """Users like three of twelve tags, and a quality of items that no tag tells."""
    rng = np.random.default_rng(0)
    tags = [sorted(rng.choice(12, 2, replace=False).tolist()) for _ in range(150)]
    has = np.zeros((150, 12))
    has[np.repeat(np.arange(150), 2), np.concatenate(tags)] = 1
    likes = np.stack([rng.permutation([3.0] * 3 + [0.0] * 9) for _ in range(250)])
    hidden = rng.normal(size=(250, 2)) @ rng.normal(size=(2, 150))
    chosen = np.argsort(-(likes @ has.T + hidden + rng.gumbel(size=(250, 150))), 1)[:, :14]
    return dataset("tags", "ranking", list(chosen), [np.ones(14)] * 250, item_features=(("tags", tags),))


@pytest.fixture(scope="module")
def evaluation(data):
    return ItemEvaluation(data, item_split(data, seed=0), (0, 5))


def mean(curve, shots, metric="ndcg@10"):
    return float(np.nanmean(curve.values[shots][metric]))


def test_content_tells_new_items_apart_and_first_users_add_to_it(evaluation):
    chance, blend = evaluation.baseline("random"), evaluation.blend("blend")
    assert mean(blend, 0) > mean(chance, 0) + 0.05
    assert mean(blend, 5) > mean(evaluation.baseline("content-profile"), 5)
    assert {"shared users", "first users"} & set(evaluation.chosen["blend"][5])
    assert np.array_equal(blend.entities, chance.entities)


@pytest.mark.parametrize("name", [n for n in ITEM_BASELINES if n not in ("random", "popularity", "value-count")])
def test_every_baseline_is_above_chance_where_it_knows_something(evaluation, name, monkeypatch):
    monkeypatch.setattr(dropout_net, "STEPS", 80)
    monkeypatch.setattr(dropout_net, "BATCH", 32)
    assert mean(evaluation.baseline(name), 5) > mean(evaluation.baseline("random"), 5)


def test_an_exact_solution_is_that_in_the_whole_space_of_histories(evaluation):
    """There are fewer known items than dimensions of the leading space."""
    task, users = evaluation._point(COLD_TEST, 5).task, np.arange(50)
    assert len(task.known) < task.space.items.shape[1] + 1
    unit = task.history.nnz / len(task.known)  # of one penalty in those of the other
    for penalty, support in ((0.3, 0.0), (3.0, 2.0)):
        exact = aligned(task, 1.0, penalty, support)(users)
        other = smoothed(task, metadata_kernel(task), penalty * unit / float(task.space.strength.mean()), support)(
            users
        )
        assert np.abs(exact - other).max() < 1e-3 * np.abs(exact).max() and exact.std() > 0


def test_shuffled_test_rows_change_no_choice(data, evaluation):
    """Settings and weights are those of validation items: rows of test items may be anything."""
    split = item_split(data, seed=0)
    is_test = split.part == COLD_TEST
    item = split.item.copy()
    item[is_test] = np.random.default_rng(1).permutation(item[is_test])
    other = ItemEvaluation(data, replace(split, item=item), (0,))
    blend = other.blend("blend")
    first = ItemEvaluation(data, split, (0,))
    first.blend("blend")
    assert other.chosen["blend"][0] == first.chosen["blend"][0]
    assert mean(blend, 0) < mean(evaluation.blend("blend"), 0)


def test_new_items_among_all_cost_known_ones_little(evaluation):
    evaluation.blend("blend")
    known, alone = (np.nanmean(evaluation.known[n][0]["ndcg@10"]) for n in ("blend", "no-new-items"))
    assert alone > 0 and known >= 0.9 * alone  # surely one percent at most in validation
    among = np.nanmean(evaluation.among_all["blend"][0]["ndcg@20"])
    assert 0 < among < mean(evaluation.blend("blend"), 0, "ndcg@20")


def test_a_model_that_is_trained_on_the_new_items_stands_beside(evaluation):
    evaluation.blend("blend")
    rows = evaluation.later["blend"][0], evaluation.later[TRAINED][0]
    assert np.array_equal(*(np.isnan(metrics["recall@20"]) for metrics in rows))  # the same entities and rows
    cold, trained = (np.nanmean(metrics["recall@20"]) for metrics in rows)
    assert cold > 0.05 and trained > 0.05
    everyone = evaluation.among_all["blend"][0]["recall@20"]
    beside, alone = (evaluation.known[name][0]["recall@20"] for name in (TRAINED, "no-new-items"))
    assert np.array_equal(np.isnan(beside), np.isnan(alone))
    assert 0.5 * np.nanmean(alone) < np.nanmean(beside) < np.nanmean(alone)  # new ones take places
    assert 0 < (~np.isnan(rows[0]["recall@20"])).sum() < (~np.isnan(everyone)).sum()


def test_what_was_in_the_support_is_no_candidate(evaluation):
    point = evaluation._point(COLD_TEST, 5)
    users = point.entities
    support = np.asarray(point.task.support[users].todense())
    assert support.any() and not (point.open_for(users) * support).any()
    assert not (point.liked(users) * support).any()


def test_items_without_features_need_interactions(data):
    bare = replace(data, items={})
    with pytest.raises(ConfigError, match="no features of items"):
        ItemEvaluation(bare, item_split(bare, seed=0), (0, 1))
    evaluation = ItemEvaluation(bare, item_split(bare, seed=0), (5,))
    assert not evaluation.has_input("ridge") and evaluation.has_input("itemknn")
    assert mean(evaluation.blend("blend"), 5) > mean(evaluation.baseline("random"), 5)
