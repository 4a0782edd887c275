"""Lists: what a request leaves out of them, where they end, and how they go on."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST
from recsys_meta.inference.ranking import list_builder
from recsys_meta.inference.ranking.filters import FeatureFilter
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders

VISITS = [
    Interaction("x", time=1.0, actor="a"),
    Interaction("y", time=2.0, actor="b"),
    Interaction("z", time=3.0, actor="a"),
]


@pytest.fixture(scope="module")
def model() -> Recommender:
    return trained_recommenders.ranking()


@pytest.fixture(scope="module")
def cities() -> Recommender:
    return Recommender(choosing.visits())


def names(recommender, entity, ids):
    return {recommender.catalog.item_name(i, entity.catalog) for i in ids}


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (ListRequest(), {"i1", "i2"}),
        (ListRequest(include_seen=False), {"i1", "i2"}),
        (ListRequest(include_seen=True), set()),
        (ListRequest(exclude=["i9", "none", "i1"]), {"i1", "i2", "i9"}),
        (ListRequest(include_seen=True, exclude=["i9"]), {"i9"}),
    ],
)
def test_a_list_leaves_out_what_was_met_and_excluded(model, request_, wanted):
    entity = model.read_support(EntityRequest(events=[Interaction("i1"), Interaction("i2")]))
    assert names(model, entity, model.lists.excluded_ids(entity, request_)) == wanted
    scores = model.scores(model.adapt([entity]))[0]
    items, _, end = model.lists.build(scores, entity, request_)
    assert not wanted & {one.item for one in items} and len(items) == 10
    assert end == (items[-1].score, model.catalog.item_ids([items[-1].item])[0])


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (ListRequest(), set()),
        (ListRequest(include_seen=False), {"x", "y", "z"}),
        (ListRequest(include_seen=False, context=QueryContext({"hour": 1}, "a")), {"x", "z"}),
        (ListRequest(include_seen=False, context=QueryContext({"hour": 1}, history=["y"])), {"y"}),
        (ListRequest(include_seen=False, context=QueryContext({"hour": 1})), {"x", "y", "z"}),
        (ListRequest(context=QueryContext(actor="a"), exclude=["z"]), {"z"}),
    ],
)
def test_an_entity_that_chooses_may_get_what_it_met_again(cities, request_, wanted):
    entity, query = cities.lists.encode_query(cities.read_support(EntityRequest(events=VISITS)), request_)
    assert names(cities, entity, cities.lists.excluded_ids(entity, request_, query)) == wanted


def test_candidates_and_filters_are_the_only_items(model):
    entity = model.read_support(EntityRequest(events=[Interaction("i1"), Interaction("lost")]))
    scores = model.scores(model.adapt([entity]))[0]
    items, unknown, end = model.lists.build(scores, entity, ListRequest(candidates=["i1", "i5", "none", "i7"]))
    assert {one.item for one in items} == {"i5", "i7"} and unknown == ["lost", "none"] and end is None
    with pytest.raises(DataError, match="no such feature"):
        model.lists.build(scores, entity, ListRequest(filters={"colour": FeatureFilter(any=("red",))}))


def test_a_list_ends_where_no_item_follows_and_goes_on_behind_its_end(model):
    entity = model.read_support(EntityRequest(events=[Interaction("i1")]))
    scores = model.scores(model.adapt([entity]))[0]
    scores[FIRST + 4 : FIRST + 9] = scores[FIRST + 4]  # ties are ordered by id
    whole, _, end = model.lists.build(scores, entity, ListRequest(100))
    assert end is None and len(whole) == len(model.catalog.names) - 1
    assert model.lists.build(scores, entity, ListRequest(len(whole))) == (whole, [], None), (
        "exactly as many as there are"
    )
    pages, after = [], None
    while True:
        items, _, after = model.lists.build(scores, entity, ListRequest(4), after=after)
        pages += items
        if after is None:
            break
    assert pages == whole


def test_a_list_of_a_batch_is_that_of_the_request_alone(model):
    request = ListRequest(5, exclude=["i9"])
    entities = [
        model.read_support(EntityRequest(events=[Interaction(f"i{k}"), Interaction(f"i{k + 3}")])) for k in range(6)
    ]
    scores = model.scores(model.adapt(entities))
    requests = [model.lists.batch_request(entity, request) for entity in entities]
    for row, top_k, entity in zip(scores, model.lists.top_k_ids(scores, requests), entities, strict=True):
        assert model.lists.build_from_top_k(top_k, entity, request) == model.lists.build(row, entity, request)
    for other in (ListRequest(candidates=["i1"]), ListRequest(filters={"age": FeatureFilter(min=1.0)})):
        assert model.lists.batch_request(entities[0], other) is None


def test_features_of_items_need_a_catalogue_of_the_entity_s_own(model, cities):
    request = ListRequest(candidates=["i1", "new"], item_features={"new": {"lat": 1.0, "lon": 2.0}})
    with pytest.raises(DataError, match="items of their own"):
        model.lists.encode_query(model.read_support(EntityRequest()), request)
    entity, _ = cities.lists.encode_query(cities.read_support(EntityRequest(events=VISITS)), request)
    assert (
        "new" in entity.catalog.ids and "i1" not in entity.catalog.ids and entity.unknown_items == ("i1", "x", "y", "z")
    )


def test_scores_of_all_items_are_not_changed(model):
    entity = model.read_support(EntityRequest(events=[Interaction("i1")]))
    scores = model.scores(model.adapt([entity]))[0]
    before = scores.clone()
    model.lists.build(scores, entity, ListRequest(3, exclude=["i4"]))
    assert torch.equal(scores, before)


def test_a_list_is_the_same_whether_scores_are_copied_or_not(model, monkeypatch):
    scores = torch.randn(len(model.catalog.names) + FIRST, generator=torch.Generator().manual_seed(3)).round(decimals=1)
    scores[:FIRST] = 9.0  # reserved ids are never listed
    monkeypatch.setattr(model.catalog, "hidden_ids", scores.topk(FIRST + 2).indices[FIRST:].numpy())
    met = scores.topk(FIRST + 5).indices[FIRST + 2 :].tolist()
    lists = []
    for cost in (0, len(scores)):  # nothing is copied, everything is
        monkeypatch.setattr(list_builder, "SKIP_COST", cost)
        lists.append(model.lists.top_k(scores, 8, exclude=met))
    assert lists[0] == lists[1] and len(lists[0]) == 8
    ids = set(model.catalog.item_ids([one.item for one in lists[0]]))
    assert not ids & {*met, *model.catalog.hidden_ids.tolist()}
