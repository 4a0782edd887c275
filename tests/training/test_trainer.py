import itertools
import math

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.learners.maml.maml import Maml
from recsys_meta.training.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from recsys_meta.training.curricula import CURRICULA, TaskDraw
from recsys_meta.training.difficulty_probe import task_difficulty
from recsys_meta.training.outer_loop import sample_batch
from recsys_meta.training.recipe import EpisodeConfig, recipe_of
from recsys_meta.training.trainer import fit, from_checkpoint, start_training, support_sizes, to_checkpoint
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import data_of, recipe, same, tiny


@pytest.fixture(scope="module")
def world():
    return ranking_world(entities=40, items=20, rows=6)


def begin(data, made=None, seed=0, learner=None, split=0, index=None):
    rows = EventIndex.of(data)
    train = split_by_seed(rows.entities_with(1), split).train
    return start_training(learner or tiny(), made or recipe(), data, index or rows, train, seed)


def count_up():
    """A validation that always gains."""
    value = 0.0

    def validate(_):
        nonlocal value
        value += 1
        return value

    return validate


def equal(a, b):
    return a.step == b.step and a.counters == b.counters and same(a.tensors, b.tensors)


def test_the_start_of_a_warm_start_may_be_the_best(world):
    values = iter([3.0, 1.0, 2.0])
    run = begin(world, recipe(epochs=2, tasks=20))
    start = {k: v.detach().clone() for k, v in run.params.items()}
    run.validates_start = True
    assert [step.valid for step in fit(run, lambda _: next(values))][-1] == 2.0
    assert run.best == 3.0 and same(run.best_params_or_last(), start)


# Resuming


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("curriculum", CURRICULA)
def test_resuming_at_any_step_ends_with_the_same_bits(world, tmp_path, curriculum, schedule):
    """Weights, moments, sampler, generator, best weights and counters, from a checkpoint on the disk."""
    made = recipe(epochs=2, tasks=9, curriculum=curriculum, schedule=schedule)

    def validate(params):
        return float(params["item"].sum())  # depends on the weights, so that it tells whether they are the same

    run = begin(world, made)
    stops = [to_checkpoint(run)]
    for step in fit(run, validate):
        stops.append(to_checkpoint(run))
        if step.step == 1:
            assert not equal(stops[0], stops[1])
    assert run.step == run.steps == 8 and len(stops) == 9
    for stop in stops:
        folder = tmp_path / f"{curriculum}-{schedule}-{stop.step}"
        save_checkpoint(folder, stop)
        resumed = begin(world, made)
        from_checkpoint(resumed, last_checkpoint(folder))
        assert equal(to_checkpoint(resumed), stop)
        rest = list(fit(resumed, validate))
        assert [s.step for s in rest] == list(range(stop.step + 1, 9))
        assert equal(to_checkpoint(resumed), stops[-1])
        assert same(resumed.best_params_or_last(), run.best_params_or_last())


def test_the_pace_of_a_resumed_run_is_that_of_its_own_steps(world):
    """Tasks that were met before the checkpoint took none of the seconds since."""
    run = begin(world)
    steps = fit(run, count_up())
    paces = [next(steps) for _ in range(3)]
    assert [s.tasks_so_far for s in paces] == [s.tasks * (i + 1) for i, s in enumerate(paces)]
    other = begin(world)
    from_checkpoint(other, to_checkpoint(run))
    after = next(fit(other, count_up()))
    assert after.step == 4 and after.tasks_so_far == after.tasks
    assert after.tasks_per_second == pytest.approx(after.tasks / after.seconds)


def test_a_snapshot_does_not_move_with_the_run_it_was_taken_from_or_given_to(world):
    run = begin(world)
    steps = fit(run, count_up())
    for _ in range(5):
        next(steps)
    stop = to_checkpoint(run)
    kept = {k: v.clone() for k, v in stop.tensors.items()}
    other = begin(world)
    from_checkpoint(other, stop)
    next(steps)
    next(fit(other, count_up()))
    assert same(stop.tensors, kept)


def test_the_same_seed_gives_the_same_run_and_another_another(world):
    ends = []
    for seed in (0, 0, 1):
        run = begin(world, seed=seed)
        list(fit(run, count_up()))
        ends.append(to_checkpoint(run))
    assert equal(ends[0], ends[1]) and not same(ends[0].tensors, ends[2].tensors)


def changed(checkpoint, **counters):
    return Checkpoint(checkpoint.step, checkpoint.tensors, {**checkpoint.counters, **counters})


