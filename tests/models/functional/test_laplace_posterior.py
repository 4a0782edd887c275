"""Laplace posteriors under a Bernoulli likelihood, by either solver."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as log_loss

from recsys_meta.models.functional.laplace_posterior import (
    jaakkola_jordan_curvature,
    laplace_posterior,
    newton_laplace_posterior,
    prediction_variance,
    probit_adjusted_logit,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(tasks=5, rows=40, width=6, scale=1.5, seed=0):
    g = generator(seed)
    x = scale * torch.randn(tasks, rows, width, generator=g)
    offset = torch.randn(tasks, rows, generator=g)
    label = (torch.rand(tasks, rows, generator=g) < 0.4).float()
    return x, offset, label, torch.ones(tasks, rows)


def uphill(x, offset, label, weight, z):
    """Gradient of the log-posterior, 0 at its mode."""
    chance = torch.sigmoid(offset + (x @ z.unsqueeze(2)).squeeze(2))
    return (x.transpose(1, 2) @ (weight * (label - chance)).unsqueeze(2)).squeeze(2) - z


def test_the_mode_is_found_in_a_few_steps():
    given = problem()
    z, _ = laplace_posterior(*given, steps=4)
    best, _ = laplace_posterior(*given, steps=200)
    assert uphill(*given, best).abs().max() < 1e-3
    assert (z - best).norm() < 0.1 * best.norm()


def test_curvature_at_the_mode_is_the_posterior_precision():
    x, offset, label, weight = problem(tasks=1)
    z, factor = laplace_posterior(x, offset, label, weight, steps=50)
    hessian = torch.autograd.functional.jacobian(lambda v: uphill(x, offset, label, weight, v).sum(0), z)[:, 0]
    torch.testing.assert_close((factor @ factor.transpose(1, 2))[0], -hessian, rtol=1e-3, atol=1e-3)


def test_hundreds_of_equal_labels_and_large_inputs_stay_finite_and_go_uphill():
    x, offset, _, weight = problem(rows=500, width=17, scale=8)
    x[..., 0] = 30.0
    for label in (torch.ones_like(offset), torch.zeros_like(offset)):
        worth = []
        for steps in (0, 1, 2, 4, 8):
            z, factor = laplace_posterior(x, offset - 40, label, weight, steps)
            logit = offset - 40 + (x @ z.unsqueeze(2)).squeeze(2)
            fit_now = -torch.nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none").sum(1)
            worth.append(fit_now - 0.5 * z.square().sum(1))
            assert torch.isfinite(z).all()
            assert torch.isfinite(factor).all()
        for before, after in itertools.pairwise(worth):
            assert (after >= before - 1e-2 * before.abs().clamp(min=1)).all()


def test_no_rows_leave_the_prior_and_weight_two_is_a_row_twice():
    x, offset, label, weight = problem(rows=7)
    z, factor = laplace_posterior(x[:, :0], offset[:, :0], label[:, :0], weight[:, :0], steps=4)
    assert (z == 0).all()
    torch.testing.assert_close(factor, torch.eye(6).expand(5, 6, 6))
    torch.testing.assert_close(prediction_variance(x, factor), x.square().sum(2))
    twice = [torch.cat([t, t], 1) for t in (x, offset, label, weight)]
    for ours, theirs in zip(
        laplace_posterior(*twice, steps=4), laplace_posterior(x, offset, label, 2 * weight, steps=4), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_bound_is_smooth_through_zero_and_has_gradients():
    logit = torch.tensor([-30.0, -0.011, -0.009, 0.0, 0.009, 0.011, 30.0], requires_grad=True)
    made = jaakkola_jordan_curvature(logit)
    torch.testing.assert_close(made[1:6], torch.full((5,), 0.25), rtol=1e-4, atol=1e-5)
    made.sum().backward()
    assert torch.isfinite(logit.grad).all()
    chance = torch.sigmoid(logit)
    assert (made + 1e-6 >= chance * (1 - chance)).all(), "a curvature below the true one would overshoot"


def test_both_solvers_find_the_same_posterior():
    x, offset, label, weight = problem()
    z, factor = laplace_posterior(x, offset, label, weight, steps=100)
    mean = x.new_zeros(len(x), x.shape[2])
    mode, covariance = newton_laplace_posterior(x, label, weight, offset, mean, torch.eye(x.shape[2]))
    torch.testing.assert_close(mode, z, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(covariance, torch.cholesky_inverse(factor), rtol=1e-3, atol=1e-4)


def test_posterior_of_clicks_is_a_mode_with_its_curvature():
    rng = np.random.default_rng(1)
    v = torch.from_numpy(rng.normal(size=(3, 6, 2))).float()
    label, weight = torch.from_numpy(rng.integers(0, 2, (3, 6))).float(), torch.ones(3, 6)
    weight[0, 2:] = 0
    weight[1] = 0
    offset, mean = torch.full((3, 6), -0.7), torch.tensor([[0.3, -0.2]]).expand(3, -1)
    precision = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    mode, covariance = newton_laplace_posterior(v, label, weight, offset, mean, precision)
    w = mode.clone().double().requires_grad_()

    def negative(w):
        eta = offset + torch.einsum("tsd,td->ts", v.double(), w)
        gap = w - mean
        return (log_loss(eta, label.double(), reduction="none") * weight).sum() + 0.5 * (
            (gap @ precision.double()) * gap
        ).sum()

    (slope,) = torch.autograd.grad(negative(w), w)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-4, rtol=0)
    curvature = torch.autograd.functional.hessian(negative, mode.double())
    for t in range(3):
        torch.testing.assert_close(covariance[t].double(), torch.linalg.inv(curvature[t, :, t]), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(mode[1], mean[1])
    torch.testing.assert_close(covariance[1], torch.linalg.inv(precision))


def test_posterior_of_clicks_stays_finite_where_newton_alone_would_leap():
    n = 200
    label = torch.zeros(2, n)
    label[1] = 1
    offset = torch.tensor([[25.0], [-25.0]]).expand(2, n)
    start, vague = torch.zeros(2, 1), torch.tensor([[1e-3]])
    mode, covariance = newton_laplace_posterior(torch.ones(2, n, 1), label, torch.ones(2, n), offset, start, vague)
    assert torch.isfinite(covariance).all()
    assert mode[0, 0] < -5
    assert mode[1, 0] > 5


def test_moderated_logit_is_nearly_the_mean_probability():
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for mean, deviation in ((1.0, 0.5), (-2.0, 1.5), (0.0, 3.0)):
        true = torch.sigmoid(mean + deviation * draws).mean()
        found = torch.sigmoid(probit_adjusted_logit(torch.tensor(mean), torch.tensor(deviation**2)))
        assert abs(float(true - found)) < 0.02
