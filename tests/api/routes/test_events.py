"""Feedback: idempotent, judged one by one, and never lost without a word."""

import time

import pytest


def send(server, *events, **options):
    response = server.client.post("/v1/events", json={"events": list(events)}, **options)
    assert response.status_code == 200, response.text
    return response.json()


def counts(found):
    return found["accepted"], found["duplicates"], len(found["refused"])


def test_sending_again_changes_nothing(full, new_id):
    events = [
        {"kind": "user", "entity": new_id, "item": "i1", "label": 1, "time": 1e9, "event_id": f"{new_id} a"},
        {"entity": new_id, "item": "i2", "event_id": f"{new_id} b"},
        {"entity": new_id, "item": "i3"},
        {"entity": new_id, "item": "i4", "time": "2026-01-31T12:00:00Z"},
    ]
    assert counts(send(full, *events)) == (4, 0, 0)
    before = full.client.get(f"/v1/entities/user/{new_id}").json()
    time.sleep(0.01)
    assert counts(send(full, *events)) == (0, 4, 0)
    assert full.client.get(f"/v1/entities/user/{new_id}").json() == before
    assert before["events_total"] == 4
    assert [e["item"] for e in before["events"]][:2] == ["i1", "i4"]
    assert before["events"][1]["time"] == 1769860800.0


def test_the_same_event_twice_in_one_call_is_one(full, new_id):
    event = {"entity": new_id, "item": "i1", "event_id": new_id}
    assert counts(send(full, event, event)) == (1, 1, 0)


def test_a_known_id_with_other_content_is_refused_and_the_first_stays(full, new_id):
    event = {"entity": new_id, "item": "i1", "event_id": new_id, "time": 5}
    send(full, event)
    found = send(full, {**event, "item": "i2"}, {**event, "event_id": f"{new_id} 2"})
    assert counts(found) == (1, 0, 1)
    assert (found["refused"][0]["index"], found["refused"][0]["event_id"]) == (0, new_id)
    assert "other content" in found["refused"][0]["reason"]


def test_a_time_in_milliseconds_is_the_same_time(full, new_id):
    one = {"entity": new_id, "item": "i1", "event_id": new_id}
    send(full, {**one, "time": 1_700_000_000_500})
    (stored,) = full.client.get(f"/v1/entities/user/{new_id}").json()["events"]
    assert stored["time"] == 1_700_000_000.5
    again = send(full, {**one, "time": 1_700_000_000.5}, {**one, "time": "2023-11-14T22:13:20.5Z"})
    assert again["refused"] == [], "it is the event that is stored"


WRONG = [
    ({"time": 1e20}, "not a time"),
    ({"time": 4e12}, "future"),
    ({"time": True}, "time"),
    ({"time": "1000"}, "time"),
    ({"time": -1}, "time"),
    ({"time": time.time() + 10_000}, "future"),
    ({"time": "2026-01-31T12:00:00"}, "time zone"),
    ({"time": "yesterday"}, "time"),
    ({"item": ""}, "item"),
    ({"entity": ""}, "entity"),
    ({"event_id": ""}, "event_id"),
    ({"item": 5}, "item"),
    ({"item": "a\nb"}, "item"),
    ({"item": "a\x00b"}, "item"),
    ({"item": "\u2028"}, "item"),
    ({"item": "x" * 201}, "item"),
    ({"label": "1"}, "label"),
    ({"label": 2}, "label"),
    ({"label": -0.5}, "label"),
    ({"colour": "red"}, "colour"),
    ({"kind": "User!"}, "kind"),
]


def test_wrong_events_are_refused_each_with_its_reason(home, light, new_id):
    from tests.api import bundles
    from tests.api.servers import serving, settings

    bundles.publish(light, home / "models", "users", bundles.trained(epochs=1, label_range=(0, 1)))
    good = {"entity": new_id, "item": "i1", "event_id": f"{new_id} good"}
    wrong = [{"entity": new_id, "item": "i2", "event_id": f"{new_id} {n}", **w} for n, (w, _) in enumerate(WRONG)]
    with serving(settings(home, light)) as server:
        found = send(server, *wrong, 5, None, good)
        assert found["accepted"] == 1
        reasons = {r["index"]: r["reason"] for r in found["refused"]}
        assert sorted(reasons) == list(range(len(WRONG) + 2))
        for n, (_, word) in enumerate(WRONG):
            assert word in reasons[n], (WRONG[n], reasons[n])
        assert server.client.get(f"/v1/entities/user/{new_id}").json()["events_total"] == 1


