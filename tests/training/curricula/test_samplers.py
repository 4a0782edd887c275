"""What each curriculum is for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recsys_meta.training.curricula import HardnessLog, TaskDraw, TaskFeedback, TaskPool, make_curriculum
from recsys_meta.training.curricula.chaml import ChamlCurriculum
from recsys_meta.training.curricula.learning_progress import LearningProgress
from recsys_meta.training.curricula.self_paced import SelfPacedCurriculum
from tests.training.curricula.cases import ENTITIES, MEMBERS, ROWS, TASKS, echo, generator, pool_of, ready, rounds

HARD = np.arange(ENTITIES, dtype=float)


def staged(draw, stage):
    return [e for e, s in zip(draw.entities.tolist(), draw.stage, strict=True) if s == stage]


def test_the_hardest_of_the_last_round_are_kept_the_rest_are_new():
    draws = rounds(make_curriculum("hardness", pool_of(tasks=6), {"starve": 0}), 30, tasks=6)
    assert draws[0].stage == ("fresh",) * 6
    for before, now in itertools.pairwise(draws):
        assert staged(now, "kept") == sorted(before.entities.tolist())[::-1][:3]
        assert not set(staged(now, "fresh")) & set(staged(now, "kept"))


def test_a_task_is_not_kept_for_ever_where_a_bound_says_so():
    draws = rounds(make_curriculum("hardness", pool_of(), {"starve": 0, "longest": 2}), 60)
    kept = np.array([[e in staged(d, "kept") for e in range(ENTITIES)] for d in draws])
    runs = [len(list(g)) for column in kept.T for g in np.split(column, np.flatnonzero(np.diff(column)) + 1) if g[0]]
    assert max(runs) == 2
    free = rounds(make_curriculum("hardness", pool_of(), {"starve": 0}), 60)
    assert sum(ENTITIES - 1 in staged(d, "kept") for d in free) > 30, "without it the hardest stays"


def test_shrinking_keeps_a_task_of_many_bad_rows_before_one_of_a_single_worse_row():
    entities = np.arange(3)
    mask = torch.zeros(3, 20, dtype=torch.bool)
    mask[0, :1], mask[1:] = True, True
    lesson = TaskFeedback(entities, np.array([5.0, 4.0, 0.0]), torch.zeros(3, 20), mask)
    for shrink, first in ((0.0, 0), (5.0, 1)):
        curriculum = make_curriculum("hardness", TaskPool(entities, 3), {"starve": 0, "shrink": shrink, "keep": 0.3})
        curriculum.sample(3, generator())
        curriculum.update(lesson)
        assert staged(curriculum.sample(3, generator()), "kept") == [first]


def test_the_second_level_meets_the_same_tasks_and_prefers_their_hard_members():
    pool = pool_of()
    curriculum, g = ChamlCurriculum(pool), generator()
    # Members 1 and 3 are hard in even tasks, 0 and 2 in odd ones.
    entity, row = np.divmod(np.arange(ENTITIES * ROWS), ROWS)
    member = pool.index.actor.numpy()
    hard = (member % 2) != (entity % 2)
    rows = hard.reshape(ENTITIES, ROWS) * 1.0 + np.arange(ENTITIES)[:, None] * 0.01
    for _ in range(5):
        first = curriculum.sample(TASKS, g)
        assert first.prefer is None
        curriculum.update(echo(first, HARD, rows))
        second = curriculum.sample(TASKS, g)
        assert sorted(second.entities) == sorted(first.entities)
        assert second.stage == ("members",) * TASKS
        chosen = np.isin(entity, first.entities)
        np.testing.assert_array_equal(second.prefer.numpy(), hard & chosen)
        curriculum.update(echo(second, HARD, rows))
    assert row.max() == ROWS - 1


def test_members_are_items_where_nobody_acts():
    from dataclasses import replace

    pool = pool_of()
    index = replace(pool.index, actor=None, item=(2 + torch.arange(len(pool.index.item)) % MEMBERS).int())
    curriculum, g = ChamlCurriculum(replace(pool, index=index)), generator()
    rows = np.tile(np.arange(ROWS) % MEMBERS, (ENTITIES, 1)).astype(float)
    draw = curriculum.sample(TASKS, g)
    curriculum.update(echo(draw, HARD, rows))
    prefer = curriculum.sample(TASKS, g).prefer
    assert prefer.sum() == TASKS * ROWS // 2
    assert (index.item[prefer] >= 4).all()


def test_members_that_were_not_asked_about_are_not_hard():
    pool = pool_of()
    curriculum, g = ChamlCurriculum(pool, members=1.0), generator()
    draw = curriculum.sample(TASKS, g)
    full = echo(draw, HARD)
    mask = full.mask & (pool.index.actor[full.position] == 2)
    curriculum.update(TaskFeedback(draw.entities, full.hardness, full.error, mask, full.position))
    prefer = curriculum.sample(TASKS, g).prefer
    assert (pool.index.actor[prefer] == 2).all()
    assert prefer.sum() == TASKS * ROWS // MEMBERS


@pytest.mark.parametrize("growth", ["step", "linear"])
def test_pacing_lets_the_easy_in_first(growth):
    difficulty = np.random.default_rng(0).permutation(ENTITIES).astype(float)
    config = {"first": 0.3, "until": 0.5, "growth": growth, "starve": 0}
    draws = rounds(ready("paced", config, pool_of(steps=100), difficulty), 100)
    worst = np.array([difficulty[d.entities].max() for d in draws])
    assert worst[:10].max() < (0.3 if growth == "step" else 0.45) * ENTITIES
    assert worst[:50].max() < ENTITIES
    assert set(difficulty[np.concatenate([d.entities for d in draws[50:]])]) == set(range(ENTITIES))
    if growth == "step":
        assert worst[:50].max() == 0.3 * ENTITIES - 1
        assert worst[50:56].max() > 0.8 * ENTITIES
    else:
        assert worst[40:50].max() > 0.7 * ENTITIES


def test_pacing_and_two_levels_together():
    """CHAML: hard tasks and members, but of the easy ones while training is young."""
    pool = pool_of(steps=100)
    draws = rounds(ready("paced", {"of": "two-level", "starve": 0}, pool), 100)
    assert max(d.entities.max() for d in draws[:50]) < ENTITIES / 2
    assert max(d.entities.max() for d in draws[50:]) == ENTITIES - 1
    for first, second in zip(draws[:50:2], draws[1:50:2], strict=True):
        assert sorted(first.entities) == sorted(second.entities)
        assert second.prefer is not None


def test_progress_is_made_where_hardness_falls_and_not_where_it_is_noise():
    """A third of the tasks can be learned, a third is noise, a third stays hard: the first are drawn most."""
    curriculum, g, rng = LearningProgress(pool_of(steps=300), explore=0.2), generator(), np.random.default_rng(0)
    visits, kind = np.zeros(ENTITIES), np.arange(ENTITIES) % 3
    for _ in range(90):
        draw = curriculum.sample(TASKS, g)
        visits[draw.entities] += 1
        hardness = np.where(kind == 0, 8 * 0.9**visits, np.where(kind == 1, 8 + 0.5 * rng.normal(size=ENTITIES), 12))
        curriculum.update(echo(draw, hardness))
    learned, noise, hard = (visits[kind == k].mean() for k in range(3))
    assert learned > 1.3 * noise and learned > 1.3 * hard
    assert curriculum.progress()[kind == 0].mean() > 0.5 + curriculum.progress()[kind > 0].mean()


def test_a_measurement_shared_by_all_is_no_progress():
    curriculum, g = LearningProgress(pool_of()), generator()
    for i in range(40):
        draw = curriculum.sample(TASKS, g)
        curriculum.update(echo(draw, np.full(ENTITIES, 10.0 - 0.2 * i)))
    np.testing.assert_allclose(curriculum.progress(), 0, atol=1e-12)
    assert curriculum.weights().mean() == pytest.approx(1.0)


def test_self_pacing_draws_what_is_easy_until_the_threshold_has_grown():
    curriculum = SelfPacedCurriculum(pool_of(steps=600), first=0.3, until=0.5, soft=0.0)
    draws = rounds(curriculum, 600)
    early = np.bincount(np.concatenate([d.entities for d in draws[30:120]]), minlength=ENTITIES)
    late = np.bincount(np.concatenate([d.entities for d in draws[300:]]), minlength=ENTITIES)
    assert early[:8].min() > 20
    assert early[20:].max() == 0
    assert late.min() > 0.5 * late.mean()
    assert all(len(set(d.entities)) == TASKS for d in draws), "without replacement"


def test_self_pacing_weights_are_one_for_the_unknown_and_fall_with_hardness():
    curriculum = SelfPacedCurriculum(pool_of(steps=100), first=0.5, until=1.0)
    known = np.arange(20)
    curriculum.update(echo(TaskDraw(known, ("x",) * 20), HARD - 40))  # of any sign
    weight = curriculum.weights()
    assert (weight[20:] == 1).all()
    assert weight[0] == 1
    assert (weight[:19].diff() <= 0).all()
    assert (weight[11:20] == 0).all()
    assert 0 < weight[5] < 1


def test_more_tasks_than_may_be_met_are_met_again():
    curriculum = SelfPacedCurriculum(pool_of(steps=10), first=0.5)
    draw = curriculum.sample(7, generator(), torch.arange(ENTITIES) < 3)
    assert len(draw.entities) == 7
    assert set(draw.entities.tolist()) == {0, 1, 2}


def test_the_ledger_tells_stages_and_deciles():
    ledger, curriculum, g = HardnessLog(pool_of()), make_curriculum("hardness", pool_of(), {"starve": 0}), generator()
    names, weights = [], []
    for _ in range(40):
        draw = curriculum.sample(TASKS, g)
        lesson = echo(draw, HARD)
        curriculum.update(lesson)
        buckets = {b.name: b for b in ledger.record(draw, lesson)}
        stages = [b for n, b in buckets.items() if n.startswith("stage")]
        deciles = [b for n, b in buckets.items() if n.startswith("decile")]
        assert sum(b.weight for b in stages) == pytest.approx(1)
        assert sum(b.weight for b in deciles) == pytest.approx(1)
        assert [b.hardness for b in deciles] == sorted(b.hardness for b in deciles)
        names.append(len(deciles))
        weights.append(buckets["decile 10"].weight)
    assert names[0] == 5
    assert names[-1] == 10
    assert buckets["decile 10"].hardness == pytest.approx(28.0), "the three hardest of thirty"
    assert buckets["decile 01"].hardness == pytest.approx(1.0)
    assert buckets["stage kept"].hardness > buckets["stage fresh"].hardness
    assert np.mean(weights[10:]) > 0.15, "hard tasks are drawn more often than their share"


def test_the_ledger_bears_tasks_of_which_nothing_is_known():
    ledger = HardnessLog(pool_of())
    draw = TaskDraw(np.arange(4), ("fresh",) * 4)
    (bucket,) = ledger.record(draw, echo(draw, np.full(ENTITIES, np.nan)))
    assert (bucket.name, bucket.weight) == ("stage fresh", 1.0)
    assert np.isnan(bucket.hardness)
