"""Metrics against scikit-learn and ranx where definitions agree: rankings without ties, each with a relevant item."""

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, what is compared milliseconds
from ranx import Qrels, Run, evaluate
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from recsys_meta.metrics.pooled_metrics import CALIBRATION_BINS, RowSample, auc, compute_metric, reliability
from recsys_meta.metrics.ranking_metrics import choice_metrics, ranking_metrics, rating_metrics

RANX = {"ndcg@10": "ndcg@10", "recall@20": "recall@20", "mrr": "mrr", "hit@10": "hit_rate@10"}


def clicks(rows=1002, levels=None, seed=0):
    """Logits, on a grid of `levels` values if given, and labels that they predict too confidently."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows) if levels is None else rng.integers(-levels, levels, rows) / 2
    label = (rng.random(rows) < 1 / (1 + np.exp(-0.5 * logit))).astype(np.float64)
    return RowSample(rng.integers(0, 20, rows), logit, label)


@pytest.mark.parametrize("levels", [None, 3])
def test_auc_and_log_loss_are_those_of_scikit_learn(levels):
    sample = clicks(levels=levels)
    probability = 1 / (1 + np.exp(-sample.value))
    assert auc(sample.value, sample.label) == pytest.approx(sk.roc_auc_score(sample.label, sample.value), abs=1e-12)
    assert compute_metric("logloss", sample) == pytest.approx(sk.log_loss(sample.label, probability), abs=1e-12)


def test_reliability_is_the_calibration_curve_of_scikit_learn():
    # 1002 rows: no quantile falls on a row, where the two put it into different bins.
    sample = clicks()
    probability = 1 / (1 + np.exp(-sample.value))
    rate, mean = calibration_curve(sample.label, probability, n_bins=CALIBRATION_BINS, strategy="quantile")
    ours = reliability(sample)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-12)
    np.testing.assert_allclose(ours[1], rate, rtol=1e-12)
    wanted = (np.abs(rate - mean) * ours[2]).sum() / len(probability)
    assert compute_metric("ece", sample) == pytest.approx(wanted, abs=1e-12)


def by_query(rows):
    return {f"q{t}": {f"i{i}": value for i, value in row.items()} for t, row in enumerate(rows)}


@pytest.mark.slow
def test_rankings_are_those_of_ranx():
    rng = np.random.default_rng(1)
    tasks, items = 50, 70
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(items, dtype=np.float32), (tasks, 1)), axis=1))
    candidates = torch.from_numpy(rng.random((tasks, items)) < 0.8)
    relevant = torch.from_numpy(rng.random((tasks, items)) < 0.1) & candidates
    kept = relevant.any(1)
    scores, candidates, relevant = scores[kept], candidates[kept], relevant[kept]
    ours = ranking_metrics(scores, relevant, candidates, torch.Generator())
    run = [
        {i: float(row[i]) for i in mask.nonzero()[:, 0].tolist()} for row, mask in zip(scores, candidates, strict=True)
    ]
    qrels = [dict.fromkeys(row.nonzero()[:, 0].tolist(), 1) for row in relevant]
    theirs = evaluate(Qrels(by_query(qrels)), Run(by_query(run)), list(RANX.values()))
    for name, other in RANX.items():
        assert float(ours[name].double().mean()) == pytest.approx(theirs[other], abs=1e-6), name


def test_choices_are_those_of_ranx():
    rng = np.random.default_rng(2)
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(40, dtype=np.float32), (60, 1)), axis=1))
    target = torch.from_numpy(rng.integers(0, 40, 60))
    ours = choice_metrics(scores, target, torch.ones_like(scores, dtype=torch.bool), torch.Generator())
    run = [dict(enumerate(row.tolist())) for row in scores]
    qrels = [{i: 1} for i in target.tolist()]
    names = {"hit@5": "hit_rate@5", "hit@10": "hit_rate@10", "ndcg@5": "ndcg@5", "ndcg@10": "ndcg@10", "mrr": "mrr"}
    theirs = evaluate(Qrels(by_query(qrels)), Run(by_query(run)), list(names.values()))
    for name, other in names.items():
        assert float(ours[name].double().mean()) == pytest.approx(theirs[other], abs=1e-6), name


@pytest.mark.parametrize("levels", [3, 1000])
def test_ratings_are_those_of_scikit_learn(levels):
    """Few levels of predictions are many ties, over which both take the expectation."""
    rng = np.random.default_rng(3)
    label = rng.integers(1, 6, (40, 9)).astype(np.float64)
    prediction = 1 + 4 * rng.integers(0, levels, (40, 9)) / levels
    full = torch.ones(40, 9, dtype=torch.bool)
    ours = rating_metrics(torch.from_numpy(prediction), torch.from_numpy(label), full, 1, 5)
    for t in range(40):
        assert float(ours["rmse"][t]) == pytest.approx(sk.mean_squared_error(label[t], prediction[t]), abs=1e-9)
        assert float(ours["mae"][t]) == pytest.approx(sk.mean_absolute_error(label[t], prediction[t]), abs=1e-9)
        wanted = sk.ndcg_score(2.0 ** label[t : t + 1] - 1, prediction[t : t + 1], k=5)
        assert float(ours["ndcg@5"][t]) == pytest.approx(wanted, abs=1e-6)
