"""What is stored of an entity, joined with what is told of it just now."""

import pytest

from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.requests.stored_events import StoredInteraction, merge_events
from recsys_meta.inference.requests.support_reader import SupportReader
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders as served


def reader_of(bundle) -> SupportReader:
    return Recommender(bundle).reader


@pytest.fixture(scope="module")
def cities() -> SupportReader:
    return reader_of(choosing.visits())


@pytest.fixture(scope="module")
def ads() -> SupportReader:
    return reader_of(choosing.clicks())


def visit(event_id="stored", item="new1", time=5.0, **words) -> StoredInteraction:
    return StoredInteraction(event_id, item, 1.0, time, words)


@pytest.mark.parametrize(
    ("stored", "counts"),
    [
        (visit(actor="u1", hour=9), 1),
        (visit(actor="u2", hour=9), 2),
        (visit(actor="u1", hour=8), 2),
        (visit(actor="u1"), 2),
        (visit(actor="u1", hour=9, lat=None), 1),
        (visit(actor="u1", hour=9, item="new2"), 2),
        (visit(actor="u1", hour=9, time=6.0), 2),
    ],
)
def test_of_clicks_and_choices_only_the_same_event_counts_once(cities, stored, counts):
    told = EntityRequest(events=[Interaction("new1", None, 5.0, {"hour": 9}, "u1")])
    joined = merge_events(cities, {}, [stored], told)
    assert len(joined.events) == counts
    assert joined.events[-1] == told.events[0]


def test_an_event_that_was_told_without_a_time_swallows_none(cities):
    told = EntityRequest(events=[Interaction("new1", None, None, {}, "u1")])
    assert len(merge_events(cities, {}, [visit(actor="u1")], told).events) == 2


def test_an_event_whose_id_was_told_counts_as_it_was_told(cities):
    told = EntityRequest(events=[Interaction("new2", None, 7.0, {}, "u1")])
    others = [visit("one", actor="u1"), visit("two", actor="u1", time=6.0)]
    joined = merge_events(cities, {}, others, told, {"one"})
    assert [(e.item, e.time) for e in joined.events] == [("new1", 6.0), ("new2", 7.0)]


def test_stored_features_that_the_model_cannot_read_are_left_out_and_told_ones_win(ads):
    assert merge_events(ads, {"age": 30, "shoe size": 44}, [], EntityRequest()).features == {"age": 30}
    for unreadable in ("old", [1, 2], 1e39, float("nan"), {"years": 3}):
        assert merge_events(ads, {"age": unreadable}, [], EntityRequest()).features == {}, unreadable
    assert merge_events(ads, {"age": "30"}, [], EntityRequest()).features == {"age": "30"}
    assert merge_events(ads, {"age": 30}, [], EntityRequest({"age": 60})).features == {"age": 60}
    strange = EntityRequest({"shoe size": 44})
    assert merge_events(ads, {"age": 30}, [], strange).features == {"age": 30, "shoe size": 44}, (
        "the model refuses it later"
    )


def test_stored_events_whose_label_is_none_of_the_models_are_left_out():
    stars = served.liking().reader
    stored = [StoredInteraction(f"e{label}", "i1", label, 1.0) for label in (0.9, 1.0, 5.0, 5.1)]
    assert [e.label for e in merge_events(stars, {}, stored, EntityRequest()).events] == [1.0, 5.0]
    clicks = reader_of(choosing.clicks())
    stored = [StoredInteraction(f"e{label}", "p1", label, 1.0) for label in (0.0, 0.5, 1.0)]
    assert [e.label for e in merge_events(clicks, {}, stored, EntityRequest()).events] == [0.0, 1.0]


def test_words_of_a_stored_event_that_the_model_cannot_read_are_left_out(ads):
    words = {"position": 2, "device": "mobile", "weather": "rain"}
    stored = [
        StoredInteraction("e1", "p1", 1.0, 1.0, words),
        StoredInteraction("e2", "p1", 1.0, 2.0, {"position": "top"}),
    ]
    joined = merge_events(ads, {}, stored, EntityRequest())
    assert [e.context for e in joined.events] == [{"position": 2, "device": "mobile"}, {}]


def test_where_nothing_is_stored_a_newcomer_is_what_is_told(ads):
    told = EntityRequest({"age": 30}, [Interaction("p1", 1.0, 5.0)])
    assert merge_events(ads, {}, [], told) is told
