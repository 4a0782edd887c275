"""What is worth asking: expected information against its definition, and MeLU's evidence candidates."""

import random
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import DataError
from recsys_meta.core.schema import Schema
from recsys_meta.inference.insight.active_elicitation import most_informative_items, with_simulated_answer
from recsys_meta.inference.insight.diagnostics import diagnose
from recsys_meta.inference.insight.meeting_chance import meeting_chances
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.bundle import Bundle
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders as served

NOISE = 0.7


class Gauss(BaselineConfig):
    """Ratings x_i . w + noise with w ~ N(0, 1): the posterior in closed form."""

    name: ClassVar[str] = "test-gauss"
    objective: str = "rating"

    def fit(self, data, entities):
        raise NotImplementedError

    def adapt(self, body, support):
        x = body["x"][support.rows.item] * support.rows.mask[..., None]
        a = torch.eye(x.shape[2]) + x.mT @ x / NOISE**2
        b = (x * support.rows.label[..., None]).sum(1) / NOISE**2
        return {"mean": torch.linalg.solve(a, b), "covariance": torch.linalg.inv(a)}

    def rank(self, body, state):
        return state["mean"] @ body["x"].T

    def score_std(self, body, state, rows):
        x = body["x"][rows.item]
        return (torch.einsum("trd,tde,tre->tr", x, state["covariance"], x) + NOISE**2).sqrt()


@pytest.fixture(scope="module")
def gauss():
    rng = np.random.default_rng(3)
    x = np.concatenate([np.zeros((2, 3)), rng.normal(size=(40, 3)) * [2, 1, 0.5]])
    names = pd.Index([f"i{n}" for n in range(40)], dtype="str")
    schema = Schema(name="gauss", objective="rating", label="y")
    popularity = torch.tensor([0.0, 0.0, *[10.0] * 40])
    params = {"x": torch.tensor(x, dtype=torch.float32)}
    return Recommender(Bundle(Gauss(), params, popularity, schema, Vocabulary({"item": names})))


def test_of_ratings_it_is_the_expected_reduction_of_variance(gauss):
    """Gaussian beliefs know theirs: cov(i, j)^2 / (var(i) + noise^2), the mean over items j."""
    x = gauss.body["x"][2:].double()
    for events in ([], [Interaction("i3", 1.0), Interaction("i5", -1.0)]):
        known = gauss.read_support(EntityRequest(events=events))
        state = gauss.adapt([known])
        covariance = x @ state["covariance"][0].double() @ x.T
        wanted = covariance.square().mean(1) / (covariance.diagonal() + NOISE**2)
        wanted[[i - 2 for i in known.seen_items]] = -1
        best = most_informative_items(gauss, known, 1)[0]
        assert best.item == f"i{int(wanted.argmax())}"
        assert best.value == pytest.approx(float(wanted.max()), rel=1e-3)
        assert best.probability == 1  # as popular as any


def test_asking_what_was_chosen_lowers_the_variance_more_than_asking_at_random(gauss):
    def left(items):
        known = gauss.read_support(EntityRequest(events=[Interaction(i, 0.0) for i in items]))
        x = gauss.body["x"][2:]
        return float((x @ gauss.adapt([known])["covariance"][0] * x).sum(1).mean())

    chosen = left([a.item for a in most_informative_items(gauss, gauss.read_support(EntityRequest()), 3)])
    others = [left(random.Random(seed).sample([f"i{n}" for n in range(40)], 3)) for seed in range(60)]
    assert sum(chosen < other for other in others) >= 57


def naive_ranking(model, known):
    """Of each item not met: chance of a yes times the divergence of what is recommended after it, in nats."""

    def shares(cases):
        scores = model.scores(model.adapt(cases))[:, 2:].double()
        return scores.log_softmax(1)

    before, found = shares([known])[0], {}
    chances = meeting_chances(model, known, model.scores(model.adapt([known]))[0])
    for item in range(2, len(before) + 2):
        if item not in known.seen_items:
            after = shares([with_simulated_answer(known, item, 1.0)])[0]
            found[item] = float(chances[item] * (after.exp() * (after - before)).sum())
    return found


def test_of_rankings_it_is_the_expected_divergence():
    model = served.ranking()
    for events in ([], [Interaction("i4"), Interaction("i9")]):
        known = model.read_support(EntityRequest(events=events))
        exact = naive_ranking(model, known)
        best = most_informative_items(model, known, 1)[0]
        value = exact[int(best.item[1:]) + 2]
        assert best.value == pytest.approx(value, rel=0.15) and value >= 0.8 * max(exact.values())


@pytest.mark.parametrize("strategy", ["information", "evidence"])
@pytest.mark.parametrize("kind", ["ranking", "rating", "clicks"])
def test_questions_are_different_items_that_were_not_met(strategy, kind):
    model = Recommender(choosing.clicks()) if kind == "clicks" else getattr(served, kind)()
    met = ["p1", "p2"] if kind == "clicks" else ["i1", "i2", "i3"]
    events = [Interaction(i, float(n % 2)) for n, i in enumerate(met)]
    known = model.read_support(EntityRequest(events=events))
    catalogue = model.catalog.size() - 2
    found = most_informative_items(model, known, 1000, strategy)
    names = [a.item for a in found]
    assert len(set(names)) == len(names) == catalogue - len(met) and not set(names) & set(met)
    assert [a.value for a in found] == sorted((a.value for a in found), reverse=True)
    assert all(a.value >= 0 and 0 <= a.probability <= 1 for a in found)
    assert most_informative_items(model, known, 3, strategy) == found[:3]
    again = model.read_support(EntityRequest(events=events[::-1]))
    assert most_informative_items(model, again, 3, strategy) == found[:3]


def test_evidence_is_the_norm_of_the_gradient_times_popularity():
    model = served.ranking()
    known = model.read_support(EntityRequest({"age": 40}))
    norms = {}
    for item in range(2, model.catalog.size()):
        one = with_simulated_answer(known, item, 1.0)
        norms[item] = diagnose(model, [one])[0].gradient_norm
    popularity = model.bundle.popularity
    wanted = {f"i{i - 2}": norms[i] / max(norms.values()) * float(popularity[i] / popularity[2:].max()) for i in norms}
    found = most_informative_items(model, known, 30, "evidence")
    assert {a.item: a.value for a in found} == pytest.approx(wanted, rel=1e-3)


def test_nothing_can_be_asked_about_items_that_nobody_has_met():
    model = Recommender(choosing.visits())
    with pytest.raises(DataError, match="items of its own"):
        most_informative_items(model, model.read_support(EntityRequest()), 3)
