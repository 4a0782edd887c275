"""What methods compute from the same training rows is computed once."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, TrainingRows
from recsys_meta.models.baselines.item_based import itemknn
from tests.models.baselines.cases import make_small_baseline, simulated_dataset

NAMES = ("itemknn", "ease", "naive-bayes", "gaussian", "blr", "content")


@pytest.fixture(scope="module")
def data():
    return simulated_dataset(items=24, entities=80)


def test_methods_fitted_to_the_same_entities_read_the_rows_once(data, monkeypatch):
    calls, original = [], TrainingRows.of
    monkeypatch.setattr(TrainingRows, "of", lambda *a: calls.append(1) or original(*a))
    fresh = replace(data)
    for name in NAMES:
        make_small_baseline(name, "ranking").fit(fresh, np.arange(60))
    assert len(calls) == 1
    matrix = TrainingMatrix.of(fresh, np.arange(61))
    assert len(calls) == 2 and matrix.matrix.shape[0] == 61, "of other entities there are other rows"


def test_no_fit_changes_what_the_others_share(data):
    shared = replace(data)
    for names in (NAMES, NAMES[::-1]):
        for name in names:
            got = make_small_baseline(name, "ranking").fit(shared, np.arange(60))
            alone = make_small_baseline(name, "ranking").fit(replace(data), np.arange(60))
            assert got.keys() == alone.keys() and all(torch.equal(got[k], alone[k]) for k in got), name


def test_neighbours_are_those_of_the_most_cooccurrences_per_root_of_popularity():
    rng = np.random.default_rng(0)
    dense = (rng.random((300, 60)) < rng.uniform(0.0, 0.2, 60)).astype(np.float32)
    dense[:, 7] = 0
    counts = dense.sum(0)
    found = itemknn._top_neighbours(sp.csr_matrix(dense), counts, 5)
    cooccurrence = dense.T @ dense
    np.fill_diagonal(cooccurrence, 0)
    scores = cooccurrence / np.sqrt(np.maximum(counts, 1))
    for item in range(60):
        ids, together = found["neighbour"][item].numpy(), found["together"][item].numpy()
        real = together > 0
        assert item not in ids[real] and np.array_equal(together[real], cooccurrence[item, ids[real]])
        best = np.sort(scores[item])[::-1][:5]
        np.testing.assert_allclose(np.sort(together / np.sqrt(np.maximum(counts, 1))[ids])[::-1], best, rtol=1e-6)
