"""Lists over HTTP: what a newcomer gets, where it came from, and that it is what the offline code gives."""

import random

import httpx
import pytest

from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from tests.api import bundles
from tests.api.servers import change_state, cut_short, serving, settings, wait

THREE = ("i3", "i14", "i15")


def listed(response: httpx.Response) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(row["item"], row["score"]) for row in response.json()["items"]]


def test_three_events_give_a_never_seen_user_ten_items(full, bundle, new_id):
    response = full.recommend(*THREE, entity={"kind": "user", "id": new_id})
    found = response.json()
    assert [row["rank"] for row in found["items"]] == list(range(1, 11))
    assert len({row["item"] for row in found["items"]} - set(THREE)) == 10
    assert found["model"] == {"name": "users", "version": full.container.registry.live["users"].version}
    assert (found["served_by"], found["support_size"], found["unknown_items"]) == ("adapted", 3, [])
    assert (found["degraded"], found["missing"]) == (False, [])
    assert found["request_id"] == response.headers["x-request-id"]
    titles = {row["item"]: row["title"] for row in found["items"]}
    assert all(title == bundle.titles.get(item) for item, title in titles.items())


def test_a_fourth_event_changes_the_list(full, new_id):
    entity = {"id": new_id}
    three, four = full.recommend(*THREE, entity=entity), full.recommend(*THREE, "i70", entity=entity)
    assert listed(three) != listed(four)
    assert four.json()["served_by"] == "adapted"
    assert four.json()["support_size"] == 4


def test_a_stored_fourth_event_changes_the_list_at_once(full, new_id):
    entity = {"id": new_id}
    before = full.recommend(*THREE, entity=entity)
    sent = full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i70", "event_id": new_id}]})
    assert sent.json()["accepted"] == 1
    after = full.recommend(*THREE, entity=entity)
    assert after.json()["support_size"] == 4
    assert listed(after) == listed(full.recommend(*THREE, "i70"))
    assert listed(after) != listed(before)


def test_features_that_have_no_effect_are_named(full, new_id):
    def told(path, **body):
        response = full.client.post(f"/v1/{path}", json={"entity": {"features": features}, **body})
        assert response.status_code == 200, response.text
        return response.json()["unknown_features"]

    def everywhere():
        many = told("score", entity={}, entities=[{"features": features}, {}], row={"item": "i3"})
        score = told("score", items=["i3"])
        return [told("recommendations"), told("recommendations"), told("adapt"), score, many]

    features = {"age": 31, "group": ["group1", "no such group"]}
    assert everywhere() == [["group"]] * 5
    features = {"age": 31, "group": ["group1"]}
    assert everywhere() == [[]] * 5
    # Of what is stored too: it may have been sent for another model.
    assert full.client.put(f"/v1/entities/user/{new_id}", json={"features": {"group": "none such"}}).status_code == 200
    assert full.recommend(entity={"id": new_id}).json()["unknown_features"] == ["group"]


def test_scores_equal_the_offline_ones(server, bundle):
    recommender = Recommender(bundle)
    rng = random.Random(0)
    for size in (0, 1, 3, 12):
        items = rng.sample([f"i{n}" for n in range(80)], size)
        features = {"age": 31, "group": ["group1"]} if size % 2 else {}
        newcomer = EntityRequest(features, [Interaction(item) for item in items])
        offline = recommend(recommender, newcomer, 80)
        response = server.recommend(*items, n=80, entity={"features": features})
        assert listed(response) == [(s.item, s.score) for s in offline.items]
        scored = server.client.post(
            "/v1/score",
            json={
                "entity": {"features": features},
                "events": [{"item": item} for item in items],
                "items": [s.item for s in offline.items],
            },
        )
        assert [s["score"] for s in scored.json()["scores"]] == [s.score for s in offline.items]


