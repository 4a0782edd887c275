"""Ads over HTTP: click probabilities in a context, for one newcomer and among several."""

import math
import re
from itertools import pairwise

import pytest

from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.wire.requests import AdaptRequest
from tests.api import bundles
from tests.api.servers import serving, settings, wait
from tests.fixtures import stub_predictors as choosing

SHOWN = [{"item": "p1", "label": 0, "context": {"position": 1}}, {"item": "p1", "label": 1, "context": {"position": 3}}]


def score(server, **body):
    return server.client.post("/v1/score", json={"model": "ads", **body})


def probability(server, **body):
    response = score(server, rows=[{"item": "p3", "context": {"position": 2, "device": "mobile"}}], **body)
    assert response.status_code == 200, response.text
    return response.json()["scores"][0]["probability"]


def test_the_probabilities_of_a_new_ad_move_with_each_event(kinds, new_id):
    entity, seen = {"kind": "ad", "id": new_id}, []
    for n, label in enumerate([1, 1, 0, 1, 0]):
        seen.append(probability(kinds, entity=entity))
        event = {"kind": "ad", "entity": new_id, "item": "p3", "label": label, "context": {"position": 0}, "time": n}
        assert kinds.client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    seen.append(probability(kinds, entity=entity))
    moves = [b - a for a, b in pairwise(seen)]
    assert [m > 0 for m in moves] == [True, True, False, True, False]
    assert all(0 < p < 1 for p in seen)


def test_rows_are_scored_as_offline_and_with_an_interval(plain):
    rows = [
        {"item": "p2", "context": {"position": 0}},
        {"item": "p2", "context": {"position": 5}},
        {"item": "p2"},
        {"item": "stranger", "context": {"device": "mobile"}},
    ]
    found = score(plain, events=SHOWN, rows=rows, items=["p4", "nobody"]).json()
    recommender = Recommender(choosing.clicks())
    events = [Interaction(e["item"], e["label"], None, e["context"]) for e in SHOWN]
    known = recommender.read_support(EntityRequest(events=events))
    state = recommender.adapt([known])
    asked = recommender.queries.rows(known, [("p4", {}), *((r["item"], r.get("context", {})) for r in rows)])
    logits, spread = recommender.score_rows(state, asked)[0].tolist(), float(recommender.score_std(state, asked)[0, 0])
    got = [s for s in found["scores"] if s["item"] != "nobody"]
    assert [s["item"] for s in got] == ["p4", *(r["item"] for r in rows)]
    assert [s["score"] for s in got] == pytest.approx(logits)
    for s, logit in zip(got, logits, strict=True):
        assert s["probability"] == pytest.approx(1 / (1 + math.exp(-logit)))
        assert s["low"] == pytest.approx(1 / (1 + math.exp(1.96 * spread - logit)))
        assert s["high"] == pytest.approx(1 / (1 + math.exp(-1.96 * spread - logit)))
    assert found["scores"][1] == {"item": "nobody", "score": None}
    assert (found["objective"], found["support_size"]) == ("click", 2)
    assert found["unknown_items"] == ["nobody", "stranger"]


def test_an_unknown_item_is_scored_by_its_context_only(plain):
    found = score(plain, items=["nobody"]).json()
    assert (found["scores"], found["unknown_items"]) == ([{"item": "nobody", "score": None}], ["nobody"])
    found = score(plain, rows=[{"item": "nobody", "context": {"position": 1}}]).json()
    assert (found["scores"][0]["score"] is None, found["unknown_items"]) == (False, ["nobody"])
    found = score(plain, entities=[{"id": "a"}], row={"item": "nobody"}).json()
    assert (found["entities"][0]["score"] is None, found["unknown_items"]) == (False, ["nobody"])


def test_an_event_that_the_store_refuses_is_one_row(kinds, new_id):
    events = [*SHOWN, {"item": "p2", "label": 1, "time": 9e9, "context": {"position": 2}}]
    body = {"model": "ads", "entity": {"id": new_id}, "events": events, "persist": True}
    found = kinds.client.post("/v1/adapt", json=body).json()
    assert (found["support_size"], found["persisted"]["accepted"]) == (3, 2)
    assert [r["index"] for r in found["persisted"]["refused"]] == [2]


