"""The whole house: simulated data -> train -> publish -> a real server; its scores equal the offline ones."""

from __future__ import annotations

import time


def test_scores_over_http_equal_those_without_a_server(command, model, items, server):
    body = {
        "model": model,
        "entity": {"kind": "user", "id": "ann"},
        "events": [{"item": i} for i in items[:3]],
        "n": 10,
    }
    answer = server.post("/v1/recommendations", json=body).json()
    offline = command.json("recommend", model, "--items", ",".join(items[:3]))
    assert answer["items"] == offline["items"] and answer["model"]["version"] == offline["model"]["version"]
    assert answer["served_by"] == "adapted" and len(answer["items"]) == 10
    assert server.post("/v1/recommendations", json=body).json()["served_by"] == "cache"
    more = {**body, "events": [{"item": i} for i in items[:4]]}
    assert server.post("/v1/recommendations", json=more).json()["items"] != answer["items"]


def test_what_serving_did_is_in_the_database(command, model, items, server):
    body = {"model": model, "entity": {"kind": "user", "id": "bob"}, "events": [{"item": i} for i in items[2:7]]}
    assert server.post("/v1/recommendations", json=body).status_code == 200
    deadline = time.monotonic() + 120
    while not (rows := command.json("adaptations", "list", "--entity", "bob")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (row,) = rows
    assert row["support_size"] == 5 and row["served_by"] == "adapted" and row["steps"] == 1
    assert row["loss_after"] < row["loss_before"] and row["gradient_norm"] > 0 and row["ms"] > 0
    receipt = command.json("entities", "delete", "user", "bob", "--yes")
    assert receipt["adaptations"] == 1


def test_the_chances_of_questions_add_up_to_what_a_newcomer_meets_and_not_to_one(model, server):
    def chances(**query):
        answer = server.get("/v1/onboarding", params={"model": model, "n": 100, **query}).json()
        return [one["chance"] for one in answer["items"]]

    assert all(0 <= one <= 1 for one in chances()) and sum(chances()) > 2