def test_the_second_call_comes_from_a_cache_and_from_redis_where_this_process_has_forgotten(full, new_id):
    body = {"entity": {"id": new_id}}
    first = full.recommend(*THREE, **body)
    assert (first.json()["served_by"], first.headers["x-cache"]) == ("adapted", "miss")
    second = full.recommend(*THREE, **body)
    assert (second.json()["served_by"], second.headers["x-cache"]) == ("cache", "process")
    wait(lambda: not full.container.cache_writer.pending)
    full.container.memory.close()
    third = full.recommend(*THREE, **body)
    assert (third.json()["served_by"], third.headers["x-cache"]) == ("cache", "redis")
    assert listed(first) == listed(second) == listed(third)


def test_another_process_finds_the_state_in_redis(full, home, new_id):
    first = full.recommend(*THREE, entity={"id": new_id})
    wait(lambda: not full.container.cache_writer.pending)
    twin = settings(home, full.container.database.engine.url.render_as_string(hide_password=False))
    twin.redis_url = full_redis(full)
    with serving(twin) as sister:
        again = sister.recommend(*THREE, entity={"id": new_id})
    assert (again.json()["served_by"], again.headers["x-cache"]) == ("cache", "redis")
    assert listed(again) == listed(first)


def full_redis(full):
    from pydantic import SecretStr

    options = full.container.redis._client.connection_pool.connection_kwargs
    return SecretStr(f"redis://{options['host']}:{options['port']}/0")


def test_another_process_sees_new_events_at_once(full, home, new_id):
    twin = settings(home, full.container.database.engine.url.render_as_string(hide_password=False))
    twin.redis_url = full_redis(full)
    with serving(twin) as sister:
        for count in (1, 2, 3):
            event = {"entity": new_id, "item": f"i{count}", "event_id": f"{new_id}{count}"}
            writer, reader = (full, sister) if count % 2 else (sister, full)
            assert writer.client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
            assert reader.recommend(entity={"id": new_id}).json()["support_size"] == count
            assert writer.recommend(entity={"id": new_id}).json()["support_size"] == count


def test_without_redis_the_process_remembers(server, new_id):
    assert server.recommend(*THREE).headers["x-cache"] == "miss"
    again = server.recommend(*THREE)
    assert (again.json()["served_by"], again.headers["x-cache"]) == ("cache", "process")
    assert server.recommend(*THREE, entity={"id": new_id}).json()["served_by"] == "adapted"
    assert server.recommend(*THREE, entity={"id": new_id}).json()["served_by"] == "cache"


def test_a_cached_state_that_does_not_fit_is_made_anew(server):
    assert not server.container.registry.live["users"].recommender.batch_invariant, "else it is adapted in company"
    first = server.recommend(*THREE)
    change_state(server, cut_short)
    again = server.recommend(*THREE)
    assert (again.json()["served_by"], listed(again)) == ("adapted", listed(first))


def test_the_order_of_events_does_not_matter(server):
    items = [f"i{n}" for n in range(8)]
    first = server.recommend(*items)
    for seed in range(3):
        random.Random(seed).shuffle(items)
        again = server.recommend(*items)
        assert listed(again) == listed(first)
        assert again.json()["served_by"] == "cache"


def test_without_events_the_prior_answers_and_features_change_it(server):
    plain = server.recommend()
    assert (plain.json()["served_by"], plain.json()["support_size"]) == ("prior", 0)
    old = server.recommend(entity={"features": {"age": 80, "group": "group2"}})
    assert old.json()["served_by"] == "prior"
    assert listed(old) != listed(plain)
    assert server.recommend().json()["served_by"] == "prior", "a prior at hand is still a prior"


def test_candidates_exclude_seen_and_n(server):
    named = ["i9", "i10", "i11", "nonsense", *THREE]
    only = server.recommend(*THREE, candidates=named)
    assert {item for item, _ in listed(only)} == {"i9", "i10", "i11"}
    assert only.json()["unknown_items"] == ["nonsense"]
    seen = server.recommend(*THREE, candidates=named, include_seen=True)
    assert {item for item, _ in listed(seen)} == {"i9", "i10", "i11", *THREE}
    assert {item for item, _ in listed(server.recommend(*THREE, candidates=named, exclude=["i9"]))} == {"i10", "i11"}
    assert len(listed(server.recommend(*THREE, n=1000))) == 77
    assert len(listed(server.recommend(*THREE, n=1))) == 1
    assert listed(server.recommend(*THREE, candidates=[])) == []
    top = listed(server.recommend(*THREE, n=80))
    assert top == sorted(top, key=lambda row: -row[1])


