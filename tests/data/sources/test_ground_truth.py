"""The truth of a prepared data set is made again from its name and seed, and from nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.data import ground_truth_of, prepare, prepare_named, simulate_users


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_named("simulated-users", tmp_path_factory.mktemp("data") / "out", seed=5)


def test_it_is_that_of_the_seed(data):
    truth, expected = ground_truth_of(data), simulate_users(seed=5).truth
    assert np.array_equal(truth.taste, expected.taste) and np.array_equal(truth.latent, expected.latent)


def test_the_folder_does_not_hold_it(data):
    assert "taste" not in str({k: v for k, v in data.about.items() if k != "titles"})
    assert set(data.entities) == {"gender", "age", "occupation"}


def test_other_rows_than_those_of_the_simulator_are_refused(data):
    for about, complaint in (
        ({**data.about, "seed": 6}, "prepare it anew"),
        ({**data.about, "name": "movielens-1m"}, "no simulator"),
        ({"name": "simulated-users"}, "no simulator"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            ground_truth_of(replace(data, about=about))


def test_of_cities_no_optimum_can_be_computed(data):
    with pytest.raises(ConfigError, match="no optimum"):
        ground_truth_of(replace(data, about={"name": "simulated-cities", "seed": 0}))


def test_the_prior_is_that_of_the_tastes(tmp_path):
    dataset = simulate_users(users=4000, seed=1, events=80_000)
    truth = dataset.truth
    rest = (truth.taste - truth.prior.mean) / truth.prior.std
    assert abs(rest.mean()) < 0.02 and rest.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(rest.ravel(), truth.prior.mean.ravel())[0, 1]) < 0.02
    data = prepare(dataset.tables, tmp_path / "out")
    assert np.array_equal(data.events.counts, truth.row_counts)
