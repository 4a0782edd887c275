"""The posterior of a taste: likelihoods against their definitions, samples against integration, calibration."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from recsys_meta.evaluation.taste_posterior import (
    ChoiceLikelihood,
    ClickLikelihood,
    VectorPrior,
    posterior_mode,
    sample_posterior,
)

ITEMS, DIMS = 12, 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def choices(chosen, lengths=None, seed=0):
    chosen = torch.as_tensor(chosen)
    lengths = torch.full((len(chosen),), chosen.shape[1]) if lengths is None else torch.as_tensor(lengths)
    mask = torch.arange(chosen.shape[1]) < lengths[:, None]
    return ChoiceLikelihood(normal(ITEMS, DIMS, seed=seed), normal(ITEMS, seed=seed + 1), chosen * mask, mask)


def clicks(tasks=4, rows=6, seed=0):
    label = (normal(tasks, rows, seed=seed + 2) > 0).double()
    mask = torch.arange(rows) < torch.tensor([6, 3, 1, 0])[:, None]
    return ClickLikelihood(normal(tasks, rows, DIMS, seed=seed), normal(tasks, rows, seed=seed + 1), label, mask)


def prior(tasks, mean=0.0, std=1.0, uniform=()):
    is_uniform = torch.tensor([d in uniform for d in range(DIMS)])
    return VectorPrior(
        torch.full((tasks, DIMS), mean, dtype=torch.float64), torch.full((DIMS,), std).double(), is_uniform
    )


def test_choices_have_the_probability_of_drawing_one_by_one_without_replacement():
    likelihood = choices([[3, 1, 7], [2, 5, 0]], lengths=[3, 2])
    taste = normal(2, 5, DIMS, seed=9)
    got = likelihood.log_likelihood(taste)
    for task, items in enumerate([[3, 1, 7], [2, 5]]):
        for m in range(5):
            weight = (likelihood.design @ taste[task, m] + likelihood.offset).exp()
            expected, left = 0.0, weight.sum()
            for i in items:
                expected += (weight[i] / left).log()
                left = left - weight[i]
            assert got[task, m] == pytest.approx(float(expected), abs=1e-9)


def test_probabilities_of_all_orders_of_all_pairs_sum_to_one():
    pairs = list(permutations(range(ITEMS), 2))
    likelihood = choices(pairs)
    taste = normal(1, 1, DIMS, seed=3).expand(len(pairs), -1, -1)
    assert likelihood.log_likelihood(taste).exp().sum() == pytest.approx(1.0)


def test_nothing_is_learned_from_an_empty_support():
    likelihood = choices(torch.zeros(2, 0, dtype=torch.long))
    assert (likelihood.log_likelihood(normal(2, 4, DIMS)) == 0).all()
    assert likelihood.is_left.all()


@pytest.mark.parametrize("likelihood", [choices([[3, 1, 7], [2, 5, 0]], [3, 2]), clicks()], ids=["choice", "click"])
def test_derivatives_are_those_of_the_log_likelihood(likelihood):
    taste = normal(len(likelihood.mask), DIMS, seed=5)
    gradient, information = likelihood.derivatives(taste)

    def total(t):
        return likelihood.log_likelihood(t[:, None]).sum()

    assert torch.allclose(gradient, torch.autograd.functional.jacobian(total, taste), atol=1e-9)
    hessian = torch.autograd.functional.hessian(total, taste)
    for task in range(len(taste)):
        assert torch.allclose(information[task], -hessian[task, :, task], atol=1e-9)


@pytest.mark.parametrize("likelihood", [choices([[3, 1, 7], [2, 5, 0]], [3, 2]), clicks()], ids=["choice", "click"])
def test_the_mode_is_one(likelihood):
    tasks = len(likelihood.mask)
    mode, information = posterior_mode(likelihood, prior(tasks, 0.5, 2.0))
    gradient = likelihood.derivatives(mode)[0] - (mode - 0.5) / 4
    assert gradient.abs().max() < 1e-6
    assert (torch.linalg.eigvalsh(information) > 0).all()


def test_samples_have_the_moments_of_the_exact_posterior():
    """Moments by sums over a grid, with a coordinate that is uniform from -1 to 1."""
    likelihood, half = choices([[3, 1, 7, 4]]), 3**-0.5
    given = prior(1, 0.0, half, uniform=(2,))
    taste, log_weight = sample_posterior(likelihood, given, 4096)
    axis = torch.linspace(-3, 3, 61, dtype=torch.float64)
    middle = (torch.arange(40, dtype=torch.float64) + 0.5) / 20 - 1
    grid = torch.cartesian_prod(axis, axis, middle)[None]
    density = (likelihood.log_likelihood(grid) + given.log_density(grid)).softmax(-1)
    weight = log_weight.exp()
    for power in (1, 2):
        got = (weight[..., None] * taste**power).sum(1)
        expected = (density[..., None] * grid**power).sum(1)
        assert torch.allclose(got, expected, atol=0.01), (power, got, expected)
    assert taste[..., 2][weight > 0].abs().max() <= 1
    assert 1 / weight.square().sum() > 0.5 * 4096, "the proposal is close to the posterior"


def coverage(std, tasks=600, rows=2, seed=0):
    """Where in its posterior the true taste lies, when tastes are drawn with deviation one and `std` is assumed."""
    rng = np.random.default_rng(seed)
    likelihood = choices(np.zeros((tasks, rows), int))
    truth = rng.normal(size=(tasks, DIMS))
    utility = truth @ likelihood.design.numpy().T + likelihood.offset.numpy()
    chosen = np.argsort(-utility - rng.gumbel(size=utility.shape), 1)[:, :rows]
    taste, log_weight = sample_posterior(choices(chosen), prior(tasks, std=std), 512)
    below = taste < torch.from_numpy(truth)[:, None]
    return (log_weight.exp()[..., None] * below).sum(1)[:, 0].numpy()


def test_the_posterior_is_calibrated():
    assert kstest(coverage(1.0), "uniform").pvalue > 0.05
    assert kstest(coverage(3.0), "uniform").pvalue < 0.01, "the test sees a wrong prior"
    assert kstest(coverage(0.4), "uniform").pvalue < 0.01
