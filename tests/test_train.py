import math

import numpy as np
import pytest
import torch

from recsys_meta.checkpoint import Checkpoint, last_checkpoint, save_checkpoint
from recsys_meta.curricula import CURRICULA
from recsys_meta.episodes import EventIndex, split_by_seed
from recsys_meta.errors import CheckpointError, ConfigError, DivergedError
from recsys_meta.evaluate import Unadapted, cold_start
from recsys_meta.recipe import Episodes, recipe_of
from recsys_meta.scenarios import four_corners
from recsys_meta.train import fit, freeze, start, support_sizes, thaw
from tests.small import data_of, recipe, same, tiny
from tests.worlds import ranking_world


@pytest.fixture(scope="module")
def world():
    return ranking_world(entities=40, items=20, rows=6)


def begin(data, made=None, seed=0, learner=None, split=0, index=None):
    rows = EventIndex.of(data)
    train = split_by_seed(rows.having(1), split).train
    return start(learner or tiny(), made or recipe(), data, index or rows, train, seed)


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


# Resuming


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("curriculum", ["uniform"])
def test_resuming_at_any_step_ends_with_the_same_bits(world, tmp_path, curriculum, schedule):
    """Weights, moments, sampler, generator, best weights and counters, from a checkpoint on the disk."""
    made = recipe(epochs=3, tasks=9, curriculum=curriculum, schedule=schedule)

    def validate(params):
        return float(params["item"].sum())  # depends on the weights, so that it tells whether they are the same

    run = begin(world, made)
    stops = [freeze(run)]
    for step in fit(run, validate):
        stops.append(freeze(run))
        if step.step == 1:
            assert not equal(stops[0], stops[1])
    assert run.step == run.steps == 12 and len(stops) == 13
    for stop in stops:
        folder = tmp_path / f"{curriculum}-{schedule}-{stop.step}"
        save_checkpoint(folder, stop)
        resumed = begin(world, made)
        thaw(resumed, last_checkpoint(folder))
        assert equal(freeze(resumed), stop)
        rest = list(fit(resumed, validate))
        assert [s.step for s in rest] == list(range(stop.step + 1, 13))
        assert equal(freeze(resumed), stops[-1])
        assert same(resumed.chosen(), run.chosen())


def test_a_snapshot_does_not_move_with_the_run_it_was_taken_from_or_given_to(world):
    run = begin(world)
    steps = fit(run, count_up())
    for _ in range(5):
        next(steps)
    stop = freeze(run)
    kept = {k: v.clone() for k, v in stop.tensors.items()}
    other = begin(world)
    thaw(other, stop)
    next(steps)
    next(fit(other, count_up()))
    assert same(stop.tensors, kept)


def test_the_same_seed_gives_the_same_run_and_another_another(world):
    ends = []
    for seed in (0, 0, 1):
        run = begin(world, seed=seed)
        list(fit(run, count_up()))
        ends.append(freeze(run))
    assert equal(ends[0], ends[1]) and not same(ends[0].tensors, ends[2].tensors)


def changed(checkpoint, **counters):
    return Checkpoint(checkpoint.step, checkpoint.tensors, {**checkpoint.counters, **counters})


def test_what_does_not_belong_is_refused_in_words(world):
    stop = freeze(begin(world))
    with pytest.raises(CheckpointError, match="another recipe"):
        thaw(begin(world, recipe(epochs=4)), stop)
    other = data_of([[0, 1, 2]] * 40)
    with pytest.raises(CheckpointError, match="other data"):
        thaw(begin(other), stop)
    with pytest.raises(CheckpointError, match="other training entities"):
        thaw(begin(world, split=1), stop)
    fewer = {k: v for k, v in stop.tensors.items() if k != "params/item"}
    with pytest.raises(CheckpointError, match="does not fit"):
        thaw(begin(world), Checkpoint(0, fewer, stop.counters))
    wider = {**stop.tensors, "params/item": torch.zeros(3, 3)}
    with pytest.raises(CheckpointError, match="does not fit"):
        thaw(begin(world), Checkpoint(0, wider, stop.counters))
    no_rows = {**stop.tensors, "generator": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="does not fit"):
        thaw(begin(world), Checkpoint(0, no_rows, stop.counters))


# Divergence


class Bursting:
    """A learner whose loss or gradient is not finite from the n-th meta-batch on."""

    def __init__(self, inner, n, what):
        self.inner, self.left, self.what = inner, n, what

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def meta_loss(self, params, batch, aids, generator):
        loss, logs = self.inner.meta_loss(params, batch, aids, generator)
        self.left -= 1
        if self.left <= 0:
            if self.what == "loss":
                return loss * math.nan, logs
            zero = (params["item"] * 0).sum()
            return loss + zero.sqrt(), logs  # finite, but the derivative of the root at 0 is not
        return loss, logs


