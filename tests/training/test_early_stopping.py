"""When a run ends before its last epoch, and what is left of it then."""

import math

import pytest
import torch

from recsys_meta.core.errors import DivergedError
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.trainer import fit, from_checkpoint, to_checkpoint
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import recipe, tiny
from tests.training.test_trainer import begin, count_up, equal


@pytest.fixture(scope="module")
def world():
    return ranking_world(entities=40, items=20, rows=6)


# Divergence


class Bursting:
    """A learner whose loss or gradient is not finite from the n-th meta-batch on."""

    def __init__(self, inner, n, what):
        self.inner, self.left, self.what = inner, n, what

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def meta_loss(self, params, batch, training_state, generator):
        loss, logs = self.inner.meta_loss(params, batch, training_state, generator)
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
            save_checkpoint(tmp_path, to_checkpoint(run))
            before = to_checkpoint(run)
    assert run.step == 5
    now = to_checkpoint(run).tensors
    for key, value in before.tensors.items():
        if key.startswith(("params/", "adam/", "best/")):
            assert torch.equal(value, now[key]) and torch.isfinite(value).all(), key
    good = last_checkpoint(tmp_path)
    assert equal(good, before)
    again = begin(world)
    from_checkpoint(again, good)
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
        weights.append({k: run.params[k].detach().clone() for k in run.trainable})
        steps.append(step)
    assert [s.valid for s in steps] == [0.1, 0.5, 0.3, 0.6, 0.6, 0.2]
    assert [s.best for s in steps] == [0.1, 0.5, 0.5, 0.6, 0.6, 0.6]
    assert "no gain" in run.stop_reason and run.step == 6 < run.steps
    chosen = run.best_params_or_last()
    assert all(torch.equal(chosen[k], weights[3][k]) for k in run.trainable)
    assert not all(torch.equal(chosen[k], run.params[k]) for k in run.trainable)
    assert not any(v.requires_grad for v in chosen.values()) and chosen.keys() == run.params.keys()
    assert list(fit(run, scripted([]))) == [], "a stopped run stays stopped"
    back = begin(world, made)
    from_checkpoint(back, to_checkpoint(run))
    assert list(fit(back, scripted([]))) == [] and back.stop_reason == run.stop_reason


def test_validation_comes_when_it_should_and_at_the_end(world):
    run = begin(world, recipe(epochs=5, tasks=14, validate_every=2))
    steps = list(fit(run, count_up()))
    assert run.epoch_steps == 2 and [s.step for s in steps if s.epoch_end] == [2, 4, 6, 8, 10]
    assert [s.step for s in steps if s.valid is not None] == [4, 8, 10]
    assert [s.epoch for s in steps] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {s.steps for s in steps} == {10} and all(s.seconds >= 0 and s.tasks == 14 for s in steps)


def test_without_a_figure_the_last_weights_are_chosen(world):
    run = begin(world)
    (step,) = [s for s in fit(run, lambda _: math.nan) if s.valid is not None]
    assert step.step == run.step < run.steps and run.stop_reason == "no number from meta-validation"
    assert run.best == -math.inf and step.best is None
    assert all(torch.equal(run.best_params_or_last()[k], run.params[k]) for k in run.trainable)


def test_a_figure_that_is_missing_ends_the_run_with_the_best_before_it(world):
    run = begin(world, recipe(epochs=20, tasks=28, patience=9))
    assert [s.valid for s in fit(run, scripted([0.1, 0.5, 0.4, -math.inf, 9.0]))] == [0.1, 0.5, 0.4, -math.inf]
    assert run.best == 0.5 and run.stop_reason == "no number from meta-validation"


def test_validation_sees_parameters_that_it_cannot_train(world):
    def validate(params):
        assert not any(v.requires_grad for v in params.values())
        return 0.0

    list(fit(begin(world), validate))
