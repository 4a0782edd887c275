"""The sum of standardized scores in few passes, against what defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.models.baselines.item_based.item_scores import mix_with_popularity
from recsys_meta.models.functional import standardized_scores
from recsys_meta.models.functional.score_forms import standardize, top_heavy
from recsys_meta.models.functional.standardized_scores import popularity_table, sum_of_forms

CATALOGUE, TASKS = 40, 5


def pieces():
    """Four predictors: mixtures with popularity, one with constant evidence; a gain of its own; scores alone."""
    g = torch.Generator().manual_seed(0)
    evidence = [torch.randn(TASKS, CATALOGUE, generator=g) * 3 + m for m in range(4)]
    evidence[1][2] = 7.0
    popularity = [torch.rand(CATALOGUE, generator=g) + 1 for _ in range(3)]
    scores = [mix_with_popularity(e, p, 0.4) for e, p in zip(evidence[:2], popularity[:2], strict=True)]
    scores += [0.3 * evidence[2] + popularity[2], evidence[3]]
    weight = torch.tensor([0.4, 0.4, 1.0, 0.0])[:, None].expand(4, TASKS).numpy()
    gain = torch.tensor([np.nan, np.nan, 0.3, 1.0])[:, None].expand(4, TASKS).numpy()
    table = popularity_table([*popularity, None])
    return evidence, weight, gain, table, scores


@pytest.mark.parametrize("most", [1, 1 << 24])
def test_the_sum_is_that_of_the_forms_of_standardized_scores(monkeypatch, most):
    monkeypatch.setattr(standardized_scores, "MOST_NUMBERS", most)
    evidence, weight, gain, table, scores = pieces()
    g = torch.Generator().manual_seed(1)
    plain, heavy = torch.rand(4, TASKS, generator=g), torch.rand(4, TASKS, generator=g)
    z = [standardize(s) for s in scores]
    parts = [p[:, None] * s + h[:, None] * top_heavy(s) for p, h, s in zip(plain, heavy, z, strict=True)]
    level, moments = table["level"].numpy(), table["moments"].numpy()
    before = [e.clone() for e in evidence]
    total = sum_of_forms(evidence, weight, gain, level, moments, plain.numpy(), heavy.numpy())
    torch.testing.assert_close(total, torch.stack(parts).sum(0), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, evidence, strict=True))


def test_constant_scores_have_no_influence():
    evidence = [torch.full((2, CATALOGUE), 3.0), torch.arange(CATALOGUE).float().repeat(2, 1)]
    ones, zeros = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    table = popularity_table([None, None])
    total = sum_of_forms(evidence, zeros, ones, table["level"].numpy(), table["moments"].numpy(), ones, zeros)
    torch.testing.assert_close(total, standardize(evidence[1]), rtol=1e-5, atol=1e-5)
