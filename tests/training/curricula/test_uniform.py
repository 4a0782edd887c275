"""Uniform sampling: every entity once an epoch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.training.curricula import TaskPool, make_curriculum, shuffled_sampler
from recsys_meta.training.curricula.shuffled_sampler import ShuffledSampler

PLACES = np.array([3, 5, 8, 13, 21, 34, 55])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(entities=PLACES):
    return make_curriculum("uniform", TaskPool(entities), {})


@pytest.mark.parametrize("tasks", [1, 3, 7, 20])
def test_every_entity_is_drawn_once_an_epoch(tasks):
    curriculum, g = uniform(), generator()
    batches = [curriculum.sample(tasks, g).entities for _ in range(21)]
    assert all(len(b) == tasks and b.dtype == np.int64 for b in batches)
    drawn = np.concatenate(batches)
    for start in range(0, len(drawn) - len(PLACES) + 1, len(PLACES)):
        assert sorted(drawn[start : start + len(PLACES)]) == PLACES.tolist()


def test_epochs_differ_and_seeds_decide():
    def epochs(seed):
        curriculum, g = uniform(), generator(seed)
        return [tuple(curriculum.sample(len(PLACES), g).entities) for _ in range(5)]

    assert len(set(epochs(0))) > 1
    assert epochs(0) == epochs(0) != epochs(1)


def test_every_order_is_as_likely():
    curriculum, g = uniform(np.arange(3)), generator()
    orders = [tuple(curriculum.sample(3, g).entities) for _ in range(6000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert abs(counts - 1000).max() < 150  # five standard deviations


def test_who_is_barred_for_a_while_keeps_the_turn():
    curriculum, g = uniform(np.arange(6)), generator()
    some = torch.tensor([True, True, True, False, False, False])
    first = curriculum.sample(3, g, some).entities.tolist()
    rest = curriculum.sample(3, g).entities.tolist()
    assert sorted(first) == [0, 1, 2]
    assert sorted(rest) == [3, 4, 5]


def test_report_counts_tasks():
    curriculum = uniform()
    curriculum.sample(14, generator())
    assert curriculum.report() == {"drawn": 14.0, "epochs": 2.0}


def test_wrong_pools_are_refused():
    with pytest.raises(ConfigError, match="no entity"):
        uniform(np.array([], np.int64))
    with pytest.raises(CheckpointError, match="7 entities, this run has 3"):
        uniform(np.arange(3)).restore(uniform().state())


def test_windows_of_the_order_change_no_draw(monkeypatch):
    """Of a sampler that looks through the order in short windows, with restricted draws and a restore between."""

    def draws(window):
        monkeypatch.setattr(shuffled_sampler, "WINDOW", window)
        generator, sampler, drawn = torch.Generator().manual_seed(0), ShuffledSampler(37), []
        for step in range(40):
            allowed = torch.arange(37) % 3 == 0 if step % 5 == 4 else None
            drawn.append(sampler.sample(1 + step % 7, generator, allowed).tolist())
            if step == 20:
                state, sampler = sampler.state(), ShuffledSampler(37)
                sampler.restore(state)
        return drawn

    short = draws(3)
    assert short == draws(1000)
    first = list(itertools.chain(*short[:4]))
    assert len(set(first)) == len(first), "each once a pass"
