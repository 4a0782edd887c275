"""Interpolation between knots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.models.functional.interpolation import (
    SIZE_KNOTS,
    encode_numbers,
    linear_interpolation_weights,
    quantile_knots,
    support_size_weights,
)


def test_hats_sum_to_one_and_interpolate():
    places = torch.tensor([0.0, 1.0, 4.0])
    x = torch.tensor([-5.0, 0.0, 0.25, 1.0, 2.5, 9.0])
    expected = [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    assert torch.allclose(linear_interpolation_weights(x, places), torch.tensor(expected))


def test_sizes_lie_between_knots():
    weights = support_size_weights(torch.tensor([0.0, 1.0, 4.0, 1e6]), SIZE_KNOTS)
    assert torch.allclose(weights.sum(1), torch.ones(4))
    assert weights[0, 0] == 1 and weights[1, 1] == 1 and weights[3, -1] == 1
    place = SIZE_KNOTS.index(3)
    share = (np.log(5) - np.log(4)) / (np.log(6) - np.log(4))
    assert weights[2, place + 1] == pytest.approx(share, abs=1e-5)


def test_one_knot_weighs_one_at_every_size():
    assert torch.equal(support_size_weights(torch.tensor([0.0, 7.0]), (0,)), torch.ones(2, 1))


def test_a_missing_number_has_the_indicator_alone():
    inputs = encode_numbers(torch.tensor([0.5, torch.nan]), torch.tensor([0.0, 1.0, 4.0]))
    assert torch.equal(inputs, torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))


def test_knots_are_distinct_quantiles_of_the_finite_values():
    values = np.array([0.0, 0.0, 0.0, 1.0, np.nan, 4.0, np.inf])
    assert quantile_knots(values, 5).tolist() == [0.0, 1.0, 4.0]
    assert quantile_knots(values[4:5], 5).tolist() == [0.0]