def test_items_that_the_model_lacks_are_named_and_change_nothing_else(server):
    response = server.recommend(*THREE, "nonsense")
    assert response.json()["unknown_items"] == ["nonsense"]
    assert response.json()["support_size"] == 3
    assert listed(response) == listed(server.recommend(*THREE))


def test_an_unknown_feature_is_named(server):
    for events in ((), THREE):
        response = server.recommend(*events, entity={"features": {"shoe size": 44}})
        assert response.status_code == 422
        assert "'shoe size'" in response.json()["detail"]
        assert "age, group" in response.json()["detail"]


def test_an_event_in_body_and_store_counts_once(full, new_id):
    event = {"event_id": new_id, "item": "i3", "time": 1e9}
    full.client.post("/v1/events", json={"events": [{"entity": new_id, **event}]})
    body = {"entity": {"id": new_id}, "events": [event, {"item": "i3"}, {"item": "i14"}]}
    assert full.client.post("/v1/recommendations", json=body).json()["support_size"] == 2


def test_adapt_says_what_it_did_and_persists(full, new_id):
    body = {
        "entity": {"id": new_id, "features": {"age": 30}},
        "events": [{"item": item, "event_id": f"{new_id} {item}"} for item in THREE],
        "persist": True,
    }
    found = full.client.post("/v1/adapt", json=body).json()
    assert (found["support_size"], found["steps"]) == (3, 1)
    assert 0 < found["loss_after"] < found["loss_before"]
    assert found["gradient_norm"] > 0
    assert found["ms"] > 0
    assert found["persisted"]["accepted"] == 3
    stored = full.client.get(f"/v1/entities/user/{new_id}").json()
    assert stored["features"] == {"age": 30}
    assert {event["item"] for event in stored["events"]} == set(THREE)
    by_id = full.recommend(entity={"id": new_id})
    assert (by_id.json()["support_size"], by_id.json()["served_by"]) == (3, "cache")
    assert listed(by_id) == listed(full.recommend(*THREE, entity={"features": {"age": 30}}))
    again = full.client.post("/v1/adapt", json=body).json()["persisted"]
    assert (again["accepted"], again["duplicates"]) == (0, 3)


def test_adapt_adapts_now_whatever_is_cached(server):
    first = server.recommend(*THREE)
    change_state(server, lambda leaf: -leaf if leaf.is_floating_point() else leaf)
    assert listed(server.recommend(*THREE)) != listed(first), "what is cached is used"
    adapted = server.client.post("/v1/adapt", json={"events": [{"item": item} for item in THREE]})
    assert adapted.status_code == 200
    again = server.recommend(*THREE, n=11)
    assert (again.json()["served_by"], listed(again)[:10]) == ("cache", listed(first))


def test_features_that_are_persisted_later_win_and_others_stay(server, new_id):
    for features in ({"age": 30, "group": "group1"}, {"age": 60}):
        body = {"entity": {"id": new_id, "features": features}, "persist": True}
        assert server.client.post("/v1/adapt", json=body).status_code == 200
    stored = server.client.get(f"/v1/entities/user/{new_id}").json()
    assert stored["features"] == {"age": 60, "group": "group1"}


def test_what_the_store_refuses_is_adapted_to_all_the_same(server, new_id):
    figures = ("support_size", "loss_before", "loss_after", "gradient_norm")
    late = {"item": "i3", "time": 9e9}
    for n, events in enumerate(([late], [{"item": "i14", "time": 5}, late, {"item": "i15"}])):
        body = {"entity": {"id": f"{new_id} {n}"}, "events": events}
        free = server.client.post("/v1/adapt", json=body).json()
        kept = server.client.post("/v1/adapt", json={**body, "persist": True}).json()
        assert kept["support_size"] == len(events)
        assert [kept[name] for name in figures] == [free[name] for name in figures]
        (refused,) = kept["persisted"]["refused"]
        assert (refused["index"], "in the future" in refused["reason"]) == (events.index(late), True)
        assert kept["persisted"]["accepted"] == len(events) - 1
    alone = server.client.post("/v1/adapt", json={"entity": {"id": f"{new_id} 1"}}).json()
    assert alone["support_size"] == 2, "the refused one is not stored"