def test_texts_are_times_as_in_the_data_of_the_model(home, light, new_id):
    from tests.api import bundles
    from tests.api.servers import serving, settings

    times = {"time": "at", "time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"}
    bundles.publish(light, home / "models", "users", bundles.trained(epochs=1, **times))
    like, dislike = (
        {"item": "i1", "label": label, "time": f"{day}.01.2026 13:00"} for day, label in ((30, 1), (31, 0))
    )
    with serving(settings(home, light)) as server:
        receipt = send(server, {**dislike, "entity": new_id}, {**like, "entity": new_id, "time": "2026-13-01"})
        assert receipt["accepted"] == 1
        assert "time: '2026-13-01' is not a time" in receipt["refused"][0]["reason"]
        assert "%d.%m.%Y %H:%M" in receipt["refused"][0]["reason"]
        (stored,) = server.client.get(f"/v1/entities/user/{new_id}").json()["events"]
        assert stored["time"] == 1769860800.0
        assert counts(send(server, {**dislike, "entity": new_id, "time": "2026-01-31T12:00Z"})) == (0, 1, 0)
        for early, late in ((like["time"], dislike["time"]), (dislike["time"], like["time"])):
            body = {"events": [{**like, "time": early}, {**dislike, "time": late}], "n": 100, "include_seen": True}
            answer = server.client.post("/v1/recommendations", json=body).json()
            listed = any(item["item"] == "i1" for item in answer["items"])
            assert listed == (early > late), "the last event on an item counts"
        for path in ("/v1/recommendations", "/v1/adapt"):
            assert server.client.post(path, json={"events": [like]}).status_code == 200
            wrong = server.client.post(path, json={"events": [{**like, "time": "2026-01-30"}]})
            assert wrong.status_code == 422 and "%d.%m.%Y %H:%M" in wrong.text


def test_words_are_labels_as_in_the_data_of_the_model(home, light, new_id):
    from tests.api import bundles
    from tests.api.servers import serving, settings

    words = {"label": "what", "label_values": {"skip": 0, "cart": 1}, "label_range": (0, 1), "positive": 1}
    bundles.publish(light, home / "models", "users", bundles.trained(epochs=1, **words))
    with serving(settings(home, light)) as server:
        events = [{"entity": new_id, "item": f"i{n}", "label": w} for n, w in enumerate(("cart", " skip ", "bought"))]
        receipt = send(server, *events)
        assert counts(receipt) == (2, 0, 1)
        assert "'bought' is not a label: expected a number, or one of cart, skip" in receipt["refused"][0]["reason"]
        stored = server.client.get(f"/v1/entities/user/{new_id}").json()["events"]
        assert {e["item"]: e["label"] for e in stored} == {"i0": 1.0, "i1": 0.0}
        assert counts(send(server, {"entity": new_id, "item": "i0", "label": 1})) == (0, 1, 0), "it is the same event"
        for path in ("/v1/recommendations", "/v1/adapt"):
            by_word, by_number = (
                server.client.post(path, json={"events": [{"item": "i3", "label": label}]}) for label in ("cart", 1)
            )
            assert by_word.status_code == by_number.status_code == 200
            assert by_word.json().get("items") == by_number.json().get("items")
            wrong = server.client.post(path, json={"events": [{"item": "i3", "label": "bought"}]})
            assert wrong.status_code == 422 and "cart, skip" in wrong.text


def test_a_word_is_no_label_of_a_model_without_words(server):
    answer = server.client.post("/v1/recommendations", json={"events": [{"item": "i1", "label": "cart"}]})
    assert answer.status_code == 422 and "'cart' is not a label: expected a number" in answer.text
    assert counts(send(server, {"entity": "e", "item": "i1", "label": "cart"})) == (0, 0, 1)


def test_half_a_surrogate_pair_is_refused_not_a_failure(server):
    body = b'{"events": [{"entity": "\\ud800", "item": "i1"}, {"\\ud800": 1}, {"entity": "e", "item": "i1"}]}'
    response = server.client.post("/v1/events", content=body, headers={"content-type": "application/json"})
    assert counts(response.json()) == (1, 0, 2)


def test_nan_is_not_a_label(server):
    body = b'{"events": [{"entity": "e", "item": "i1", "label": NaN}, {"entity": "e", "item": "i1", "label": 1e999}]}'
    response = server.client.post("/v1/events", content=body, headers={"content-type": "application/json"})
    assert counts(response.json()) == (0, 0, 2)


@pytest.mark.parametrize("size", [0, 1001])
def test_a_batch_has_1_to_1000_events(server, size):
    response = server.client.post("/v1/events", json={"events": [{"entity": "e", "item": "i1"}] * size})
    assert response.status_code == 422


def test_a_thousand_events_go_through_at_once(full, new_id):
    events = [{"entity": f"{new_id} {n % 7}", "item": f"i{n % 80}", "event_id": f"{new_id} {n}"} for n in range(1000)]
    assert counts(send(full, *events)) == (1000, 0, 0)


def test_an_unknown_kind_is_kept_for_models_to_come(server, new_id):
    assert counts(send(server, {"kind": "city", "entity": new_id, "item": "cafe", "label": 1})) == (1, 0, 0)
    assert server.client.get(f"/v1/entities/city/{new_id}").json()["events_total"] == 1


def test_stored_labels_and_features_that_a_model_cannot_read_do_not_lock_an_entity_out(home, light, new_id):
    from recsys_meta.store.database import engine
    from recsys_meta.store.database.clock import utcnow
    from recsys_meta.store.entities import entities, events
    from tests.api import bundles
    from tests.api.servers import serving, settings

    bundles.publish(light, home / "models", "users", bundles.trained(epochs=1, label_range=(0, 1)))
    made = engine.connect(light)
    with engine.session(made) as session:
        entities.upsert_entity(session, "user", new_id, {"age": "old", "from another model": 1})
        rows = [("a", "i1", 5.0), ("b", "i2", 1.0)]
        events.insert_events(session, [events.NewEvent("user", e, new_id, i, label, utcnow()) for e, i, label in rows])
    made.dispose()
    with serving(settings(home, light)) as server:
        found = server.recommend(entity={"id": new_id})
        assert (found.status_code, found.json()["support_size"]) == (200, 1)
