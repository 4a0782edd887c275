"""Many newcomers at once: what one alone would get."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.ranking.list_builder import TopKRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.learners import LEARNERS
from tests.fixtures import trained_recommenders as served
from tests.fixtures.simulated_datasets import ranking_world


@pytest.fixture(scope="module", params=["trained", "flagship"])
def model(request) -> Recommender:
    """One that shares starts (the flagship), and one that does not."""
    if request.param == "trained":
        return served.ranking()
    data, train = ranking_world(entities=80, items=30, rows=10), np.arange(60)
    learner = LEARNERS["flagship"](LEARNERS["flagship"].Config(dims=8, towers=2))
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    return Recommender(make_bundle(learner, params, data, EventIndex.of(data), train, {}))


def people(kinds: int, count: int = 24) -> list[EntityRequest]:
    """Newcomers of so many kinds: numbers of events, and features."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(count):
        kind = n % kinds
        items = rng.choice(28, kind % 5, replace=False)
        made.append(EntityRequest({"age": 20.0 + kind // 5}, [Interaction(f"i{i}") for i in items]))
    return made


@pytest.mark.parametrize("kinds", [1, 3, 24])
def test_states_and_lists_are_those_of_one_alone(model, kinds):
    known = [model.read_support(p) for p in people(kinds)]
    states = model.adapt(known)
    scores = model.scores(states)
    for i, one in enumerate(known):
        alone = model.scores(model.adapt([one]))[0]
        # A state is kept in a byte a number, and sums in another order may round to the next.
        torch.testing.assert_close(scores[i], alone, rtol=1e-2, atol=1e-2)
    lists = model.lists.top_k_batch(scores, 7, known)
    assert lists == [model.lists.top_k(s, 7, exclude=one.seen_items) for s, one in zip(scores, known, strict=True)]
    assert all(len(found) == 7 for found in lists)


def test_few_candidates_of_many(model):
    known = model.read_support(EntityRequest(events=[Interaction("i3")]))
    scores = model.scores(model.adapt([known]))[0]
    chosen = model.catalog.known_item_ids(["i9", "i3", "i1", "i9"])
    found = model.lists.top_k(scores, 10, exclude=known.seen_items, candidates=[*chosen, 0, 1])
    assert {s.item for s in found} == {"i9", "i1"} and len(found) == 2
    assert found == sorted(found, key=lambda s: -s.score)
    assert model.lists.top_k(scores, 10, candidates=[]) == []


@pytest.mark.parametrize("seed", range(5))
def test_lists_that_are_wished_for_are_those_of_one_alone(model, seed):
    rng = np.random.default_rng(seed)
    states = model.adapt([model.read_support(one) for one in people(7)])
    scores = model.scores(states)
    scores[seed % len(scores)] = scores[seed % len(scores), 0]  # all are equal
    wishes = [
        TopKRequest(int(rng.integers(1, 40)), set(rng.integers(0, 32, rng.integers(0, 31)).tolist())) for _ in scores
    ]
    before = scores.clone()
    found = [model.catalog.to_items(best) for best in model.lists.top_k_ids(scores, wishes)]
    assert found == [model.lists.top_k(row, w.n, exclude=w.exclude) for row, w in zip(scores, wishes, strict=True)]
    assert torch.equal(scores, before)