def test_adapt_without_persist_stores_nothing(server, new_id):
    body = {"entity": {"id": new_id}, "events": [{"item": "i3"}]}
    assert server.client.post("/v1/adapt", json=body).json()["persisted"] is None
    assert server.client.get(f"/v1/entities/user/{new_id}").status_code == 404
    empty = server.client.post("/v1/adapt", json={}).json()
    assert (empty["support_size"], empty["loss_before"], empty["gradient_norm"]) == (0, None, None)


def test_persist_is_all_or_nothing_where_the_model_cannot_read_it(server, new_id):
    wrong = {"entity": {"id": new_id, "features": {"age": "old"}}, "events": [{"item": "i3"}], "persist": True}
    assert server.client.post("/v1/adapt", json=wrong).status_code == 422
    assert server.client.get(f"/v1/entities/user/{new_id}").status_code == 404
    anonymous = server.client.post("/v1/adapt", json={"events": [{"item": "i3"}], "persist": True})
    assert anonymous.status_code == 422


def test_a_rating_model_wants_labels(home, light):
    version = bundles.publish(light, home / "models", "stars", bundles.trained("rating", epochs=1))
    with serving(settings(home, light)) as server:
        wait(lambda: "stars" in server.container.registry.live)
        bare = server.client.post("/v1/recommendations", json={"model": "stars", "events": [{"item": "i3"}]})
        assert bare.status_code == 422
        assert "label" in bare.json()["detail"]
        body = {"model": f"stars@{version}", "events": [{"item": "i3", "label": 4.5}]}
        assert server.client.post("/v1/recommendations", json=body).json()["served_by"] == "adapted"
        either = server.client.post("/v1/recommendations", json={})
        assert either.json()["model"]["name"] == "users"  # the first of the kind that was published


@pytest.mark.parametrize("objective", ["ranking", "rating"])
def test_items_that_the_model_lacks_are_named_and_have_no_score(home, light, objective):
    bundles.publish(light, home / "models", "more", bundles.trained(objective, epochs=1))
    with serving(settings(home, light)) as server:

        def ask(**body):
            response = server.client.post("/v1/score", json={"model": "more", **body})
            assert response.status_code == 200, response.text
            return response.json()

        known = ask(items=["i1", "i2"])
        assert known["unknown_items"] == []
        for body in (
            {"items": ["nope", "i1"]},
            {"rows": [{"item": "nope"}, {"item": "i1"}]},
            {"items": ["nope"], "rows": [{"item": "i1"}]},
        ):
            found = ask(**body)
            assert found["unknown_items"] == ["nope"]
            nope, one = found["scores"]
            assert nope == {"item": "nope", "score": None}
            assert one["score"] == pytest.approx(known["scores"][0]["score"], abs=1e-5)
        mixed = ask(items=["i1", "no"], rows=[{"item": "nope"}])
        assert mixed["unknown_items"] == ["no", "nope"]
        assert [s["score"] is None for s in mixed["scores"]] == [False, True, True]
        members = [{"id": "a", "events": [{"item": "i1", "label": 1}]}, {"id": "b"}]
        ranked = ask(entities=members, row={"item": "nope"})
        assert ranked["unknown_items"] == ["nope"]
        assert [(e["id"], e["score"]) for e in ranked["entities"]] == [("a", None), ("b", None)]
        assert all(e["score"] is not None for e in ask(entities=members, row={"item": "i1"})["entities"])


@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/adapt"])
def test_a_kind_that_is_not_the_models_is_refused(server, path):
    response = server.client.post(path, json={"model": "users", "entity": {"kind": "city"}})
    assert response.status_code == 422
    assert "'city'" in response.json()["detail"]
    assert server.client.post(path, json={"entity": {"kind": "city"}}).status_code == 404