@pytest.mark.parametrize("what", ["loss", "meta-gradient"])
def test_a_value_that_is_not_finite_stops_the_run_and_leaves_the_last_good_checkpoint(world, tmp_path, what):
    run = begin(world, learner=Bursting(tiny(), 6, what))
    before = None
    with pytest.raises(DivergedError, match=f"the {what} of step 6 is not finite.*train.rate"):
        for _ in fit(run, count_up()):
            save_checkpoint(tmp_path, freeze(run))
            before = freeze(run)
    assert run.step == 5
    now = freeze(run).tensors
    for key, value in before.tensors.items():
        if key.startswith(("params/", "adam/", "best/")):
            assert torch.equal(value, now[key]) and torch.isfinite(value).all(), key
    good = last_checkpoint(tmp_path)
    assert equal(good, before)
    again = begin(world)
    thaw(again, good)
    assert [s.step for s in fit(again, count_up())] == list(range(6, again.steps + 1))


# Early stop


def scripted(values):
    values = iter(values)
    return lambda _: next(values)


def test_early_stop_keeps_the_best(world):
    made = recipe(epochs=20, tasks=28, patience=2)  # one step an epoch
    run, weights = begin(world, made), []
    steps = []
    for step in fit(run, scripted([0.1, 0.5, 0.3, 0.6, 0.6, 0.2, 9.0])):
        weights.append({k: run.params[k].detach().clone() for k in run.trained})
        steps.append(step)
    assert [s.valid for s in steps] == [0.1, 0.5, 0.3, 0.6, 0.6, 0.2]
    assert [s.best for s in steps] == [0.1, 0.5, 0.5, 0.6, 0.6, 0.6]
    assert "no gain" in run.stopped and run.step == 6 < run.steps
    chosen = run.chosen()
    assert all(torch.equal(chosen[k], weights[3][k]) for k in run.trained)
    assert not all(torch.equal(chosen[k], run.params[k]) for k in run.trained)
    assert not any(v.requires_grad for v in chosen.values()) and chosen.keys() == run.params.keys()
    assert list(fit(run, scripted([]))) == [], "a stopped run stays stopped"
    back = begin(world, made)
    thaw(back, freeze(run))
    assert list(fit(back, scripted([]))) == [] and back.stopped == run.stopped


def test_validation_comes_when_it_should_and_at_the_end(world):
    run = begin(world, recipe(epochs=5, tasks=14, validate_every=2))
    steps = list(fit(run, count_up()))
    assert run.epoch_steps == 2 and [s.step for s in steps if s.epoch_end] == [2, 4, 6, 8, 10]
    assert [s.step for s in steps if s.valid is not None] == [4, 8, 10]
    assert [s.epoch for s in steps] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {s.steps for s in steps} == {10} and all(s.seconds >= 0 and s.tasks == 14 for s in steps)


def test_without_a_figure_the_last_weights_are_chosen(world):
    run = begin(world)
    list(fit(run, lambda _: math.nan))
    assert run.best == -math.inf
    assert all(torch.equal(run.chosen()[k], run.params[k]) for k in run.trained)


def test_validation_sees_parameters_that_it_cannot_train(world):
    def validate(params):
        assert not any(v.requires_grad for v in params.values())
        return 0.0

    list(fit(begin(world), validate))


# What training sees


def test_an_epoch_meets_each_entity_once_and_none_but_training_entities(world, monkeypatch):
    met = []
    real = tiny().meta_loss
    monkeypatch.setattr(
        "recsys_meta.learners.maml.Maml.meta_loss",
        lambda self, params, batch, *rest: (met.append(batch.entity.tolist()), real(params, batch, *rest))[1],
    )
    run = begin(world, recipe(epochs=4, tasks=7))
    list(fit(run, count_up()))
    each = np.array(met).reshape(4, -1)
    assert all(sorted(epoch) == run.train.tolist() for epoch in each.tolist())
    assert not np.array_equal(each[0], each[1])


def test_entities_of_one_row_are_left_out_and_none_left_is_an_error():
    data = data_of([[0, 1, 2], [0], [1, 2], []])
    run = start(tiny(), recipe(), data, EventIndex.of(data), np.arange(4), 0)
    assert run.train.tolist() == [0, 2]
    with pytest.raises(ConfigError, match="no training entity has the two"):
        start(tiny(), recipe(), data, EventIndex.of(data), np.array([1, 3]), 0)
    with pytest.raises(ConfigError, match="no training entity"):
        start(tiny(), recipe(), data, EventIndex.of(data), [], 0)


def test_unknown_curricula_and_settings_are_refused(world):
    with pytest.raises(ConfigError, match="no curriculum 'none'; there are uniform"):
        begin(world, recipe(curriculum="none"))
    raw = recipe().model_dump()
    wrong = recipe_of({**raw, "curriculum": {"name": "uniform", "config": {"hardness": 1}}})
    with pytest.raises(ConfigError, match=r"curriculum.config of 'uniform'.*hardness"):
        begin(world, wrong)
    assert "uniform" in CURRICULA


