"""The inner loop in dual form equals the plain one: loss and every outer gradient, in both orders and precisions."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from recsys_meta.core.types import Interactions, Support, TaskBatch
from recsys_meta.models.functional import task_layers
from recsys_meta.models.learners.maml.maml import Maml
from tests.models.learners.cases import CONFIGS, MLP, case_of, generator, learner_of, trainable
from tests.models.learners.plain_maml import plain_meta_loss

LABELS = list(CONFIGS["maml"])
RELATIVES = {
    "last-click": {"adapts": "last", "objective": "click"},
    "last": {"adapts": "last", "negatives": 20, "rate": 2.0},
    "body-rating": {"adapts": "body", "objective": "rating"},
    "body": {"adapts": "body", "negatives": 20},
}
CLOSE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}


def at_precision(batch, dtype):
    def rows(r):
        return Interactions(r.item, r.label.to(dtype), r.mask)

    features = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.support.features.items()}
    return TaskBatch(batch.entity, Support(features, rows(batch.support.rows)), rows(batch.query))


def gradients(loss, params):
    loss.backward()
    return {k: v.grad for k, v in params.items() if v.grad is not None}


@cache
def relative(label):
    """A case of the conformance suite in which other parts adapt."""
    config = {**MLP, **RELATIVES[label]}
    case = case_of("maml", {"click": "dot-click", "rating": "dot-rating"}.get(config.get("objective"), "dot"))
    learner = learner_of("maml", config)
    return replace(case, learner=learner, params=learner.init(case.data, case.split.train, generator(1)))


def assert_equal_to_plain(label, dtype, **config):
    case = relative(label) if label in RELATIVES else case_of("maml", label)
    learner = Maml(case.learner.config.model_copy(update={"dropout": 0.0, **config}))
    batch = at_precision(case.batch, dtype)
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in case.params.items()}
    ours, theirs = trainable(learner, given), trainable(learner, given)
    loss, _ = learner.meta_loss(ours, batch, None, generator(0))
    expected = plain_meta_loss(learner, theirs, batch, generator(0))
    torch.testing.assert_close(loss, expected, **CLOSE[dtype])
    found, right = gradients(loss, ours), gradients(expected, theirs)
    assert found.keys() == right.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, right[key], **CLOSE[dtype], msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("label", [*LABELS, *RELATIVES])
def test_loss_and_gradients_are_those_of_the_plain_form(label, dtype, order, steps):
    assert_equal_to_plain(label, dtype, order=order, steps=steps)


@pytest.mark.parametrize("dual", [True, False], ids=["dual", "spelt-out"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("label", [x for x in LABELS if x.startswith(("melu", "head", "all-mlp"))] + list(RELATIVES))
def test_either_form_of_a_layer_gives_the_same(label, order, dual, monkeypatch):
    monkeypatch.setattr(task_layers, "is_dual_smaller", lambda weight, rows: dual)
    assert_equal_to_plain(label, torch.float64, order=order, steps=2)


@pytest.mark.parametrize("label", ["melu", "melu-rating", "all-mlp", "all-mlp-ranking"])
def test_a_state_ranks_alike_in_either_form(label, monkeypatch):
    case, states = case_of("maml", label), []
    body = case.learner.body(case.params)
    for dual in (True, False):
        monkeypatch.setattr(task_layers, "is_dual_smaller", lambda weight, rows, dual=dual: dual)
        states.append(case.learner.adapt(body, case.batch.support))
    assert any(k.endswith(".deltas") for k in states[0])
    assert not any(k.endswith(".deltas") for k in states[1])
    ranked, spelt = (case.learner.rank(body, state) for state in states)
    torch.testing.assert_close(ranked, spelt, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", ["dot-rating", "dot-sampled", "melu-rating", "melu", "all-mlp", "all-mlp-ranking"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_batch_on_the_rows_of_its_own_gives_the_same(label, tasks):
    """Few tasks of few rows read a part of the tables only; the plain form reads the whole."""
    case = case_of("maml", label)
    learner = Maml(
        case.learner.config.model_copy(update={"dropout": 0.0, "negatives": min(case.learner.config.negatives, 5)})
    )
    some = torch.arange(3, 3 + tasks)
    batch = TaskBatch(case.batch.entity[some], case.batch.support.of(some), case.batch.query.of(some).first(4))
    batch = at_precision(batch, torch.float64)
    given = {k: v.double() if v.is_floating_point() else v for k, v in case.params.items()}
    selection = learner.select_rows(given, batch, generator(0))
    assert selection is not None
    assert all(len(ids) < len(given[k]) for k, ids in selection.rows.items())
    ours, theirs = trainable(learner, given), trainable(learner, given)
    found = gradients(learner.meta_loss(ours, batch, None, generator(0))[0], ours)
    expected = gradients(plain_meta_loss(learner, theirs, batch, generator(0)), theirs)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], **CLOSE[torch.float64], msg=lambda m, k=key: f"{k}: {m}")