def test_without_a_spread_there_is_no_interval(home, migrated_sqlite, predictors):
    bundles.publish(migrated_sqlite, home / "models", "ads", choosing.clicks(choosing.Blind))
    with serving(settings(home, migrated_sqlite)) as server:
        assert set(score(server, items=["p1"]).json()["scores"][0]) == {"item", "score", "probability"}


def test_a_trained_learner_serves_clicks(home, migrated_sqlite):
    bundles.publish(migrated_sqlite, home / "models", "ads", bundles.trained("click"))
    with serving(settings(home, migrated_sqlite)) as server:

        def ask(*labels):
            events = [{"item": f"i{n}", "label": label} for n, label in enumerate(labels)]
            return score(server, events=events, items=["i7"]).json()["scores"][0]["probability"]

        assert ask(1, 1, 1) > ask() > ask(0, 0, 0)


def test_ratings_have_an_interval_that_narrows_with_the_events(home, migrated_sqlite):
    bundle = bundles.trained("rating", name="gaussian-posterior")
    bundles.publish(migrated_sqlite, home / "models", "ads", bundle)
    recommender = Recommender(bundle)
    with serving(settings(home, migrated_sqlite)) as server:
        widths = []
        for count in (0, 3, 12):
            events = [{"item": f"i{n}", "label": 4.0} for n in range(count)]
            body = score(server, events=events, items=["i20", "nobody"], rows=[{"item": "i20"}]).json()
            support = recommender.read_support(
                EntityRequest(events=[Interaction(e["item"], e["label"]) for e in events])
            )
            state, row = recommender.adapt([support]), recommender.queries.rows(support, [("i20", {})])
            mean, deviation = float(recommender.score_rows(state, row)), float(recommender.score_std(state, row))
            known, unknown, as_row = body["scores"]
            assert known == as_row and unknown == {"item": "nobody", "score": None}
            assert known["score"] == pytest.approx(mean, abs=1e-4) and "probability" not in known
            assert (known["low"], known["high"]) == pytest.approx((mean - 1.96 * deviation, mean + 1.96 * deviation))
            widths.append(known["high"] - known["low"])
        assert widths == sorted(widths, reverse=True) and widths[2] < 0.8 * widths[0]
        ranked = score(server, entities=[{"id": "ann"}, {"events": events}], row={"item": "i20"}, explore={}).json()
        assert sorted(e["high"] - e["low"] for e in ranked["entities"]) == pytest.approx([widths[2], widths[0]])
        assert ranked["explored"]["propensity"] > 0


def test_the_second_call_comes_from_a_cache(kinds, new_id):
    body = {"entity": {"id": new_id}, "events": SHOWN, "rows": [{"item": "p1"}]}
    first, second = (score(kinds, **body) for _ in range(2))
    assert (first.json()["served_by"], first.headers["x-cache"]) == ("adapted", "miss")
    assert (second.json()["served_by"], second.headers["x-cache"]) == ("cache", "process")
    wait(lambda: not kinds.container.cache_writer.pending)
    kinds.container.memory.close()
    third = score(kinds, **body)
    assert (third.json()["served_by"], third.headers["x-cache"]) == ("cache", "redis")
    assert first.json()["scores"] == second.json()["scores"] == third.json()["scores"]


