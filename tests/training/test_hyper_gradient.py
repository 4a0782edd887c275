"""The outer rate grows while steps agree and falls when they go to and fro."""

import math

import pytest
import torch

from recsys_meta.training.hyper_gradient import BOUND, next_rate_factor, update_agreement


def optimiser_of(params, rates=(1.0, 1.0)):
    groups = [{"params": [v], "lr": r, "initial_lr": r} for v, r in zip(params.values(), rates, strict=True)]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def take(optimiser, params, **gradients):
    for key, gradient in gradients.items():
        params[key].grad = torch.tensor(gradient)
    agreement = float(update_agreement(optimiser, params, params.keys()))
    optimiser.step()
    return agreement


def test_agreement_is_the_cosine_with_the_last_update():
    params = {k: torch.zeros(2, requires_grad=True) for k in "ab"}
    optimiser = optimiser_of(params, (1.0, 0.5))
    assert take(optimiser, params, a=[1.0, -2.0], b=[3.0, 3.0]) == 0
    # The first update of Adam is the sign of the gradient times the rate.
    update = torch.tensor([1.0, -1.0, 0.5, 0.5])
    again = torch.tensor([1.0, -2.0, -3.0, 3.0])
    expected = float(torch.cosine_similarity(update, again, dim=0))
    assert take(optimiser, params, a=[1.0, -2.0], b=[-3.0, 3.0]) == pytest.approx(expected, rel=1e-4)


def test_tables_without_a_gradient_or_moments_do_not_count():
    params = {k: torch.zeros(2, requires_grad=True) for k in "ab"}
    optimiser = optimiser_of(params)
    take(optimiser, params, a=[1.0, 1.0])
    assert take(optimiser, params, a=[1.0, 1.0], b=[-1.0, -1.0]) == pytest.approx(1)
    params["a"].grad = None
    assert float(update_agreement(optimiser, params, ["a"])) == 0
    assert float(update_agreement(optimiser, params, [])) == 0


def test_the_rate_grows_on_a_slope_and_falls_in_a_valley():
    factors = {}
    for name, start, rate in (("slope", 100.0, 0.01), ("valley", 1.0, 2.0)):
        params, factor = {"x": torch.tensor([start], requires_grad=True)}, 1.0
        optimiser = optimiser_of(params, (rate,))
        for _ in range(20):
            x = float(params["x"].detach())
            factor = next_rate_factor(factor, take(optimiser, params, x=[2 * x]), 0.1)
            optimiser.param_groups[0]["lr"] = rate * factor
        factors[name] = factor
    assert factors["valley"] < 1 < factors["slope"]
    assert factors["slope"] == pytest.approx(math.exp(0.1 * 19), rel=1e-3)


def test_factors_are_bounded():
    assert next_rate_factor(BOUND, 1.0, 1.0) == BOUND
    assert next_rate_factor(1 / BOUND, -1.0, 1.0) == 1 / BOUND
