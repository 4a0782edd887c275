"""Scores with a written-out gradient are used where they are known to be right, and nowhere else.

That they are right is in `test_dual_inner_loop`: loss and gradients are those of the plain form.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import TaskBatch
from recsys_meta.models.learners.gradient.meta_dropout import MetaDropout
from recsys_meta.models.learners.maml import maml
from recsys_meta.models.learners.maml.adapted_scores import adapted_scores, has_written_out_gradient
from recsys_meta.models.learners.maml.maml import Maml
from tests.models.learners.cases import case_of, generator, trainable


def body_of(case, learner):
    return learner._training_body(trainable(learner, case.params), generator())


def is_known(label, **config):
    case = case_of("maml", label)
    learner = Maml(case.learner.config.model_copy(update=config))
    body = body_of(case, learner)
    steps = learner.inner_steps(body)
    return has_written_out_gradient(learner.config, body, case.batch.support.rows, steps)


@pytest.mark.parametrize(("label", "known"), [("melu-rating", True), ("melu", False), ("all-mlp", False)])
def test_all_layers_and_nothing_else_have_it(label, known):
    assert is_known(label, dropout=0.0) is known


def test_without_a_step_there_is_none():
    assert is_known("melu-rating", steps=2) and not is_known("melu-rating", steps=0)


def test_a_relative_with_an_inner_loop_of_its_own_keeps_it(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("of MAML alone")

    monkeypatch.setattr(maml, "adapted_scores", refuse)
    case = case_of("maml", "melu-rating")
    with pytest.raises(AssertionError, match="of MAML alone"):
        case.learner.meta_loss(trainable(case.learner, case.params), case.batch, None, generator())
    config = MetaDropout.Config(**case.learner.config.model_dump())
    relative = MetaDropout(config)
    params = relative.init(case.data, case.split.train, generator(1))
    relative.meta_loss(trainable(relative, params), case.batch, None, generator())


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("objective", ["rating", "click"])
def test_state_and_scores_are_those_of_adapting(objective, steps):
    """With rows that are padding, tasks without a row, and levels of items."""
    label = {"rating": "melu-rating", "click": "head-click-first-order"}[objective]
    case = case_of("maml", label)
    learner = Maml(case.learner.config.model_copy(update={"dropout": 0.0, "steps": steps, "order": 2}))
    rows = case.batch.support.rows
    mask = rows.mask & (torch.arange(rows.mask.shape[1]) < torch.arange(len(rows.mask))[:, None])
    support = replace(case.batch.support, rows=replace(rows, mask=mask))
    batch = TaskBatch(case.batch.entity, support, case.batch.query)
    body = body_of(case, learner)
    z = learner.start_state(body, support)["z"]
    scores, state = adapted_scores(learner.config, body, z, support.rows, batch.query.item, learner.inner_steps(body))
    expected = learner.adapt(body, support)
    torch.testing.assert_close(scores, learner.score(body, expected, batch.query))
    assert state.keys() == expected.keys()
    for key, value in state.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected[key])
    weight = torch.randn(scores.shape, generator=generator(5))
    names = [k for k in ("vectors", "bias", "head.1.weight", "first.item", "first.entity") if k in body]
    found = torch.autograd.grad((scores * weight).sum(), [body[k] for k in names], retain_graph=True)
    right = torch.autograd.grad((learner.score(body, expected, batch.query) * weight).sum(), [body[k] for k in names])
    for name, a, b in zip(names, found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, k=name: f"{k}: {m}")