def test_ads_are_ranked_for_a_context(kinds, new_id):
    good = [{"item": "p1", "label": 1, "time": n} for n in range(4)]
    stored = [{"kind": "ad", "entity": new_id, "item": "p1", "label": 0, "time": n} for n in range(4)]
    assert kinds.client.post("/v1/events", json={"events": stored}).json()["accepted"] == 4
    body = {
        "entities": [{"id": new_id}, {"events": good}, {"features": {"age": 80}}, {"id": f"{new_id} other"}],
        "row": {"item": "p5", "context": {"position": 2}},
    }
    first = score(kinds, **body)
    found = first.json()
    assert [e["index"] for e in found["entities"]] == [1, 2, 3, 0] and found["support_size"] == 8
    assert [e["id"] for e in found["entities"]] == [None, None, f"{new_id} other", new_id]
    assert [e["rank"] for e in found["entities"]] == [1, 2, 3, 4]
    assert [e["served_by"] for e in found["entities"]] == ["adapted", "prior", "prior", "adapted"]
    assert (found["served_by"], first.headers["x-cache"]) == ("adapted", "miss")
    for one in found["entities"]:
        member = body["entities"][one["index"]]
        entity = {k: v for k, v in member.items() if k != "events"}
        alone = score(kinds, entity=entity, events=member.get("events", []), rows=[body["row"]]).json()
        assert {k: one[k] for k in ("score", "probability", "low", "high")} == {
            k: v for k, v in alone["scores"][0].items() if k != "item"
        }
    again = score(kinds, **body)
    assert again.json()["served_by"] == "cache" and again.headers["x-cache"] == "process"
    assert [e["score"] for e in again.json()["entities"]] == [e["score"] for e in found["entities"]]


def test_items_are_listed_in_a_context(plain):
    def listed(**context):
        body = {"model": "ads", "events": SHOWN, "moment": {"context": context}, "n": 9}
        return [(i["item"], i["score"]) for i in plain.client.post("/v1/recommendations", json=body).json()["items"]]

    near, far = listed(position=0), listed(position=4)
    assert [i for i, _ in near] == [i for i, _ in far] == [f"p{n}" for n in (9, 8, 7, 6, 5, 4, 3, 2, 0)]
    assert near[0][1] - far[0][1] == pytest.approx(2.0, abs=1e-5)


def test_adapt_measures_and_persists_contexts_once(kinds, new_id):
    events = [{**e, "time": 5 + n} for n, e in enumerate(SHOWN)]
    body = {"model": "ads", "entity": {"id": new_id}, "events": events, "persist": True}
    AdaptRequest.model_validate(body)
    for accepted in (2, 0):
        found = kinds.client.post("/v1/adapt", json=body).json()
        assert (found["support_size"], found["persisted"]["accepted"]) == (2, accepted)
        assert found["loss_before"] > 0 and found["loss_after"] > 0
    stored = kinds.client.get(f"/v1/entities/ad/{new_id}").json()["events"]
    assert [e["context"] for e in stored] == [{"position": 1}, {"position": 3}]
    alone = score(kinds, entity={"id": new_id}, items=["p1"]).json()
    assert alone["support_size"] == 2
    assert alone["scores"] == score(kinds, events=events, items=["p1"]).json()["scores"]
    both = score(kinds, entity={"id": new_id}, events=events, items=["p1"]).json()
    assert both["support_size"] == 2, "an event sent and stored counts once"


def test_deletion_leaves_nothing(kinds, new_id, keys_of):
    before = probability(kinds, entity={"id": new_id})
    events = [{"kind": "ad", "entity": new_id, **e, "time": n} for n, e in enumerate(SHOWN)]
    kinds.client.post("/v1/events", json={"events": events})
    assert probability(kinds, entity={"id": new_id}) != before
    wait(lambda: not kinds.container.cache_writer.pending)
    receipt = kinds.client.delete(f"/v1/entities/ad/{new_id}").json()
    assert receipt["events"] == 2 and receipt["cached"] > 0
    assert not keys_of()
    assert kinds.client.get(f"/v1/entities/ad/{new_id}").status_code == 404
    assert probability(kinds, entity={"id": new_id}) == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"items": ["p1"], "events": [{"item": "p1", "label": 0.5}]}, "0.5 is not a click: 1 or 0 is expected"),
        ({"items": ["p1"], "events": [{"item": "p1"}]}, "a label is needed"),
        (
            {"rows": [{"item": "p1", "context": {"weather": "wet"}}]},
            "'weather'.*no such context field.*device, position",
        ),
        ({"items": ["p1"], "events": [{"item": "p1", "label": 1, "context": {"hour": 1}}]}, "no such context field"),
        ({"rows": [{"item": "p1", "context": {"position": "top"}}]}, "'top' is not a finite number"),
        ({"rows": [{"item": "p1", "context": {"position": [1]}}]}, "rows/0/context/position.*a context value is"),
        ({"rows": [{"context": {"position": 1}}]}, "rows/0/item: Field required"),
        ({"entities": [{"id": "a"}]}, "both are needed"),
        ({"entities": [{"id": "a"}], "row": {"item": "p1"}, "items": ["p1"]}, "go without"),
        ({"entities": [{"features": {"size": 1}}], "row": {"item": "p1"}}, "'size'"),
        ({}, "items or rows are needed"),
    ],
)
def test_wrong_rows_are_refused(plain, body, says):
    response = score(plain, **body)
    assert response.status_code == 422
    assert re.search(says, response.json()["detail"]), response.json()["detail"]


