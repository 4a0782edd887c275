"""Learners stay on one device, and read nothing back: torch's "meta" device has no values that could be read, and an
operation with a tensor of another device is an error there, as on an accelerator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import FIRST, move_tensors
from recsys_meta.models.functional.choice_statistics import evenly_spaced_items
from recsys_meta.models.functional.host_reads import may_hold, most_needed
from tests.models.learners.cases import CASES, NAMES, case_of, generator, learner_of, own

META = torch.device("meta")


@pytest.fixture(params=CASES, ids=NAMES)
def case(request):
    return case_of(*request.param)


def on_meta(case):
    """The case's parameters, its batch and its training state as tensors without values."""
    params = {k: v.to(META) for k, v in own(case.params).items()}
    live = {k: v if case.learner.is_frozen(k) else v.requires_grad_() for k, v in params.items()}
    return live, case.batch.to(META), move_tensors(case.training_state, META)


def test_a_meta_loss_reads_nothing_back_and_mixes_no_devices(case):
    params, batch, training_state = on_meta(case)
    loss, figures = case.learner.meta_loss(params, batch, training_state, generator())
    assert loss.device == META and loss.shape == ()
    loss.backward()
    assert all(v.grad.device == META for v in params.values() if v.grad is not None)
    expected = case.loss(case.params)[1]
    assert figures.keys() == expected.keys()
    for value in figures.values():
        assert isinstance(value, torch.Tensor) and value.device == META
        assert value.shape == () and not value.requires_grad


def test_adapting_and_ranking_read_nothing_back(case):
    params, batch, _ = on_meta(case)
    frozen = {k: v.detach() for k, v in params.items()}
    body = case.learner.body(frozen)
    state = case.learner.adapt(body, batch.support)
    expected = case.learner.adapt(case.learner.body(case.params), case.batch.support)
    assert {k: v.device for k, v in state.items()} == dict.fromkeys(expected, META)
    assert case.learner.rank(body, state).shape == case.learner.rank(case.learner.body(case.params), expected).shape
    assert case.learner.score(body, state, batch.query).shape == batch.query.item.shape


def test_intercepts_of_entities_are_decided_without_reading():
    case = case_of("cvar", "deepfm")
    learner = learner_of("cvar", {**case.learner.config.model_dump(), "own_level": True})
    params = learner.init(case.data, case.split.train, generator(1))
    closed = learner.rank(learner.body(params), learner.adapt(learner.body(params), case.batch.support))
    params = {k: v.to(META) for k, v in params.items()}
    state = learner.adapt(learner.body(params), case.batch.support.to(META))
    assert "level" in state and learner.rank(learner.body(params), state).shape == closed.shape


def test_what_an_accelerator_computes_too_much_changes_nothing(monkeypatch):
    """Without reading, the step that no trust asks for is taken with weight 0, and widths are those of the table."""
    case = case_of("choice", "default")
    learner, batch = case.learner, case.batch

    def answers():
        body = learner.body(case.params)
        state = learner.adapt(body, batch.support)
        return learner.rank(body, state), learner.score(body, state, batch.query)

    expected, calls = answers(), []
    for module in ("models.learners.choice.conditional_logit", "models.functional.choice_statistics",
                   "models.functional.choice_features"):  # fmt: skip
        monkeypatch.setattr(f"recsys_meta.{module}.most_needed", lambda counts, bound: (calls.append(1), bound)[1])
    monkeypatch.setattr("recsys_meta.models.learners.choice.conditional_logit.may_hold", lambda _: True)
    for got, want in zip(answers(), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert calls


def test_items_at_equal_intervals_are_the_same_set_with_any_width():
    listed = torch.zeros(2, 30, dtype=torch.bool)
    listed[0, FIRST:12], listed[1, FIRST:5] = True, True
    for width in (10, 28):
        item, distinct = evenly_spaced_items(listed[:, : width + FIRST], 28)
        assert [set(i[d].tolist()) for i, d in zip(item, distinct, strict=True)] == [set(range(2, 12)), {2, 3, 4}]


def test_counts_are_read_in_host_memory_alone():
    counts = torch.tensor([3, 7])
    assert most_needed(counts, 5) == 5 and most_needed(counts, 9) == 7 and most_needed(counts[:0], 9) == 0
    assert most_needed(counts.to(META), 9) == 9
    assert not may_hold(counts > 7) and may_hold(counts > 6) and may_hold((counts > 7).to(META))


def test_tensors_move_inside_of_what_holds_them():
    batch = replace(case_of("maml", "dot").batch)
    moved = move_tensors({"a": [batch, None, 3], "b": (torch.zeros(1),)}, META)
    assert moved["a"][0].query.item.device == META and moved["a"][1:] == [None, 3]
    assert isinstance(moved["b"], tuple) and moved["b"][0].device == META
