"""Cities over HTTP: the next place of an actor, in a city opened last week."""

import re
from dataclasses import replace

import pytest

from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.store.database import migrate
from tests.api import bundles
from tests.api.servers import serving, settings, wait
from tests.fixtures import stub_predictors as choosing

CAFES = ("cafe", "bar", "park")


def checkins(count=50, city=None):
    """Visits of five actors to twelve places that no model has met, along a street."""
    made = []
    for n in range(count):
        place = (n * n + n // 7) % 12
        words = {
            "actor": f"u{n % 5}",
            "lat": 50 + place / 100,
            "lon": 8.0,
            "category": CAFES[place % 3],
            "hour": n % 24,
        }
        event = {"item": f"new{place}", "time": 1000.0 + n, "context": words}
        made.append(event if city is None else {"kind": "city", "entity": city, **event})
    return made


@pytest.fixture(scope="module")
def located(tmp_path_factory, predictors):
    """A server whose cities themselves have coordinates."""
    home = tmp_path_factory.mktemp("located")
    url = f"sqlite:///{home}/located.db"
    migrate.upgrade_database(url)
    made = choosing.visits()
    point = tuple(f for f in made.schema.item_features if f.name in ("lat", "lon"))
    schema = made.schema.model_copy(update={"entity_features": point})
    bundles.publish(url, home / "models", "cities", replace(made, schema=schema))
    with serving(settings(home, url)) as server:
        yield server


def ask(server, **body):
    return server.client.post("/v1/recommendations", json={"model": "cities", **body})


def places(response):
    assert response.status_code == 200, response.text
    return [row["item"] for row in response.json()["items"]]


def test_a_new_city_with_fifty_events_gets_recommendations(kinds, new_id):
    sent = kinds.client.post("/v1/events", json={"events": checkins(50, new_id)}).json()
    assert sent["accepted"] == 50 and not sent["refused"]
    entity, moment = {"kind": "city", "id": new_id}, {"actor": "u3", "context": {"hour": 12}}
    first = ask(kinds, entity=entity, moment=moment, n=5)
    found = first.json()
    assert (found["served_by"], found["support_size"], found["unknown_items"]) == ("adapted", 50, [])
    assert len(set(places(first))) == 5 and set(places(first)) <= {f"new{n}" for n in range(12)}
    events = [
        Interaction(
            e["item"],
            None,
            e["time"],
            {k: v for k, v in e["context"].items() if k != "actor"},
            e["context"]["actor"],
        )
        for e in checkins()
    ]
    offline = recommend(
        Recommender(choosing.visits()), EntityRequest(events=events), 5, context=QueryContext({"hour": 12}, "u3")
    )
    assert [(r["item"], r["score"]) for r in found["items"]] == [(s.item, s.score) for s in offline.items]
    again = ask(kinds, entity=entity, moment=moment, n=5)
    assert (again.json()["served_by"], again.headers["x-cache"]) == ("cache", "process")
    other = ask(kinds, entity=entity, moment={"actor": "u1"}, n=5)
    assert other.json()["served_by"] == "cache" and places(other) != places(first), "one state, another actor"
    wait(lambda: not kinds.container.cache_writer.pending)
    kinds.container.memory.close()
    assert ask(kinds, entity=entity, moment=moment, n=5).headers["x-cache"] == "redis"


def test_a_citys_events_change_its_lists_as_they_come_in(kinds, new_id):
    entity, sizes = {"kind": "city", "id": new_id}, []
    for start in (0, 10, 20):
        kinds.client.post("/v1/events", json={"events": checkins(30, new_id)[start : start + 10]})
        sizes.append(ask(kinds, entity=entity).json()["support_size"])
    assert sizes == [10, 20, 30]


def test_deletion_leaves_nothing(kinds, new_id, keys_of):
    kinds.client.post("/v1/events", json={"events": checkins(20, new_id)})
    entity = {"kind": "city", "id": new_id}
    assert len(places(ask(kinds, entity=entity, moment={"actor": "u1"}))) > 3
    stored = kinds.client.get(f"/v1/entities/city/{new_id}").json()
    assert stored["events_total"] == 20 and stored["events"][3]["context"] == checkins()[3]["context"]
    wait(lambda: not kinds.container.cache_writer.pending)
    receipt = kinds.client.delete(f"/v1/entities/city/{new_id}").json()
    assert receipt["events"] == 20 and receipt["cached"] > 0
    assert not keys_of()
    assert kinds.client.get(f"/v1/entities/city/{new_id}").status_code == 404
    empty = ask(kinds, entity=entity, moment={"actor": "u1"})
    assert places(empty) == [] and empty.json()["served_by"] == "prior"


def test_adapt_measures_a_city(plain):
    found = plain.client.post("/v1/adapt", json={"model": "cities", "events": checkins(20)}).json()
    assert found["support_size"] == 20 and found["loss_before"] > found["loss_after"] > 0
    assert plain.client.post("/v1/adapt", json={"model": "cities"}).json()["support_size"] == 0


def test_wrong_features_are_refused_whether_or_not_there_is_an_item(located):
    """Also where the list is empty anyway: what is wrong today must not begin to fail with the first event."""
    for events in ([], checkins(1)):
        for features, says in (({"nope": 1}, "no such feature"), ({"lat": "x"}, "not a finite number")):
            found = ask(located, entity={"kind": "city", "features": features}, events=events)
            assert found.status_code == 422 and says in found.json()["detail"]
        assert ask(located, entity={"kind": "city", "features": {"lat": 50.5}}, events=events).status_code == 200


@pytest.mark.parametrize("features", [{"lat": 91}, {"lat": "-90.5"}, {"lat": 3, "lon": 180.5}])
def test_a_city_is_not_put_beyond_the_globe(located, new_id, features):
    path = f"/v1/entities/city/{new_id}"
    refused = located.client.put(path, json={"features": features})
    assert refused.status_code == 422 and "no number of degrees" in refused.json()["detail"]
    assert located.client.get(path).status_code == 404
    for events in ([], checkins(1)):
        told = ask(located, entity={"kind": "city", "features": features}, events=events)
        assert told.status_code == 422 and "no number of degrees" in told.json()["detail"]
    assert located.client.put(path, json={"features": {"lat": -90, "lon": 180}}).status_code == 200


def test_new_places_can_be_candidates(plain):
    new = [
        {"item": "opening", "features": {"lat": 50.021, "lon": 8.0, "category": "cafe"}},
        {"item": "remote", "features": {"lat": 51.0, "lon": 8.0}},
        "new2",
        "k3",
        "nowhere",
    ]
    here = {"lat": 50.0205, "lon": 8.0}
    found = ask(plain, events=checkins(12), candidates=new, moment={**here, "context": {"hour": 12}})
    assert set(places(found)) == {"opening", "remote", "new2", "k3"} and found.json()["unknown_items"] == ["nowhere"]
    assert places(found).index("opening") < places(found).index("remote") < places(found).index("k3")
    alone = ask(plain, candidates=new, moment=here)
    assert alone.json()["served_by"] == "prior" and places(alone)[0] == "opening"
    assert places(ask(plain, candidates=new[:1], exclude=["opening"])) == []
    assert places(ask(plain)) == []


def test_places_visited_may_come_again_unless_told_otherwise(plain):
    events = checkins(30)
    mine = {e["item"] for e in events if e["context"]["actor"] == "u2"}
    every = {e["item"] for e in events}
    free = places(ask(plain, events=events, moment={"actor": "u2"}, n=50))
    assert set(free) == every
    fresh = places(ask(plain, events=events, moment={"actor": "u2"}, n=50, include_seen=False))
    assert set(fresh) == every - mine and fresh == [p for p in free if p not in mine]
    assert places(ask(plain, events=events, n=50, include_seen=False)) == []
    assert len(places(ask(plain, events=events, n=50, exclude=["new0", "elsewhere"]))) == len(every) - 1


def test_a_history_can_be_told(plain):
    events = checkins(30)
    last = places(ask(plain, events=events, moment={"history": ["new1", "new4"]}))
    assert last[0] == "new4"
    far = {"item": "far", "features": {"lat": 50.11, "lon": 8.0}}
    assert places(ask(plain, events=events, moment={"history": [far]}))[0] == "far", "it joins the catalogue"
    found = ask(plain, events=events, moment={"history": ["nobody knows"]})
    assert found.json()["unknown_items"] == ["nobody knows"]


def test_a_place_without_coordinates_is_served_all_the_same(plain):
    events = [*checkins(10), {"item": "bare", "context": {"actor": "u0"}}, {"item": "alone"}]
    found = ask(plain, events=events, n=50, moment={"actor": "u0"})
    assert {"bare", "alone"} <= set(places(found)) and found.json()["unknown_items"] == ["alone", "bare"]


def test_the_order_of_events_does_not_matter(plain):
    events = checkins(25)
    one, other = (ask(plain, events=e, moment={"actor": "u1"}) for e in (events, events[::-1]))
    assert one.json()["items"] == other.json()["items"]
    assert other.json()["served_by"] == "cache"


def test_scores_of_places_are_those_of_the_list(plain):
    listed = ask(plain, events=checkins(20), n=50).json()["items"]
    body = {"model": "cities", "events": checkins(20), "items": ["new1", "new4", "elsewhere"]}
    found = plain.client.post("/v1/score", json=body).json()["scores"]
    by_name = {row["item"]: row["score"] for row in listed}
    assert [s["score"] for s in found] == [by_name["new1"], by_name["new4"], None]
    body = {**body, "items": ["elsewhere"], "rows": [{"item": "nowhere", "context": {"hour": 12}}, {"item": "new1"}]}
    found = plain.client.post("/v1/score", json=body).json()
    assert [s["score"] is None for s in found["scores"]] == [True, True, False]
    assert found["unknown_items"] == ["elsewhere", "nowhere"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"moment": {"lat": 91.0, "lon": 0.0}}, "moment/lat.*less than or equal to 90"),
        ({"moment": {"lat": 50.0}}, "lat and lon go together"),
        ({"moment": {"context": {"lat": 5}}}, "'lat'.*no such context field.*hour"),
        ({"moment": {"actor": ""}}, "moment/actor"),
        ({"events": [{"item": "x", "context": {"lat": -90.5}}]}, "'lat'.*from -90 to 90"),
        ({"events": [{"item": "x", "context": {"mood": "good"}}]}, "'mood'.*actor, category, hour, lat, lon"),
        ({"events": [{"context": {"lat": 5}}]}, "events/0/item: Field required"),
        (
            {"candidates": [{"item": "x", "features": {"stars": 5}}]},
            "'stars'.*no such item feature.*category, lat, lon",
        ),
        ({"candidates": [{"item": "x", "features": {"lon": 500}}]}, "'lon'.*from -180 to 180"),
        ({"candidates": [{"features": {"lon": 5}}]}, "body/candidates: 0: item: Field required"),
        ({"candidates": [{"item": "x", "features": {"lat": "north"}}]}, "'north' is not a finite number"),
    ],
)
def test_wrong_questions_are_refused(plain, body, says):
    response = ask(plain, **body)
    assert response.status_code == 422
    assert re.search(says, response.json()["detail"]), response.json()["detail"]


