"""`recommend --json` prints what the API answers, from the same rows of the database."""

import time

import pytest

OWN = ("request_id", "served_by")
"""What is each answer's own: one is made now, the other may come from a cache."""


@pytest.fixture
def anna(server, items):
    """An entity with events, told to the server."""
    event = {"kind": "user", "entity": "anna", "label": 1.0}
    events = [{**event, "item": i, "time": float(n)} for n, i in enumerate(items[:4])]
    assert server.post("/v1/events", json={"events": events}).json()["accepted"] == 4
    yield "anna"
    assert server.delete("/v1/entities/user/anna").status_code == 200


def asked(server, **body):
    answer = server.post("/v1/recommendations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alike(printed, answered):
    """To the last bit, and so are their cursors."""
    assert printed.keys() == answered.keys()
    assert {k: v for k, v in printed.items() if k not in OWN} == {k: v for k, v in answered.items() if k not in OWN}


def test_for_events_and_candidates_that_are_told(command, model, server, items):
    told = [{"item": i} for i in (*items[:3], "no-such-item")]
    words = ("--items", ",".join(e["item"] for e in told))
    alike(command.json("recommend", model, *words), asked(server, model=model, events=told))
    some = [*items[4:8], "nor-this"]
    alike(
        command.json("recommend", model, *words, "--candidates", ",".join(some), "-n", 3),
        asked(server, model=model, events=told, candidates=some, n=3),
    )


def test_its_cursor_goes_on_at_the_api(command, model, server, items, anna):
    for words, body in (
        (("--items", items[0]), {"events": [{"item": items[0]}]}),
        (("--entity", anna), {"entity": {"id": anna}}),
    ):
        first = command.json("recommend", model, *words, "-n", 5)
        second = asked(server, model=model, n=5, cursor=first["next"], **body)
        whole = asked(server, model=model, n=10, **body)
        assert [i["item"] for i in (*first["items"], *second["items"])] == [i["item"] for i in whole["items"]]
    candidates = items[4:7]
    words = ("--items", items[0], "--candidates", ",".join(candidates))
    assert command.json("recommend", model, *words, "-n", 3)["next"] is None, "that is all there is"
    assert command.json("recommend", model, *words, "-n", 2)["next"] is not None


def test_for_features_that_have_no_effect(command, model, server, items):
    words = ("--items", items[0], "--feature", "gender=none such")
    printed = command.json("recommend", model, *words)
    assert printed["unknown_features"] == ["gender"]
    alike(
        printed, asked(server, model=model, entity={"features": {"gender": "none such"}}, events=[{"item": items[0]}])
    )


def test_for_an_entity_that_is_stored(command, model, server, items, anna):
    alike(command.json("recommend", model, "--entity", anna), asked(server, model=model, entity={"id": anna}))
    more = command.json("recommend", model, "--entity", anna, "--items", items[5])
    assert more["support_size"] == 5
    alike(more, asked(server, model=model, entity={"id": anna}, events=[{"item": items[5]}]))


def test_for_an_entity_of_an_arm(command, model, server, anna):
    live = command.json("models", "show", model)["live"]
    command("models", "split", model, f"new:{live}=1")
    try:
        printed = command.json("recommend", model, "--entity", anna)
        assert printed["variant"] == "new"
        deadline = time.monotonic() + 60
        while asked(server, model=model, entity={"id": anna})["variant"] != "new":
            assert time.monotonic() < deadline, "the server did not see the split"
            time.sleep(0.1)
        alike(printed, asked(server, model=model, entity={"id": anna}))
        named = command.json("recommend", f"{model}@{live}", "--entity", anna)
        assert named["variant"] is None
        assert command.json("recommend", model)["variant"] is None, "an anonymous newcomer is of no arm"
    finally:
        command("models", "split", model, "--off")