def test_what_does_not_belong_is_refused_in_words(world):
    stop = to_checkpoint(begin(world))
    with pytest.raises(CheckpointError, match="another recipe"):
        from_checkpoint(begin(world, recipe(epochs=4)), stop)
    other = data_of([[0, 1, 2]] * 40)
    with pytest.raises(CheckpointError, match="other data"):
        from_checkpoint(begin(other), stop)
    with pytest.raises(CheckpointError, match="other training entities"):
        from_checkpoint(begin(world, split=1), stop)
    fewer = {k: v for k, v in stop.tensors.items() if k != "params/item"}
    with pytest.raises(CheckpointError, match="does not fit"):
        from_checkpoint(begin(world), Checkpoint(0, fewer, stop.counters))
    wider = {**stop.tensors, "params/item": torch.zeros(3, 3)}
    with pytest.raises(CheckpointError, match="does not fit"):
        from_checkpoint(begin(world), Checkpoint(0, wider, stop.counters))
    no_rows = {**stop.tensors, "generator": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="does not fit"):
        from_checkpoint(begin(world), Checkpoint(0, no_rows, stop.counters))


# What training sees


def test_an_epoch_meets_each_entity_once_and_none_but_training_entities(world, monkeypatch):
    met = []
    real = tiny().meta_loss
    monkeypatch.setattr(
        "recsys_meta.models.learners.maml.maml.Maml.meta_loss",
        lambda self, params, batch, *rest: (met.append(batch.entity.tolist()), real(params, batch, *rest))[1],
    )
    run = begin(world, recipe(epochs=4, tasks=7))
    list(fit(run, count_up()))
    each = np.array(met).reshape(4, -1)
    assert all(sorted(epoch) == run.train.tolist() for epoch in each.tolist())
    assert not np.array_equal(each[0], each[1])


def test_entities_of_one_row_are_left_out_and_none_left_is_an_error():
    data = data_of([[0, 1, 2], [0], [1, 2], []])
    run = start_training(tiny(), recipe(), data, EventIndex.of(data), np.arange(4), 0)
    assert run.train.tolist() == [0, 2]
    with pytest.raises(ConfigError, match="no training entity has the two"):
        start_training(tiny(), recipe(), data, EventIndex.of(data), np.array([1, 3]), 0)
    with pytest.raises(ConfigError, match="no training entity"):
        start_training(tiny(), recipe(), data, EventIndex.of(data), [], 0)


def with_(made, **parts):
    return recipe_of(made.model_dump() | parts)


def test_a_curriculum_hears_how_hard_tasks_were_and_steps_tell_what_it_did(world):
    made = with_(recipe(epochs=3, tasks=8), curriculum={"name": "hardness", "config": {"starve": 0}})
    run, before = begin(world, made), None
    for step in fit(run, count_up()):
        buckets = {b.name: b for b in step.buckets}
        assert sum(b.weight for n, b in buckets.items() if n.startswith("decile")) == pytest.approx(1)
        if before is not None:
            assert buckets["stage kept"].weight == 0.5
        assert all(math.isfinite(b.hardness) for b in step.buckets)
        assert step.logs["curriculum.kept"] == 4 * (step.step - 1)
        before = step
    silent = begin(world)
    assert all(step.buckets == () for step in fit(silent, count_up()))


def test_watching_uniform_sampling_changes_nothing_but_what_is_told(world):
    """A ranking is judged without chance, so that the same weights come out."""
    ends = []
    for watch in (False, True):
        run = begin(world, with_(recipe(), curriculum={"name": "uniform", "watch": watch}))
        steps = list(fit(run, count_up()))
        assert all(bool(step.buckets) is watch for step in steps)
        ends.append(run.best_params_or_last())
    assert same(*ends)


