"""Thompson sampling tries what may be the best, and knows how often it does."""

import pytest
import torch

from recsys_meta.inference.ranking.thompson_sampling import propensity, thompson_draw

MEAN = torch.tensor([0.3, 0.0, -0.5, 0.2])
SPREAD = torch.tensor([0.1, 0.6, 2.0, 0.3])


def test_a_draw_is_known_by_its_seed_and_has_the_moments_asked_for():
    assert torch.equal(thompson_draw(MEAN, SPREAD, 3), thompson_draw(MEAN, SPREAD, 3))
    assert not torch.equal(thompson_draw(MEAN, SPREAD, 3), thompson_draw(MEAN, SPREAD, 4))
    draws = torch.stack([thompson_draw(MEAN, SPREAD, n) for n in range(4000)])
    # Standard errors of 4000 draws: sd / 63 for the mean, sd / 89 for the spread; five of them are allowed.
    assert ((draws.mean(0) - MEAN).abs() < 5 * SPREAD / 63).all()
    assert ((draws.std(0) - SPREAD).abs() < 5 * SPREAD / 89).all()


def test_propensities_are_the_shares_of_many_draws():
    firsts = torch.stack([thompson_draw(MEAN, SPREAD, n) for n in range(4000)]).argmax(1)
    for i in range(4):
        share = float((firsts == i).double().mean())
        assert propensity(i, MEAN, SPREAD) == pytest.approx(share, abs=5 * (share * (1 - share) / 4000) ** 0.5)


def test_propensities_sum_to_one():
    assert sum(propensity(i, MEAN, SPREAD) for i in range(4)) == pytest.approx(1, abs=1e-3)
    many = torch.linspace(-1, 1, 200), torch.full((200,), 0.5)
    assert sum(propensity(i, *many) for i in range(200)) == pytest.approx(1, abs=1e-3)


def test_two_of_a_kind_have_a_chance_each_and_a_hopeless_one_a_small_one():
    assert propensity(0, torch.zeros(2), torch.ones(2)) == pytest.approx(0.5)
    # The difference of two standard normal draws has a standard deviation of the root of 2.
    small = float(torch.special.ndtr(torch.tensor(-6 / 2**0.5, dtype=torch.float64)))
    assert propensity(1, torch.tensor([6.0, 0.0]), torch.ones(2)) == pytest.approx(small, rel=1e-3)


def test_who_is_sure_does_not_explore():
    mean, sure = torch.tensor([1.0, 2.0]), torch.zeros(2)
    assert thompson_draw(mean, sure, 1).tolist() == [1.0, 2.0]
    assert (propensity(1, mean, sure), propensity(0, mean, sure)) == (pytest.approx(1), 0)
    assert propensity(0, torch.tensor([1.0]), torch.ones(1)) == pytest.approx(1)
