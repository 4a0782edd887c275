"""What every curriculum promises, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.training.curricula import CURRICULA, TaskPool, make_curriculum
from tests.training.curricula.cases import CONFIGS, ENTITIES, NAMES, TASKS, echo, generator, pool_of, ready, rounds

each = pytest.mark.parametrize(("name", "config"), CONFIGS, ids=NAMES)
HARD = np.arange(ENTITIES, dtype=float)


@each
def test_a_meta_batch_has_as_many_tasks_as_asked_for_all_of_the_pool(name, config):
    for draw in rounds(ready(name, config), 40):
        assert len(draw.entities) == len(draw.stage) == TASKS
        assert draw.entities.dtype == np.int64
        assert set(draw.entities.tolist()) <= set(range(ENTITIES))


@each
@pytest.mark.parametrize("before", [0, 1, 2, 7])
def test_a_resumed_run_draws_the_same(name, config, before):
    whole, g = ready(name, config), generator(2)

    def go(curriculum, chance):
        draw = curriculum.sample(4, chance)
        if curriculum.needs_feedback:
            curriculum.update(echo(draw, HARD))
        prefer = None if draw.prefer is None else draw.prefer.nonzero().flatten().tolist()
        return draw.entities.tolist(), draw.stage, prefer

    for _ in range(before):
        go(whole, g)
    kept = whole.state()
    state, chance = load(save({k: v.contiguous() for k, v in kept.items()})), g.get_state()
    copies = {k: v.clone() for k, v in kept.items()}
    expected = [go(whole, g) for _ in range(12)]
    assert all(torch.equal(copies[k].nan_to_num(), kept[k].nan_to_num()) for k in kept), "a state is a copy"
    again, h = make_curriculum(name, pool_of(), config), generator(99)
    again.restore(state)
    h.set_state(chance)
    assert not again.needs_difficulty, "the difficulty is part of the state"
    assert [go(again, h) for _ in range(12)] == expected
    assert again.report() == whole.report()


@each
def test_the_generator_decides(name, config):
    def entities(seed):
        return [d.entities.tolist() for d in rounds(ready(name, config), 9, seed)]

    assert entities(0) == entities(0) != entities(1)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("tasks", [1, 3, 16])
@each
def test_no_task_starves(name, config, size, tasks):
    """Every task is drawn in any ten epochs' worth of rounds in a row, however the tasks are rated."""
    pool = pool_of(size, tasks, steps=10_000)
    curriculum = ready(name, config, pool)
    bound = 10 * pool.epoch
    last = np.zeros(size)
    for turn, draw in enumerate(rounds(curriculum, 2 * bound + 3, tasks=tasks, entities=size), 1):
        assert len(draw.entities) == tasks
        last[draw.entities] = turn
        assert (turn - last < bound).all(), f"{np.flatnonzero(turn - last >= bound)} wait at round {turn}"


def test_without_the_bound_pacing_does_starve_tasks():
    """The promise is the wrapper's doing: this is what it prevents."""
    draws = rounds(ready("paced", {"starve": 0}, pool_of(steps=400)), 100)
    assert max(max(d.entities) for d in draws) == ENTITIES // 2 - 1
    kept = rounds(ready("paced", {"starve": 3}, pool_of(steps=400)), 100)
    assert set(np.concatenate([d.entities for d in kept]).tolist()) == set(range(ENTITIES))
    share = np.mean([s == "due" for d in kept for s in d.stage])
    assert share < 0.25, "as few places as keep the promise"


@each
def test_barred_tasks_are_left_alone_unless_due(name, config):
    curriculum, g = ready(name, config), generator()
    allowed = torch.arange(ENTITIES) % 3 == 0
    for _ in range(20):
        draw = curriculum.sample(TASKS, g, allowed)
        inside = [e for e, s in zip(draw.entities.tolist(), draw.stage, strict=True) if s != "due"]
        assert all(e % 3 == 0 for e in inside)
        if curriculum.needs_feedback:
            curriculum.update(echo(draw, HARD))


@each
def test_tasks_that_cannot_be_judged_do_no_harm(name, config):
    curriculum, g = ready(name, config, difficulty=np.full(ENTITIES, np.nan)), generator()
    for _ in range(10):
        draw = curriculum.sample(TASKS, g)
        assert len(draw.entities) == TASKS
        if curriculum.needs_feedback:
            curriculum.update(echo(draw, np.full(ENTITIES, np.nan)))


@each
def test_figures_are_numbers(name, config):
    curriculum = ready(name, config)
    rounds(curriculum, 5)
    assert all(np.isfinite(v) for v in curriculum.report().values())


@each
def test_a_state_of_another_pool_is_refused(name, config):
    with pytest.raises(CheckpointError, match="30 entities, this run has 12"):
        make_curriculum(name, pool_of(12), config).restore(ready(name, config).state())


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("none", {}, "no curriculum 'none'; there are uniform"),
        ("uniform", {"keep": 1}, r"curriculum.config of 'uniform'.*keep"),
        ("hardness", {"keep": 1.5}, "keep must be a share"),
        ("hardness", {"longest": -1}, "longest must be a whole number"),
        ("two-level", {"members": -0.1}, "members must be a share"),
        ("paced", {"first": 0}, "first must be a share above 0"),
        ("paced", {"growth": "fast"}, "growth must be step or linear"),
        ("paced", {"of": "paced"}, "not 'paced'"),
        ("self-paced", {"until": 2}, "until must be a share"),
        ("hardness", {"starve": 1.5}, "starve must be a whole number"),
    ],
)
def test_wrong_settings_are_refused_in_words(name, config, words):
    with pytest.raises(ConfigError, match=words):
        make_curriculum(name, pool_of(), config)


def test_two_levels_need_rows():
    with pytest.raises(ConfigError, match="needs their rows"):
        make_curriculum("two-level", TaskPool(np.arange(3)), {})
    assert "two-level" in CURRICULA


def test_pacing_needs_to_be_told():
    curriculum = make_curriculum("paced", pool_of(), {})
    assert curriculum.needs_difficulty
    with pytest.raises(ConfigError, match="how difficult"):
        curriculum.sample(3, generator())
    with pytest.raises(ValueError, match="2 difficulties for 30"):
        curriculum.set_difficulty(np.zeros(2))