@pytest.mark.parametrize("probe", ["brief", "alone"])
def test_pacing_goes_from_easy_to_hard_by_a_probe_that_leaves_the_run_alone(probe):
    """Half of the entities take items at random, which is harder than taking the same one of four always."""
    rng = np.random.default_rng(0)
    easy = [list(rng.integers(0, 2, 20)) for _ in range(12)]
    hard = [list(rng.integers(0, 20, 20)) for _ in range(12)]
    data = data_of([row for pair in zip(easy, hard, strict=True) for row in pair])
    index = EventIndex.of(data)
    curriculum = {"name": "paced", "config": {"starve": 0}, "probe": probe, "probe_steps": 20}
    made = with_(recipe(epochs=4, tasks=6, max_shots=0), curriculum=curriculum)
    run = start_training(tiny(), made, data, index, np.arange(24), 0)
    fresh = to_checkpoint(run).tensors
    difficulty = task_difficulty(run)
    assert difficulty[1::2].min() > difficulty[::2].max()
    assert same(to_checkpoint(run).tensors, fresh)
    np.testing.assert_array_equal(task_difficulty(run), difficulty)
    steps = fit(run, count_up())
    for _ in range(run.steps // 2):
        next(steps)
        assert run.sampler.report()["open"] == (0.5 if run.step < run.steps // 2 else 1.0)
    assert not run.sampler.needs_difficulty


@pytest.mark.parametrize("order", ["data", "random", "window"])
def test_episodes_come_in_the_order_that_the_recipe_says(order):
    data = data_of([list(range(10))] * 6)
    run = start_training(
        tiny(),
        with_(recipe(tasks=6), episodes={"max_shots": 3, "empty": 0.0, "max_query": 2, "order": order}),
        data,
        EventIndex.of(data),
        np.arange(6),
        0,
    )
    starts = set()
    for _ in range(20):
        draw = run.sampler.sample(6, run.generator)
        batch = sample_batch(run.data, run.index, draw, run.recipe.episodes, run.generator)
        for t in range(6):
            item = torch.cat([batch.support.rows.item[t][batch.support.rows.mask[t]], batch.query.item[t]])
            steps = item.diff().tolist()
            starts.add(int(item[0]))
            if order != "random":
                assert set(steps) <= {1}
    assert (len(starts) == 1) is (order == "data")
    if order == "random":
        assert len(starts) == 10


def test_unknown_curricula_and_settings_are_refused(world):
    with pytest.raises(ConfigError, match="no curriculum 'none'; there are uniform"):
        begin(world, recipe(curriculum="none"))
    raw = recipe().model_dump()
    wrong = recipe_of({**raw, "curriculum": {"name": "uniform", "config": {"hardness": 1}}})
    with pytest.raises(ConfigError, match=r"curriculum.config of 'uniform'.*hardness"):
        begin(world, wrong)
    assert "uniform" in CURRICULA


# Support sizes


def test_supports_shrink_from_many_events_to_few(world):
    settings, index = EpisodeConfig(max_shots=4, empty=1.0, shrink_steps=40), EventIndex.of(world)
    draw = TaskDraw(index.entities_with(6)[:12], ())

    def least(step):
        batch = sample_batch(world, index, draw, settings, torch.Generator().manual_seed(0), step)
        return int(batch.support.rows.mask.sum(1).min())

    assert [least(step) for step in (0, 10, 20, 39, 40, 90, None)] == [4, 3, 2, 0, 0, 0, 0]


def sizes(**config):
    got = support_sizes(EpisodeConfig(**config), 200_000, torch.Generator().manual_seed(0))
    assert got.dtype == torch.int64
    return (torch.bincount(got, minlength=config["max_shots"] + 1) / 200_000).numpy()


@pytest.mark.parametrize("most", [0, 1, 7, 40])
@pytest.mark.parametrize("empty", [0.0, 0.25, 1.0])
def test_support_sizes_have_the_promised_distribution(most, empty):
    flat = np.full(most + 1, 1 / (most + 1))
    if most:
        log = np.array([0.0] + [math.log((k + 1) / k) / math.log(most + 1) for k in range(1, most + 1)])
    else:
        log = np.ones(1)
    zero = np.eye(most + 1)[0]
    for draw, shape in (("uniform", flat), ("log", log), ("mixed", (flat + log) / 2)):
        wanted = empty * zero + (1 - empty) * shape
        np.testing.assert_allclose(sizes(max_shots=most, empty=empty, draw=draw), wanted, atol=0.005)


def test_a_rate_that_follows_its_hyper_gradient_is_resumed_with_the_run(world):
    made = recipe(hyper_rate=0.1)
    run, still = begin(world, made), begin(world)
    factors = []
    steps = fit(run, lambda _: 0.0)
    for _ in range(4):
        step = next(steps)
        factors.append(run.rate_factor)
        assert step.logs["outer_rate"] == pytest.approx(run.rate_factor * made.train.rate)
    group = run.optimiser.param_groups[0]
    assert group["lr"] == pytest.approx(group["initial_lr"] * run.rate_factor)
    assert factors[0] == 1 and len(set(factors)) == 4, "there is no update before the first"
    assert all(math.exp(-0.1) <= b / a <= math.exp(0.1) for a, b in itertools.pairwise(factors))
    again = begin(world, made)
    from_checkpoint(again, to_checkpoint(run))
    assert again.rate_factor == run.rate_factor
    assert next(fit(again, lambda _: 0.0)).loss == next(steps).loss
    assert again.rate_factor == run.rate_factor
    next(fit(still, lambda _: 0.0))
    assert still.rate_factor == 1


def test_a_learner_that_changes_in_training_is_told_how_far_it_is(world, monkeypatch):
    """A resumed run too."""
    seen = []

    def at_progress(self, progress):
        seen.append(progress)
        return self

    monkeypatch.setattr(Maml, "at_progress", at_progress, raising=False)
    run = begin(world)
    steps = fit(run, lambda _: 0.0)
    for _ in range(3):
        next(steps)
    saved = to_checkpoint(run)
    again = begin(world)
    from_checkpoint(again, saved)
    next(fit(again, lambda _: 0.0))
    assert seen == [step / run.steps for step in range(4)]
