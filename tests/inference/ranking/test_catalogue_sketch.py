"""Lists in two stages: against all scores, alone and in a batch, with members that have factors and without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.bench_servers import drawn_events
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.ranking import catalogue_sketch
from recsys_meta.inference.ranking.catalogue_sketch import best_items
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import Bundle, make_bundle
from recsys_meta.models.learners import LEARNERS
from tests.fixtures import factor_bundles
from tests.fixtures.factor_bundles import CANDIDATES, ITEMS


def sketched(bundle: Bundle) -> Recommender:
    recommender = Recommender(bundle, sketch_from=ITEMS)
    assert recommender.sketch is not None
    return recommender


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return factor_bundles.ensemble()


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(catalogue_sketch, "CANDIDATES", CANDIDATES)


def requests(count: int, events: int) -> list[EntityRequest]:
    rng = np.random.default_rng(events)
    return [
        EntityRequest(events=[Interaction(f"i{i}") for i in rng.choice(200, events, replace=False)])
        for _ in range(count)
    ]


@pytest.mark.parametrize("events", [0, 1, 4, 12])
def test_the_best_have_their_scores_and_stand_above_all_others(bundle, events):
    recommender = sketched(bundle)
    state = recommender.adapt([recommender.read_support(request) for request in requests(8, events)])
    exact, two_stages = recommender.scores(state), recommender.best_scores(state)
    best = best_items(exact)
    assert float(recommender.sketch.recall(state, best).mean()) >= 0.99
    for row in range(len(exact)):
        order = two_stages[row, FIRST:].argsort(descending=True)[:CANDIDATES] + FIRST
        torch.testing.assert_close(two_stages[row][order], exact[row][order], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(two_stages).all()


def test_an_entity_gets_the_same_scores_in_any_batch(bundle):
    recommender = sketched(bundle)
    entities = [recommender.read_support(request) for events in (12, 4) for request in requests(5, events)]
    whole = [recommender.best_scores(recommender.adapt(part)) for part in (entities[:5], entities[5:])]
    for i, entity in enumerate(entities):
        assert torch.equal(recommender.best_scores(recommender.adapt([entity]))[0], torch.cat(whole)[i])


def test_pages_and_lists_are_those_of_all_scores(bundle):
    exact, two_stages = Recommender(bundle), sketched(bundle)
    for request in requests(4, 6):
        lists = [recommend(recommender, request, 10) for recommender in (exact, two_stages)]
        assert [item.item for item in lists[0].items] == [item.item for item in lists[1].items]
    candidates = ["i700", "i3", "i1400"]
    request = requests(1, 6)[0]
    assert recommend(two_stages, request, 10, candidates).items == recommend(exact, request, 10, candidates).items


@pytest.mark.parametrize("events", [60, 150])
def test_those_who_met_more_items_than_there_are_candidates_get_the_list_of_all_scores(bundle, events):
    exact, two_stages = Recommender(bundle), sketched(bundle)
    for request in requests(3, events):
        lists = [recommend(recommender, request, 20) for recommender in (exact, two_stages)]
        assert [item.item for item in lists[0].items] == [item.item for item in lists[1].items]


def test_the_flagship_alone_has_factors_and_one_with_open_memories_has_none():
    data = drawn_events(ITEMS, 300)
    index, train = EventIndex.of(data), np.arange(250)
    learner = LEARNERS["flagship"](LEARNERS["flagship"].Config(dims=8, towers=2))
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    params["item"] = 10 * params["item"]
    plain = make_bundle(learner, params, data, index, train, {})
    recommender = sketched(plain)
    state = recommender.adapt([recommender.read_support(requests(1, 5)[0])])
    assert torch.equal(best_items(recommender.best_scores(state)), best_items(recommender.scores(state)))
    opened = {**params, "gate": torch.ones_like(params["gate"])}
    assert Recommender(make_bundle(learner, opened, data, index, train, {}), sketch_from=1).sketch is None


def test_without_enough_recall_all_are_scored(bundle, monkeypatch):
    monkeypatch.setattr(catalogue_sketch, "MIN_RECALL", 1.01)
    recommender = Recommender(bundle, sketch_from=ITEMS)
    state = recommender.adapt([recommender.read_support(requests(1, 5)[0])])
    assert recommender.sketch is None
    assert torch.equal(recommender.best_scores(state), recommender.scores(state))


def test_a_catalogue_below_the_bound_and_one_with_new_items_have_no_sketch(bundle):
    assert Recommender(bundle, sketch_from=ITEMS + 1).sketch is None
    assert Recommender(bundle).sketch is None
    recommender = sketched(bundle)
    assert recommender.with_items([StoredItem("new")]).sketch is None
    hidden = recommender.with_items([StoredItem("i3", available=False)])
    assert hidden.sketch is recommender.sketch
    assert "i3" not in [item.item for item in recommend(hidden, requests(1, 5)[0], 50).items]


def test_pages_go_on_where_the_one_before_ended(bundle):
    recommender, request = sketched(bundle), requests(1, 5)[0]
    entity = recommender.read_support(request)
    scores = recommender.best_scores(recommender.adapt([entity]))[0]
    pages, after = [], None
    for _ in range(12):
        page = recommender.lists.build(scores, entity, ListRequest(20), None, after)
        pages, after = [*pages, *page.items], page.end
    assert pages == recommender.lists.build(scores, entity, ListRequest(240)).items
    assert len({item.item for item in pages}) == 240


def test_the_recall_of_an_entity_is_that_of_its_list(bundle):
    recommender = sketched(bundle)
    entity = recommender.read_support(requests(1, 5)[0])
    assert recommender.sketch_recall(entity) == 1.0
    assert Recommender(bundle).sketch_recall(entity) is None
    spoilt = dataclasses.replace(recommender.sketch, codes=-recommender.sketch.codes)
    recommender.sketch = spoilt
    assert recommender.sketch_recall(entity) == 0.0


def test_bytes_and_numbers_give_the_same_scores_to_the_last_bit(bundle, monkeypatch):
    monkeypatch.setattr(catalogue_sketch, "_fastest", lambda query, codes: codes.element_size())
    small = sketched(bundle)
    monkeypatch.setattr(catalogue_sketch, "_fastest", lambda query, codes: -codes.element_size())
    fast = sketched(bundle)
    assert (small.sketch.codes.dtype, fast.sketch.codes.dtype) == (torch.int8, torch.float32)
    state = small.adapt([small.read_support(request) for request in requests(7, 5)])
    assert torch.equal(small.best_scores(state), fast.best_scores(state))


def test_a_library_without_a_product_of_bytes_has_numbers(bundle, monkeypatch):
    expected = sketched(bundle)
    monkeypatch.delattr(torch, "_int_mm")
    recommender = sketched(bundle)
    assert recommender.sketch.codes.dtype is torch.float32
    state = recommender.adapt([recommender.read_support(requests(1, 5)[0])])
    assert torch.equal(recommender.best_scores(state), expected.best_scores(state))
