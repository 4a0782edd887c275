"""Both lists are those of a recommender, and each item's other rank is where it stands in the other one."""

import pytest

from recsys_meta.inference.insight.list_comparison import compare_lists
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from tests.fixtures import stub_predictors as stubs
from tests.fixtures import trained_recommenders as served

EVENTS = [Interaction("i4"), Interaction("i9"), Interaction("i2", 0.0)]


def names(items):
    return [one.item for one in items]


def test_of_a_ranking_both_lists_hold_what_was_not_met_and_say_where_it_stands_in_the_other():
    model = served.ranking()
    whole = compare_lists(model, EntityRequest(events=EVENTS), ListRequest(1000), explain=True)
    adapted, unadapted = names(whole.adapted), names(whole.unadapted)
    assert adapted == names(recommend(model, EntityRequest(events=EVENTS), 1000).items)
    met = {"i4", "i9", "i2"}
    assert unadapted == [i for i in names(recommend(model, EntityRequest(), 1000).items) if i not in met]
    assert adapted != unadapted and whole.support_size == 3
    assert [unadapted.index(one.item) + 1 for one in whole.adapted] == [one.other_rank for one in whole.adapted]
    assert [adapted.index(one.item) + 1 for one in whole.unadapted] == [one.other_rank for one in whole.unadapted]
    assert all(one.value is None for one in whole.adapted)
    assert {a.item for one in whole.adapted for a in one.explanation.attributions} <= met
    assert any(one.explanation.attributions for one in whole.adapted)
    short = compare_lists(model, EntityRequest(events=EVENTS), ListRequest(5))
    assert names(short.adapted) == adapted[:5]
    assert [one.other_rank for one in short.adapted] == [one.other_rank for one in whole.adapted[:5]]


def test_without_events_the_lists_are_one():
    same = compare_lists(served.ranking(), EntityRequest({"age": 40}), ListRequest(7), explain=True)
    assert same.adapted == same.unadapted and same.support_size == 0
    assert [one.other_rank for one in same.adapted] == list(range(1, 8))


def test_of_clicks_the_values_are_probabilities_in_the_context():
    model = Recommender(stubs.clicks())
    events = [Interaction("p1", 1.0, context={"position": 1}), Interaction("p2", 1.0, context={"position": 1})]

    def value(position):
        request = ListRequest(3, context=QueryContext({"position": position}))
        both = compare_lists(model, EntityRequest(events=events), request)
        assert all(0 < one.value < 1 for one in (*both.adapted, *both.unadapted))
        return both.adapted[0].value, both.unadapted[0].value

    assert value(1)[0] > value(1)[1]
    assert value(1)[0] > value(5)[0]


def test_of_ratings_the_values_are_ratings():
    both = compare_lists(served.rating(), EntityRequest(events=[Interaction("i3", 9.0)]), ListRequest(4))
    scores = recommend(served.rating(), EntityRequest(events=[Interaction("i3", 9.0)]), 4).items
    assert [one.value for one in both.adapted] == pytest.approx([one.score for one in scores])


def test_of_choices_the_values_are_shares_of_the_candidates():
    model, places = Recommender(stubs.visits()), [f"k{n}" for n in range(5)]
    events = [Interaction("k3", context={"hour": 9}, actor="you")] * 3
    request = ListRequest(5, places, context=QueryContext({"hour": 12}, actor="you"))
    both = compare_lists(model, EntityRequest(events=events), request, explain=True)
    assert sorted(names(both.adapted)) == sorted(names(both.unadapted)) == places
    assert both.adapted[0].item == "k3" and both.adapted[0].other_rank > 1
    for side in (both.adapted, both.unadapted):
        assert sum(one.value for one in side) == pytest.approx(1)


def test_nothing_to_list_is_an_empty_list():
    empty = compare_lists(Recommender(stubs.visits()), EntityRequest(), ListRequest(5), explain=True)
    assert (empty.adapted, empty.unadapted) == ([], [])
