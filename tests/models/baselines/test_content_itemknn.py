"""ItemKNN by content against plain numpy, and what it does without content."""

import numpy as np
import pytest
import torch

from pipelines.experiments.tuned_baselines import lacks_input
from recsys_meta.core.types import FIRST, Support
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.baselines.item_based import content_itemknn
from recsys_meta.models.baselines.item_based.content_itemknn import ContentItemKNN
from tests.fixtures.simulated_datasets import dataset
from tests.models.baselines.cases import rows

TAGS = [[0, 1], [0], [1, 2], [3], [0, 2, 3], []]
"""Tags of six items, of which the last two have no events."""
LIBRARIES = [[0, 1], [0, 2], [1, 2, 3], [3, 0]]


def library(tags=TAGS):
    items = [np.array(row) for row in LIBRARIES]
    features = (("tags", tags),) if tags else ()
    return dataset("library", "ranking", items, [np.ones(len(row)) for row in items], item_features=features)


def ranked(predictor, data, items):
    body = predictor.body(predictor.fit(data, np.arange(len(LIBRARIES))))
    support = Support({}, rows([[i + FIRST for i in items]]))
    return predictor.rank(body, predictor.adapt(body, support))[0].double().numpy()


def cosines_by_hand(rarity):
    tags = np.array([[v in cell for v in range(4)] for cell in TAGS], float)
    known = tags[:4]
    weighted = tags * np.log((1 + len(known)) / (1 + known.sum(0))) ** rarity
    length = np.linalg.norm(weighted, axis=1, keepdims=True)
    unit = weighted / np.where(length > 0, length, 1)
    return unit @ unit.T


@pytest.mark.parametrize("rarity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("items", [[0], [1, 2], [0, 2, 3]])
def test_scores_are_the_cosines_with_the_support_and_popularity(rarity, items):
    data = library()
    evidence = cosines_by_hand(rarity)[items].sum(0)
    alone = ranked(ContentItemKNN(rarity=rarity, popularity=0.0), data, items)[FIRST:]
    np.testing.assert_allclose(alone, evidence / evidence.std(), rtol=1e-4, atol=1e-5)
    popular = ranked(ItemPopularity(), data, items)[FIRST:]
    both = ranked(ContentItemKNN(rarity=rarity, popularity=0.5), data, items)[FIRST:]
    added = both - alone
    assert np.corrcoef(added, popular)[0, 1] > 0.9 and np.argmax(added) == np.argmax(popular)


def test_an_item_that_nobody_has_met_is_found_by_its_features():
    scores = ranked(ContentItemKNN(popularity=0.0), library(), [2])[FIRST:]
    assert scores[4] > scores[3] and scores[5] == pytest.approx(0, abs=1e-6)


def test_a_repeated_item_counts_once_and_an_unknown_one_not_at_all():
    data, predictor = library(), ContentItemKNN()
    np.testing.assert_array_equal(ranked(predictor, data, [1, 1, 2, 1 - FIRST]), ranked(predictor, data, [1, 2]))


def test_the_rarest_values_are_kept_where_an_item_has_more():
    data = library()
    one = ContentItemKNN(values=1)
    params = one.fit(data, np.arange(len(LIBRARIES)))
    assert params["column"].shape == (len(TAGS) + FIRST, 1)
    names = data.items["tags"].values[data.items["tags"].indptr[FIRST + 2] :][:2]
    assert names.tolist() == [1 + FIRST, 2 + FIRST]  # tag 1 has two items that were met, tag 2 one
    assert int(params["column"][FIRST + 2, 0]) == 2 + FIRST


def test_without_features_it_is_popularity_and_is_not_tried_unasked():
    data = library(tags=None)
    scores, popular = ranked(ContentItemKNN(), data, [0]), ranked(ItemPopularity(), data, [0])
    assert np.array_equal(np.argsort(-scores[FIRST:], kind="stable"), np.argsort(-popular[FIRST:], kind="stable"))
    assert lacks_input("content-itemknn", data) and not lacks_input("content-itemknn", library())


def test_popularity_is_that_of_training_entities_alone():
    data, predictor = library(), ContentItemKNN()
    params = predictor.fit(data, np.array([0, 1]))
    met = torch.tensor([i for row in LIBRARIES[:2] for i in row]) + FIRST
    counts = torch.bincount(met, minlength=len(TAGS) + FIRST)
    assert torch.equal(params["log_popularity"].argsort(stable=True), counts.double().argsort(stable=True))


def test_an_accelerator_where_nothing_is_read_back_gives_the_same_scores(monkeypatch):
    data, predictor = library(), ContentItemKNN()
    expected = ranked(predictor, data, [0, 2, 3])
    monkeypatch.setattr(content_itemknn, "is_readable", lambda tensor: False)
    np.testing.assert_allclose(ranked(predictor, data, [0, 2, 3]), expected, rtol=1e-5, atol=1e-6)
