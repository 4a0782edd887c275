"""Uniform sampling: every entity once an epoch, and a resume that draws what would have been drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from recsys_meta.curricula import CURRICULA, Uniform
from recsys_meta.errors import CheckpointError, ConfigError

POOL = np.array([3, 5, 8, 13, 21, 34, 55])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tasks", [1, 3, 7, 20])
def test_every_entity_is_drawn_once_an_epoch(tasks):
    curriculum, g = Uniform(POOL), generator()
    batches = [curriculum.sample(tasks, g) for _ in range(21)]
    assert all(len(b) == tasks and b.dtype == np.int64 for b in batches)
    drawn = np.concatenate(batches)
    for start in range(0, len(drawn) - len(POOL) + 1, len(POOL)):
        assert sorted(drawn[start : start + len(POOL)]) == POOL.tolist()


def test_epochs_differ_and_seeds_decide():
    def epochs(seed):
        curriculum, g = Uniform(POOL), generator(seed)
        return [tuple(curriculum.sample(len(POOL), g)) for _ in range(5)]

    assert len(set(epochs(0))) > 1
    assert epochs(0) == epochs(0) != epochs(1)


def test_every_order_is_as_likely():
    curriculum, g = Uniform(np.arange(3)), generator()
    orders = [tuple(curriculum.sample(3, g)) for _ in range(6000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert abs(counts - 1000).max() < 150  # five standard deviations


@pytest.mark.parametrize("name", sorted(CURRICULA))
@pytest.mark.parametrize("before", [0, 1, 4, 9])
def test_a_resumed_run_draws_the_same(name, before):
    whole, g = CURRICULA[name](POOL), generator(2)
    for _ in range(before):
        whole.sample(4, g)
    state, chance = load(save(whole.state())), g.get_state()
    expected = [whole.sample(4, g).tolist() for _ in range(12)]
    again, h = CURRICULA[name](POOL), generator(99)
    again.restore(state)
    h.set_state(chance)
    assert [again.sample(4, h).tolist() for _ in range(12)] == expected
    assert again.report() == whole.report()


def test_state_is_a_copy():
    curriculum, g = Uniform(POOL), generator()
    curriculum.sample(2, g)
    kept = curriculum.state()
    state = {k: v.clone() for k, v in kept.items()}
    curriculum.sample(9, g)
    assert all(torch.equal(state[k], kept[k]) for k in state)


def test_report_counts_tasks():
    curriculum = Uniform(POOL)
    curriculum.sample(14, generator())
    assert curriculum.report() == {"drawn": 14.0, "epochs": 2.0}


def test_wrong_pools_are_refused():
    with pytest.raises(ConfigError, match="no entity"):
        Uniform(np.array([], np.int64))
    with pytest.raises(CheckpointError, match="7 entities, this run has 3"):
        Uniform(np.arange(3)).restore(Uniform(POOL).state())
