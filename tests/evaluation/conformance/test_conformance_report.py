"""The suite finds the learner and the baseline that break a promise, and says which; a test of the tests."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.evaluation.conformance import check_baseline, check_learner
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.amortized.prototypical import PrototypicalNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


class Forgetful(PrototypicalNetwork):
    """Ignores its support, keeps a parameter that nothing reads, and asks chance of nobody."""

    name = "forgetful"

    def init_method(self, generator):
        return {"rate.prototype": torch.zeros(()), "rate.unused": torch.rand(())}

    def encode(self, body, rows):
        return {"z": rows.start, "near": torch.zeros(len(rows.start))}


class Leaking(PrototypicalNetwork):
    """Looks at its query."""

    name = "leaking"

    def meta_loss(self, params, batch, training_state, generator):
        self.adapt(self.body(params), batch.support)
        return super().meta_loss(params, batch, training_state, generator)


class Padded(BASELINES["popularity"]):
    """Counts padding as rows."""

    name = "padded"

    def rank(self, body, state):
        return super().rank(body, state) + state["size"][:, None]

    def adapt(self, body, support):
        size = torch.full((support.size,), support.rows.item.shape[1], dtype=torch.float32)
        return {**super().adapt(body, support), "size": size}


def failures(results):
    return {r.check: r.problem for r in results if r.problem is not None}


def test_broken_promises_of_a_learner_are_named(monkeypatch):
    monkeypatch.setitem(LEARNERS, "forgetful", Forgetful)
    monkeypatch.setitem(LEARNERS, "leaking", Leaking)
    found = failures(check_learner("forgetful", {"dims": 8}, "ranking"))
    assert {"adapting changes predictions", "chance comes from the generators", "adapting beats not adapting"} <= set(
        found
    )
    assert "rate.unused" in found["every parameter gets an outer gradient"]
    assert "padding changes nothing" not in found
    found = failures(check_learner("leaking", {"dims": 8}, "ranking"))
    assert list(found) == ["query labels never reach adapt"] and "once, not 2 times" in found.popitem()[1]


def test_broken_promises_of_a_baseline_are_named(monkeypatch):
    monkeypatch.setitem(BASELINES, "padded", Padded)
    found = failures(check_baseline("padded", objective="ranking"))
    assert {"padding changes nothing", "a batch equals its tasks one by one"} <= set(found)
    assert "unknown items are accepted" not in found


def test_an_exception_is_a_failed_check(monkeypatch):
    class Unready(PrototypicalNetwork):
        name = "unready"

        def init_method(self, generator):
            raise RuntimeError("not yet")

    monkeypatch.setitem(LEARNERS, "unready", Unready)
    (result,) = check_learner("unready", objective="rating")
    assert (result.check, result.problem) == ("initialization", "RuntimeError: not yet")


def test_what_cannot_be_checked_is_an_error():
    with pytest.raises(ConfigError, match="no learner 'ease'; there are"):
        check_learner("ease")
    with pytest.raises(ConfigError, match="'anil' serves click, ranking, rating, not 'choice'"):
        check_learner("anil", objective="choice")
    with pytest.raises(ConfigError, match="configuration of 'anil': colour"):
        check_learner("anil", {"colour": 1})
    with pytest.raises(ConfigError, match="no baseline 'anil'"):
        check_baseline("anil")
    with pytest.raises(ConfigError, match="choices only"):
        check_baseline("revisits")
