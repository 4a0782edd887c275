"""Weights of a mixture."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.models.learners.mixture import fit_weights

ROWS = 4000


def told(seed=0):
    """What two members say: the truth with noise of their own; the third knows nothing. And the labels."""
    g = torch.Generator().manual_seed(seed)
    truth = 1.5 * torch.randn(ROWS, generator=g, dtype=torch.float64)
    noise = torch.randn(ROWS, 3, generator=g, dtype=torch.float64)
    says = torch.stack([truth + noise[:, 0], truth + noise[:, 1], 2 * noise[:, 2]], 1)
    return says, (torch.rand(ROWS, generator=g, dtype=torch.float64) < torch.sigmoid(truth)).double()


def loss(line, says, label):
    logit = says @ line[:-1] + line[-1]
    return torch.nn.functional.binary_cross_entropy_with_logits(logit, label)


def test_a_mixture_beats_its_members_and_forgets_those_that_know_nothing():
    says, label = told()
    line = fit_weights(says, label, torch.ones(ROWS, dtype=torch.float64))
    assert line[0] == pytest.approx(float(line[1]), abs=0.1)
    assert line[2] < 0.05
    alone = [loss(torch.tensor([*(float(i == m) for i in range(3)), 0.0]).double(), says, label) for m in range(3)]
    assert loss(line, *told(1)) < min(alone) - 0.01


def test_without_rows_all_count_alike_and_few_rows_say_little():
    says, label = told()
    none = fit_weights(says, label, torch.zeros(ROWS, dtype=torch.float64))
    torch.testing.assert_close(none, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]).double())
    little = fit_weights(says, label, torch.full((ROWS,), 1e-3, dtype=torch.float64))
    assert (little - none).abs().max() < 0.02


def test_a_member_that_says_the_contrary_gets_nothing():
    says, label = told()
    says[:, 2] = 1 - 2 * label
    line = fit_weights(says, label, torch.ones(ROWS, dtype=torch.float64))
    assert line[2] == 0
    assert (line[:2] > 0).all()
    assert torch.isfinite(line).all()


def test_the_offset_makes_up_for_another_level():
    says, label = told()
    line = fit_weights(says[:, :2] - 2, label, torch.ones(ROWS, dtype=torch.float64))
    chance = torch.sigmoid((says[:, :2] - 2) @ line[:2] + line[2])
    assert float(chance.mean()) == pytest.approx(float(label.mean()), abs=0.03)
