"""The benchmark of meta-training: its loops have the gradients of the learner, and its rows the form of all benches."""

from __future__ import annotations

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import meta_training
from recsys_meta.data import prepare_named
from recsys_meta.episodes.event_index import EventIndex


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_named("simulated-users", tmp_path_factory.mktemp("users"), objective="rating")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"TASKS": 3, "SUPPORT": 4, "QUERY": 2, "DIMS": 4, "HIDDEN": (6, 5)}.items():
        monkeypatch.setattr(meta_training, name, value)


class ClonedLayers(torch.nn.Module):
    """What learn2learn's MAML does to a module of plain weights, as far as the benchmark calls it."""

    def __init__(self, module, lr, first_order, weights=None):
        super().__init__()
        self.layers, self.lr, self.first_order = module, lr, first_order
        self.weights = dict(module.named_parameters()) if weights is None else weights

    def forward(self, x):
        return torch.func.functional_call(self.layers, self.weights, (x,))

    @property
    def module(self):
        return SimpleNamespace(_parameters=self.weights)

    def clone(self):
        return ClonedLayers(self.layers, self.lr, self.first_order, {k: v.clone() for k, v in self.weights.items()})

    def adapt(self, loss):
        gradients = torch.autograd.grad(loss, list(self.weights.values()), create_graph=not self.first_order)
        steps = zip(self.weights.items(), gradients, strict=True)
        self.weights = {k: v - self.lr * g for (k, v), g in steps}


@pytest.mark.parametrize(("steps", "order", "adapts"), meta_training.CASES)
def test_all_systems_have_the_same_gradients(data, steps, order, adapts):
    case = meta_training.make_case(data, EventIndex.of(data), steps, order, 1, adapts)
    systems = {
        "loop": meta_training.loop_step(case),
        "recsys-meta": meta_training.learner_step(case),
        "cloned": meta_training.learn2learn_step(case, ClonedLayers, meta_training.each_inputs),
        "cloned, batched": meta_training.learn2learn_step(case, ClonedLayers, meta_training.all_inputs),
    }
    torchopt, _ = meta_training.find_torchopt()
    if torchopt is not None and order == 2 and adapts == "head":
        systems["torchopt"] = meta_training.torchopt_step(case, torchopt, meta_training.each_inputs)
    assert meta_training.assert_equal(case, systems) < 1e-3


def test_a_wrong_gradient_is_refused(data):
    case = meta_training.make_case(data, EventIndex.of(data), 1, 2, 1)
    loop = meta_training.loop_step(case)
    other = meta_training.loop_step(meta_training.make_case(data, EventIndex.of(data), 1, 1, 1))
    with pytest.raises((AssertionError, SystemExit)):
        meta_training.assert_equal(case, {"loop": loop, "first order": other})


def test_without_learn2learn_the_result_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(meta_training.CHECKOUT, str(tmp_path))
    assert meta_training.find_learn2learn()[0] is None
    assert "names no checkout" in meta_training.find_learn2learn()[1]
    monkeypatch.delenv(meta_training.CHECKOUT)
    monkeypatch.setitem(sys.modules, "learn2learn", None)
    assert "not installed" in meta_training.find_learn2learn()[1]


def test_rows_are_ratios_to_learn2learn_or_the_loop():
    rows = meta_training.rows_of("1 step", {"loop": [2.0, 4.0, 3.0], "recsys-meta": [30.0, 33.0, 36.0]})
    assert [(r["system"], r["value"], r["ratio"], r["reference"]) for r in rows] == [
        ("loop", 3.0, 1.0, "loop"),
        ("recsys-meta", 33.0, 11.0, "loop"),
    ]
    rows = meta_training.rows_of("1 step", {"loop": [1.0], "learn2learn": [2.0]})
    assert [r["ratio"] for r in rows] == [0.5, 1.0]


def test_whole_steps_learn_and_those_of_loops_are_alike(data, monkeypatch):
    monkeypatch.setattr(meta_training, "OUTER_RATE", 0.01)
    index = EventIndex.of(data)
    cloned = partial(meta_training.learn2learn_step, maml=ClonedLayers, inputs=meta_training.all_inputs)
    loop, other = (meta_training.loop_training(data, index, way) for way in (meta_training.loop_step, cloned))
    ours = meta_training.learner_training(data, index)
    losses = [[next(training) for _ in range(20)] for training in (loop, other, ours)]
    # A module that kept weights of its own would have other losses from the second step on.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    # The trainer draws other tasks of the same kind.
    assert np.mean(losses[2]) == pytest.approx(np.mean(losses[0]), rel=0.3)