def altered(data, entities):
    """The data set with other events (as many, of the same catalogue) for some entities."""
    rng = np.random.default_rng(9)
    item = np.array(data.events.item)
    for e in entities:
        own = slice(data.events.indptr[e], data.events.indptr[e + 1])
        item[own] = rng.permutation(np.arange(2, data.catalogue))[: own.stop - own.start]
    events = type(data.events)(data.events.indptr, item, data.events.label, data.events.time)
    return type(data)(data.schema, events, data.entities, data.items, data.vocab, data.digest)


def test_events_of_meta_test_entities_move_no_parameter(world):
    """Leak canary: their rows are altered, the weights are the same bit for bit; a training entity's do move them."""
    split = split_by_seed(np.arange(40), 0)
    ends = []
    for touched in ([], np.concatenate([split.test, split.valid]), split.train[:1]):
        data = altered(world, touched)
        run = start(tiny(negatives=8), recipe(), data, EventIndex.of(data), split.train, 0)
        list(fit(run, count_up()))
        ends.append(run.chosen())
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_rows_held_out_of_the_index_move_no_parameter(world):
    """The four corners train on an index without held-out rows: these may not reach any statistic either."""
    split = split_by_seed(np.arange(40), 0)
    index = EventIndex.of(world)
    corners = four_corners(world, index, split, seed=0)
    new = corners.corners["new-new"].shown
    run = start(tiny(), recipe(), world, corners.training, split.train, 0)
    bias = run.params["bias"].detach()
    assert torch.equal(bias[new], bias[new][:1].expand(int(new.sum()))), "no popularity of items never trained on"
    kept = set(corners.training.of_entities(split.train)[1].tolist())
    assert len({round(float(bias[i]), 5) for i in kept}) > 1


@pytest.mark.slow
def test_shuffled_labels_fall_to_the_prior():
    """Leak canary: when items are dealt out anew, a support says nothing, and adapting gains nothing with it."""
    gains = []
    for shuffle in (False, True):
        data = ranking_world(entities=400, items=40, rows=8, features=False)
        if shuffle:
            data = _dealt(data)
        index = EventIndex.of(data)
        split = split_by_seed(np.arange(400), 0)
        made = recipe(epochs=30, tasks=70, max_shots=5, patience=99, schedule="cosine")
        learner = tiny(dims=8, dropout=0.1)
        run = start(learner, made, data, index, split.train, 0)
        list(fit(run, count_up()))
        curves = [
            cold_start(p, run.chosen(), data, index, split.test, shots=(5,)) for p in (learner, Unadapted(learner))
        ]
        gains.append(curves[0].against(curves[1], 5, "ndcg@10"))
    assert gains[0].low > 0 and gains[0].p < 0.01
    assert gains[1].high < gains[0].low and gains[1].difference < 0.25 * gains[0].difference, gains


def _dealt(data):
    """Each entity gets items drawn by popularity alone."""
    rng = np.random.default_rng(3)
    count = np.bincount(data.events.item, minlength=data.catalogue)[2:]
    keys = np.log(np.maximum(count, 0.5)) + rng.gumbel(size=(data.events.entities, len(count)))
    item = np.argsort(-keys, 1)[:, :8]
    made = data_of(list(item))
    return type(data)(data.schema, made.events, data.entities, data.items, data.vocab, "dealt")


# Support sizes


def sizes(**config):
    got = support_sizes(Episodes(**config), 200_000, torch.Generator().manual_seed(0))
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


def test_training_by_time_takes_the_earliest_and_at_random_does_not(world, monkeypatch):
    data = data_of([list(range(8))] * 20, time=[list(range(8))] * 20)
    for exact in (True, False):
        schema = data.schema.model_copy(update={"exact_time": exact})
        own = type(data)(schema, data.events, data.entities, data.items, data.vocab, "x")
        met = []
        real = tiny().meta_loss
        monkeypatch.setattr(
            "recsys_meta.learners.maml.Maml.meta_loss",
            lambda self, params, batch, *rest, real=real, met=met: (met.append(batch), real(params, batch, *rest))[1],
        )
        list(fit(begin(own, recipe(max_shots=6)), count_up()))
        monkeypatch.undo()
        early = [
            bool((b.support.rows.item[t][b.support.rows.mask[t]].max() < b.query.item[t][b.query.mask[t]].min()))
            for b in met
            for t in range(len(b.entity))
            if b.support.rows.mask[t].any()
        ]
        assert len(early) > 20
        assert all(early) if exact else not all(early)
        for b in met:
            for t in range(len(b.entity)):
                own_rows = [r.item[t][r.mask[t]].tolist() for r in (b.support.rows, b.query)]
                assert not set(own_rows[0]) & set(own_rows[1]) and len(own_rows[0] + own_rows[1]) == 8