def test_wrong_events_are_refused_each_with_its_reason(kinds, new_id):
    good = {"kind": "ad", "entity": new_id, "item": "p1", "label": 1, "time": 9}
    wrong = [{"label": 2}, {"label": None}, {"context": {"hour": 1}}, {"context": {"position": "x"}}, {"context": [1]}]
    events = [*({**good, **w} for w in wrong), {**good, "time": 3, "context": {"position": 1}}, good]
    found = kinds.client.post("/v1/events", json={"events": events}).json()
    assert (found["accepted"], [r["index"] for r in found["refused"]]) == (2, [0, 1, 2, 3, 4]), "times out of order"
    reasons = [r["reason"] for r in found["refused"]]
    assert "2.0 is not a click" in reasons[0] and "label: is needed" in reasons[1]
    assert "no model has a field 'hour'; known: device, position" in reasons[2]
    assert "'x' is not a finite number" in reasons[3] and reasons[4].startswith("context")


def test_a_broken_model_names_no_probability(home, migrated_sqlite, predictors):
    bundles.publish(migrated_sqlite, home / "models", "ads", bundles.diverged(choosing.clicks()))
    with serving(settings(home, migrated_sqlite)) as server:
        found = score(server, events=SHOWN, items=["p1"]).json()
        assert (found["served_by"], found["missing"]) == ("popular", ["model"])
        assert found["scores"] == [{"item": "p1", "score": None}]
        ranked = score(server, entities=[{"events": SHOWN}, {}], row={"item": "p1"}).json()
        assert [e["score"] for e in ranked["entities"]] == [None, None] and ranked["degraded"]


def test_events_that_differ_in_their_context_only_are_two(kinds, new_id):
    events = [{"kind": "ad", "entity": new_id, "item": "p1", "label": 0, "time": 5}] * 3
    events = [{**e, "context": {"position": n % 2}} for n, e in enumerate(events)]
    found = kinds.client.post("/v1/events", json={"events": events}).json()
    assert (found["accepted"], found["duplicates"]) == (2, 1)
    again = kinds.client.post("/v1/events", json={"events": events}).json()
    assert (again["accepted"], again["duplicates"]) == (0, 3)
    assert score(kinds, entity={"id": new_id}, items=["p1"]).json()["support_size"] == 2


def test_an_event_without_id_or_time_that_is_stored_and_told_counts_once(kinds, new_id):
    entity = {"kind": "ad", "id": new_id}
    event = {"item": "p1", "label": 1, "context": {"position": 1}}
    assert kinds.client.post("/v1/events", json={"events": [{**event, "kind": "ad", "entity": new_id}]}).is_success
    asked = {"entity": entity, "items": ["p4"]}
    assert score(kinds, **asked, events=[event]).json()["support_size"] == 1
    assert score(kinds, **asked, events=[{**event, "context": {"position": 2}}]).json()["support_size"] == 2
    assert score(kinds, **asked, events=[{**event, "time": 5.0}]).json()["support_size"] == 2, "another moment"
