"""The corners of MeLU: who is in them, and their metrics against those of the library."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import melu_corners
from recsys_meta.data import prepare_named
from recsys_meta.metrics.ranking_metrics import rating_metrics
from recsys_meta.models.baselines import BASELINES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_named("simulated-users", tmp_path_factory.mktemp("users"), objective="rating")


def test_metrics_are_those_of_the_library_and_ties_share_their_gain():
    g = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 9, (20, 10), generator=g) / 2 + 0.25
    label = torch.randint(1, 6, (20, 10), generator=g).float()
    metrics = melu_corners._metrics(prediction, label, 1, 5)
    theirs = rating_metrics(prediction, label, torch.ones(20, 10, dtype=torch.bool), 1, 5)
    for name in ("mae", "rmse", "ndcg@5"):
        torch.testing.assert_close(metrics[name], theirs[name])
    best = melu_corners._metrics(label, label, 1, 5)
    assert all(torch.allclose(best[f"{n}@{k}"], torch.ones(20)) for n in ("ndcg", "linear_ndcg") for k in (1, 3, 5))
    assert metrics["linear_ndcg@3"].mean() > metrics["ndcg@3"].mean()


def test_no_corner_holds_a_row_that_trains(data, monkeypatch):
    years = data.vocab.values["item.year"].astype(float)
    monkeypatch.setattr(melu_corners, "LAST_KNOWN_YEAR", float(np.quantile(years, 0.6)))
    monkeypatch.setattr(melu_corners, "FEWEST", 11)
    draw = melu_corners.draw_corners(data, 0)
    is_new = melu_corners.new_films(data)
    assert 0.1 < is_new.float().mean() < 0.9
    assert not is_new[draw.known_rows.item.long()].any()
    by_name = {corner.name: corner for corner in draw.corners}
    for name, split in draw.splits.items():
        assert not set(split.train) & set(split.valid), name
        assert not (set(split.train) | set(split.valid)) & set(by_name["new-known"].entities), name
    assert set(draw.splits["melu"].train) < set(draw.splits["warm"].train)
    assert is_new[by_name["known-new"].index.item.long()].all() and len(by_name["known-new"].entities)
    for corner in draw.corners:
        counts = corner.index.counts.numpy()[corner.entities]
        assert counts.min() >= 11 and counts.max() <= 100


def test_a_corner_is_evaluated_on_the_last_ten_rows_whatever_the_support(data, monkeypatch):
    monkeypatch.setattr(melu_corners, "FEWEST", 11)
    draw = melu_corners.draw_corners(data, 1)
    corner = draw.corners[0]
    predictor = BASELINES["item-mean"](objective="rating")
    params = predictor.fit(data, draw.splits["warm"].train)
    whole, none = (melu_corners.evaluate_corner(predictor, params, data, corner, k) for k in (None, 0))
    assert len(whole["mae"]) == len(corner.entities)
    assert whole["rmse"].mean() < none["rmse"].mean(), "what a user has rated says how strict it is"
    torch.testing.assert_close(whole["ndcg@3"], none["ndcg@3"])
