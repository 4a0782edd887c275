"""Of newcomers who were told that they met an item with chance p, a share of about p did."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.insight.meeting_chance import fit_slope, meeting_chances
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import MEETINGS, make_bundle
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import dataset, ranking_world, rating_world
from tests.fixtures.small_datasets import recipe, tiny

TRAIN, VALID, TEST = np.arange(400), np.arange(400, 550), np.arange(550, 900)


def uneven(data):
    """The same data where entities met between 5 and 35 items."""
    rng, indptr = np.random.default_rng(5), data.events.indptr
    sizes = rng.integers(5, 36, len(indptr) - 1)
    item = [data.events.item[a : a + n] - FIRST for a, n in zip(indptr, sizes, strict=False)]
    return dataset("uneven", "ranking", item, [np.ones(len(one)) for one in item])


@pytest.fixture(scope="module")
def world():
    data = uneven(ranking_world(entities=900, items=80, rows=35, features=False))
    index, learner = EventIndex.of(data), tiny(dims=8)
    run = start_training(learner, recipe(epochs=20, tasks=40, patience=99), data, index, TRAIN, 0)
    list(fit(run, lambda _: 0.0))
    bundle = make_bundle(learner, run.best_params_or_last(), data, index, TRAIN, {})
    return data, index, with_slope(data, index, bundle)


def with_slope(data, index, bundle):
    slope = fit_slope(Recommender(bundle), [episodes_at(data, index, VALID, shots) for shots in (0, 1, 3, 5)])
    return replace(bundle, about={**bundle.about, MEETINGS: {**bundle.about[MEETINGS], "slope": slope}})


def told_and_true(data, model, shots):
    """Chances of all items that are not in the support of each test entity, and whether it met them."""
    told, true = [], []
    for entity in TEST:
        rows = data.events.item[data.events.indptr[entity] : data.events.indptr[entity + 1]]
        known = model.read_support(EntityRequest(events=[Interaction(f"i{i - FIRST}") for i in rows[:shots]]))
        chances = meeting_chances(model, known, model.scores(model.adapt([known]))[0]).numpy()
        assert (chances[rows[:shots]] == 1).all() and (chances[:FIRST] == 0).all()
        others = np.setdiff1d(np.arange(FIRST, len(chances)), rows[:shots])
        told.append(chances[others])
        true.append(np.isin(others, rows))
    return np.concatenate(told), np.concatenate(true)


@pytest.mark.parametrize("shots", [0, 3])
def test_of_those_told_a_chance_as_many_met_the_item(world, shots):
    data, _, bundle = world
    told, true = told_and_true(data, Recommender(bundle), shots)
    assert true.mean() == pytest.approx(told.mean(), abs=0.02)
    piles = np.array_split(np.argsort(told), 10)
    assert told[piles[-1]].mean() > 2 * told[piles[0]].mean()
    for pile in piles:
        assert true[pile].mean() == pytest.approx(told[pile].mean(), abs=0.05)


def test_the_scale_of_the_scores_says_nothing(world):
    """An ensemble's scores have one of their own."""
    data, index, bundle = world

    class Loud(type(bundle.predictor)):
        def rank(self, body, state):
            return 7.0 * super().rank(body, state)

    loud = with_slope(data, index, replace(bundle, predictor=Loud(bundle.predictor.config)))
    slopes = [one.about[MEETINGS]["slope"] for one in (bundle, loud)]
    assert slopes[0] > 0.1 and slopes[1] == pytest.approx(slopes[0] / 7, rel=0.05)


def test_of_ratings_it_is_the_share_of_the_training_entities_that_rated_it():
    data = rating_world(entities=200, items=60, rows=24)
    index, learner = EventIndex.of(data), tiny(objective="rating")
    params = learner.init(data, np.arange(200), torch.Generator().manual_seed(0))
    model = Recommender(make_bundle(learner, params, data, index, np.arange(200), {}))
    nobody = model.read_support(EntityRequest())
    chances = meeting_chances(model, nobody, model.scores(model.adapt([nobody]))[0])
    entity = np.repeat(np.arange(200), np.diff(data.events.indptr))
    rated = [len(set(entity[data.events.item == i])) / 200 for i in range(FIRST, len(chances))]
    assert 0.2 < np.mean(rated) < 0.5 and chances[FIRST:].numpy() == pytest.approx(np.array(rated), abs=0.1)


def test_a_bundle_of_an_earlier_release_has_the_shares_of_the_most_popular_item(world):
    _, _, bundle = world
    model = Recommender(replace(bundle, about={}))
    nobody = model.read_support(EntityRequest())
    chances = meeting_chances(model, nobody, model.scores(model.adapt([nobody]))[0])
    assert float(chances.max()) == 1 and chances.argmax() == bundle.popularity.argmax()
