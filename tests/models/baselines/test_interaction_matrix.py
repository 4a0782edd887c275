"""What methods compute from the same training rows is computed once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, TrainingRows
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
