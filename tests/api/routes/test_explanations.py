"""Explanations over HTTP name the events that moved each item."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.routes.test_choice_recommendations import checkins
from tests.api.servers import wait

EVENTS = [{"item": item} for item in ("i3", "i14", "i15")]


def ask(server, model="users", **body):
    response = server.client.post("/v1/recommendations", json={"model": model, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_events_that_moved_each_item_are_named(plain):
    plain_list, explained = (ask(plain, events=EVENTS, n=8, explain=e) for e in (False, True))
    assert all("why" not in row for row in plain_list["items"])
    strip = [{k: v for k, v in row.items() if k != "why"} for row in explained["items"]]
    assert strip == plain_list["items"], "an explained list is the same list"
    for row in explained["items"]:
        moved = [c["moved"] for c in row["why"]["events"]]
        assert moved and {c["item"] for c in row["why"]["events"]} <= {"i3", "i14", "i15"}
        assert [abs(m) for m in moved] == sorted((abs(m) for m in moved), reverse=True)
    assert ask(plain, events=EVENTS, n=8, explain=True)["items"] == explained["items"]


def test_an_event_that_is_taken_away_moves_the_item_by_so_much(plain):
    """Of clicks the figure is a difference of logits, which anyone can check."""
    events = [{"item": "p1", "label": n % 2, "time": n, "context": {"position": n}} for n in range(5)]
    row = ask(plain, "ads", events=events, n=1, include_seen=True, explain=True)["items"][0]
    for cause in row["why"]["events"]:
        n = cause["context"]["position"]
        less = ask(plain, "ads", events=events[:n] + events[n + 1 :], candidates=[row["item"]], include_seen=True)
        assert abs(row["score"] - less["items"][0]["score"] - cause["moved"]) < 1e-4
    bare = ask(plain, "ads", candidates=[row["item"]])["items"][0]["score"]
    assert abs(row["why"]["prior"] - bare) < 1e-4


def test_cities_are_explained_too(plain):
    found = ask(plain, "cities", events=checkins(30), moment={"actor": "u2"}, n=4, explain=True)
    for row in found["items"]:
        assert row["why"]["events"][0]["item"] == row["item"] and row["why"]["events"][0]["moved"] > 0


def test_without_events_only_the_prior_is_told(plain):
    found = ask(plain, n=3, explain=True)
    assert found["served_by"] == "prior" and all(row["why"]["events"] == [] for row in found["items"])


def test_pages_are_explained_while_they_are_of_the_current_events(plain):
    first = ask(plain, events=EVENTS, n=3, explain=True)
    second = ask(plain, events=EVENTS, n=3, explain=True, cursor=first["next"])
    assert all(row["why"]["events"] for row in second["items"])
    later = ask(plain, events=[*EVENTS, {"item": "i70"}], n=3, explain=True, cursor=first["next"])
    assert all("why" not in row for row in later["items"]), "made from a support that is no longer the newcomer's"


def test_where_too_many_ask_the_list_comes_without_reasons(plain, monkeypatch):
    wanted = ask(plain, events=EVENTS[:2], n=4)
    monkeypatch.setattr(plain.container.long_tasks, "_tasks", 99)
    found = ask(plain, events=EVENTS[:2], n=4, explain=True)
    assert found["items"] == wanted["items"]
    asked = plain.client.get("/v1/onboarding", params={"model": "users", "n": 99})
    assert asked.status_code == 503 and asked.headers["retry-after"]
    monkeypatch.undo()
    assert "why" in ask(plain, events=EVENTS[:2], n=4, explain=True)["items"][0], "and is not kept so"


def test_whose_turn_comes_too_late_gets_the_list_without_reasons(plain, monkeypatch):
    monkeypatch.setattr("api.routes.recommendations._EXPLANATION_WAIT_S", 0.05)
    release = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        # Somebody's long work is under way, as of a newcomer with hundreds of events.
        monkeypatch.setattr("api.routes.recommendations.explain_items", lambda *_: release.wait(60) and [])
        first = pool.submit(ask, plain, events=EVENTS[:1], n=5, explain=True)
        wait(lambda: plain.container.long_tasks._tasks)
        monkeypatch.setattr("api.routes.recommendations.explain_items", lambda *_: pytest.fail("it came too late"))
        with ThreadPoolExecutor(1) as other:
            late = other.submit(ask, plain, events=EVENTS[:2], n=5, explain=True)
            wait(lambda: plain.container.long_tasks._tasks == 2)
            time.sleep(0.1)
            release.set()
            assert all("why" not in row for row in late.result(60)["items"])
        assert first.result(60)["items"]
    monkeypatch.undo()
    assert "why" in ask(plain, events=EVENTS[:2], n=5, explain=True)["items"][0], "and is not kept so"


def test_where_explaining_fails_the_list_comes_without_reasons(plain, monkeypatch):
    monkeypatch.setattr("api.routes.recommendations.explain_items", lambda *_: 1 / 0)
    assert all("why" not in row for row in ask(plain, events=EVENTS[:1], n=4, explain=True)["items"])


def test_numbers_that_are_too_large_for_json_writers_are_told_back_as_floats(plain):
    events = [{"item": "p1", "label": 1, "context": {"position": 2**70, "device": -(2**70)}}]
    found = ask(plain, "ads", events=events, n=1, include_seen=True, explain=True)
    assert found["items"][0]["why"]["events"][0]["context"] == {"position": 2.0**70, "device": -(2.0**70)}
    put = plain.client.put("/v1/entities/ad/huge", json={"features": {"age": 2**70}})
    assert put.json()["features"] == {"age": 2.0**70}
    assert plain.client.put("/v1/entities/ad/huge", json={"features": {"age": 10**400}}).status_code == 422