def test_a_moment_is_refused_where_the_model_has_no_words_for_it(server):
    for moment, says in (({"actor": "me"}, "no actors"), ({"context": {"hour": 3}}, "no such context field")):
        response = server.recommend("i3", moment=moment)
        assert response.status_code == 422 and says in response.json()["detail"]
    told = server.recommend("i3", candidates=[{"item": "i4", "features": {"length": 3}}])
    assert told.status_code == 422 and "items of their own" in told.json()["detail"]
    known = server.recommend("i3", candidates=[{"item": "i4"}, "i5"])
    assert {row["item"] for row in known.json()["items"]} == {"i4", "i5"}


def test_wrong_events_are_refused_each_with_its_reason(plain):
    good = {"kind": "city", "entity": "Nowhere", "item": "x", "time": 9}
    words = [{"lat": 91}, {"mood": "good"}, {"lat": "north"}, {"lon": [3]}]
    found = plain.client.post("/v1/events", json={"events": [{**good, "context": w} for w in words]}).json()
    reasons = [r["reason"] for r in found["refused"]]
    assert found["accepted"] == 0 and len(reasons) == 4
    assert "from -90 to 90" in reasons[0] and "known: actor, category, hour, lat, lon" in reasons[1]
    assert "not a finite number" in reasons[2] and "context" in reasons[3]


