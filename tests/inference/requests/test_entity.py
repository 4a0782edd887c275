"""Clicks and choices: every event is a row, with its context and what its actor did before."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.episodes.event_index import HISTORY
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.inference.requests.support_reader import MAX_CHOICES, MAX_SUPPORT
from tests.fixtures import stub_predictors as choosing


@pytest.fixture(scope="module")
def clicks():
    return Recommender(choosing.clicks())


@pytest.fixture(scope="module")
def visits():
    return Recommender(choosing.visits())


def shown(item, label, time=None, **context):
    return Interaction(item, label, time, context)


def went(actor, item, time=None, **context):
    return Interaction(item, None, time, context, actor)


def test_every_click_is_a_row_with_its_context(clicks):
    known = clicks.read_support(
        EntityRequest(
            events=[shown("p1", 1.0, 2, position=3), shown("p1", 0.0, 1, device="desktop"), shown("new", 0.0, 3)]
        )
    )
    assert known.items == (3, 3, 1) and known.labels == (0.0, 1.0, 0.0)
    assert known.unknown_items == ("new",) and known.seen_items == {3}
    rows = clicks.encoder.support([known, clicks.read_support(EntityRequest())]).rows
    assert rows.item.tolist() == [[3, 3, 1], [0, 0, 0]] and rows.mask.tolist() == [[True] * 3, [False] * 3]
    assert rows.context["position"].nan_to_num(-1).tolist() == [[-1, 3, -1], [-1, -1, -1]]
    assert rows.context["device"].tolist() == [[3, 0, 0], [0, 0, 0]]
    assert rows.history is None


@given(order=st.permutations(range(6)))
def test_the_order_in_which_events_are_told_does_not_matter(clicks, visits, order):
    ads = [shown(f"p{n % 3}", n % 2, n // 3, position=n % 2) for n in range(6)]
    steps = [went(f"a{n % 2}", f"x{n % 3}", n // 2, lat=40 + n % 3, lon=5, hour=n) for n in range(6)]
    for recommender, events in ((clicks, ads), (visits, steps)):
        known, mixed = (recommender.read_support(EntityRequest(events=e)) for e in (events, [events[i] for i in order]))
        assert known == mixed and known.digest == mixed.digest


def test_only_the_newest_rows_count(clicks, visits):
    many = [shown(f"p{n % 10}", n % 2, n) for n in range(MAX_SUPPORT + 7)]
    known = clicks.read_support(EntityRequest(events=random.Random(0).sample(many, len(many))))
    assert len(known.items) == MAX_SUPPORT and known.labels[:2] == (1.0, 0.0)
    steps = [went("a", f"x{n}", n) for n in range(MAX_CHOICES + 3)]
    known = visits.read_support(EntityRequest(events=steps))
    assert len(known.items) == MAX_CHOICES and len(known.catalog.names) == MAX_CHOICES + 3
    first = known.catalog.names[known.items[0] - 2], [known.catalog.names[i - 2] for i in known.history[0]]
    assert first == ("x3", ["x2", "x1", "x0"])


def test_a_history_is_what_its_actor_did_before_the_last_one_first(visits):
    steps = [went("a", "x", 1), went("b", "y", 2), went("a", "y", 3), went(None, "x", 4), went("a", "x", 5)]
    known = visits.read_support(EntityRequest(events=steps))
    x, y = known.catalog.ids["x"], known.catalog.ids["y"]
    assert known.history == ((), (), (x,), (), (y, x))
    assert known.actor_items == {"a": (x, y, x), "b": (y,)}
    rows = visits.encoder.support([known]).rows
    assert rows.history[0, 4, :3].tolist() == [y, x, 0] and rows.history.shape == (1, 5, HISTORY)


def test_a_catalogue_is_what_was_met_with_the_last_word_on_each_item(visits):
    steps = [went("a", "k1", 1), went("a", "x", 2, lat=41.0, lon=-70.0), went("a", "x", 3, lat=41.5, category="bar")]
    known = visits.read_support(EntityRequest(events=[*steps, went("a", "bare", 4)]))
    own = visits.encoder.support([known, visits.read_support(EntityRequest())]).catalogue
    assert known.catalog.names == ("bare", "k1", "x") and known.unknown_items == ("bare",)
    assert own.item.tolist() == [[0, 0, 1, 3, 1], [0] * 5]
    assert own.mask.tolist() == [[False, False, True, True, True], [False] * 5]
    assert own.features["lat"][0, 3:].tolist() == pytest.approx([40.01, 41.5]), "the model knows k1"
    assert own.features["lon"][0, 3:].tolist() == [-70, -70] and own.features["lat"][0, 2].isnan()
    assert own.features["category"][0, :, 0].tolist() == [0, 0, 0, 3, 3]
    assert "city" not in own.features


def test_what_is_told_in_a_question_extends_the_catalogue_and_moves_no_id(visits):
    known = visits.read_support(EntityRequest(events=[went("a", "x", 1, lat=1, lon=1)]))
    same, _ = visits.queries.encode(known, QueryContext(actor="a"), {"x": {}})
    assert same.catalog is known.catalog and same.digest == known.digest
    more, question = visits.queries.encode(known, QueryContext(at=(2.0, 3.0)), {"w": {"lat": 5}, "who": {}, "k0": {}})
    assert more.catalog.names == ("x", "", "k0", "w") and more.unknown_items == ("who",)
    assert question.hidden_items == {3} and question.catalog_size == 6
    assert more.digest != known.digest
    told, _ = visits.queries.encode(known, QueryContext(), {"x": {"lat": 9}})
    assert told.catalog.features == ({"lat": 9, "lon": 1},) and told.digest != known.digest


def test_choices_revisit_and_stay_near(visits):
    steps = [
        went("ann", "home", 1, lat=40.0, lon=-70.0),
        went("bob", "far", 2, lat=41.0, lon=-70.0),
        went("bob", "near", 3, lat=40.01, lon=-70.0, category="cafe"),
    ]

    def best(**moment):
        answer = recommend(visits, EntityRequest(events=steps), 3, context=QueryContext(**moment))
        return [s.item for s in answer.items]

    assert best(actor="ann")[0] == "home" and best(actor="bob")[0] == "near"
    assert best(at=(41.0, -70.0))[0] == "far" and best(at=(40.02, -70.0))[0] == "near"
    assert best(history=["far"])[0] == "far"
    assert best()[0] == "near" and set(best()) == {"home", "far", "near"}
    assert best(at=(41.0, -70.0), context={"hour": 12}) == best(at=(41.0, -70.0))
    alone = recommend(visits, EntityRequest(events=steps), 9).items
    assert [s.item for s in alone] == best(), "nothing known of the actor"


def test_before_the_first_event_candidates_are_ranked(visits):
    answer = recommend(visits, EntityRequest(), 5, ["k0", "k1", "none"], QueryContext(at=(40.011, -70.0)))
    assert [s.item for s in answer.items] == ["k1", "k0"]
    assert (answer.served_by, answer.unknown_items) == ("prior", ("none",))


def test_a_moment_of_clicks_ranks_every_item_in_its_context(clicks):
    newcomer = EntityRequest(events=[shown("p1", 1.0, 1, position=0)])
    plain, far = (recommend(clicks, newcomer, 9, context=QueryContext(context=c)).items for c in ({}, {"position": 4}))
    assert [s.item for s in plain] == [s.item for s in far]
    assert plain[0].score - far[0].score == pytest.approx(2.0, abs=1e-5)
    state = clicks.adapt([clicks.read_support(newcomer)])
    rows = clicks.queries.rows(clicks.read_support(newcomer), [(far[0].item, {"position": 4})])
    assert float(clicks.score_rows(state, rows)) == far[0].score


def test_only_an_unsure_predictor_has_a_spread(clicks):
    known = clicks.read_support(EntityRequest())
    rows, state = clicks.queries.rows(known, [("p1", {})]), clicks.adapt([known])
    assert float(clicks.score_std(state, rows)) == pytest.approx(math.sqrt(1.25))
    assert Recommender(choosing.clicks(choosing.Blind)).score_std(state, rows) is None


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (shown("p1", 0.5), "0.5 is not a click"),
        (shown("p1", None), "a label is needed"),
        (shown("p1", 1.0, weather="wet"), r"no such context field.*device, position"),
        (shown("p1", 1.0, actor="me"), "no such context field"),
        (shown("p1", 1.0, position="first"), "is not a finite number"),
    ],
)
def test_wrong_clicks_are_refused(clicks, event, says):
    with pytest.raises(DataError, match=says):
        clicks.encoder.support([clicks.read_support(EntityRequest(events=[event]))])


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (went("a", "x", lat=91), "from -90 to 90"),
        (went("a", "x", lon=-200.5), "from -180 to 180"),
        (went("a", "x", city="old"), r"no such context field.*actor, category, hour, lat, lon"),
        (went("a", "x", lat="north"), "is not a finite number"),
    ],
)
def test_wrong_choices_are_refused(visits, event, says):
    with pytest.raises(DataError, match=says):
        visits.encoder.support([visits.read_support(EntityRequest(events=[event]))])
    with pytest.raises(DataError, match=says):
        visits.queries.check_context(event.context)


def test_a_predictor_that_cannot_choose_is_refused():
    with pytest.raises(ConfigError, match=r"'choice'.*'test-dumb' cannot choose"):
        Recommender(choosing.visits(choosing.Dumb))


def test_questions_that_a_model_has_no_words_for_are_refused(clicks, visits):
    known = clicks.read_support(EntityRequest())
    for moment, says in (
        (QueryContext(actor="me"), "no actors"),
        (QueryContext(history=["p1"]), "no actors"),
        (QueryContext(at=(1.0, 2.0)), "nothing of places"),
        (QueryContext(context={"hour": 3}), r"no such context field.*device, position"),
    ):
        with pytest.raises(DataError, match=says):
            clicks.queries.encode(known, moment)
    with pytest.raises(DataError, match=r"no such item feature.*category, lat, lon"):
        visits.queries.encode(visits.read_support(EntityRequest()), QueryContext(), {"x": {"stars": 3}})


def test_a_model_that_fails_leaves_what_was_met_most(clicks, visits):
    known = visits.read_support(EntityRequest(events=[went("a", "x", 1), went("b", "y", 2), went("a", "y", 3)]))
    scores = visits.catalog.fallback_scores(known)
    assert [s.item for s in visits.lists.top_k(scores, 5, entity_catalog=known.catalog)] == ["y", "x"]
    assert clicks.catalog.fallback_scores(clicks.read_support(EntityRequest())) is clicks.catalog.popularity_scores