def test_cities_cannot_be_ranked_for_a_row(plain):
    body = {"model": "cities", "entities": [{"id": "a"}], "row": {"item": "x"}}
    response = plain.client.post("/v1/score", json=body)
    assert response.status_code == 422 and "items of their own" in response.json()["detail"]


def test_a_predictor_that_cannot_choose_is_named_and_not_served(capsys, home, migrated_sqlite, predictors):
    bundles.publish(migrated_sqlite, home / "models", "cities", choosing.visits(choosing.Dumb))
    with serving(settings(home, migrated_sqlite)) as server:
        assert server.client.get("/v1/models").json()["items"][0]["problem"]
        assert "'test-dumb' cannot choose" in capsys.readouterr().out
        assert ask(server).status_code == 503


def test_a_broken_model_lists_what_was_met_most(home, migrated_sqlite, predictors):
    bundle = choosing.visits()
    broken = type(bundle)(**{**vars(bundle), "params": {k: v * 0 for k, v in bundle.params.items() if "lat" not in k}})
    bundles.publish(migrated_sqlite, home / "models", "cities", broken)
    events = [{"item": place, "context": {"actor": "a"}} for place in ("x", "y", "y")]
    with serving(settings(home, migrated_sqlite)) as server:
        sick = server.container.registry.live["cities"].recommender.bundle.predictor
        type(sick).adapt, kept = (lambda *_: 1 / 0), type(sick).adapt
        try:
            found = ask(server, events=events)
        finally:
            type(sick).adapt = kept
        assert places(found) == ["y", "x"]
        assert (found.json()["served_by"], found.json()["missing"]) == ("popular", ["model"])


def test_a_city_with_one_actor_and_one_event_is_a_city(plain):
    found = ask(plain, events=checkins(1), moment={"actor": "u0"})
    assert (places(found), found.json()["served_by"]) == (["new0"], "adapted")
