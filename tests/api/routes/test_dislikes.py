"""Stars and thumbs over HTTP: what was disliked is never listed, and pushes away what is like it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from recsys_meta.core.types import FIRST
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import Bundle
from tests.api import bundles
from tests.api.servers import Served, serving, settings
from tests.fixtures import trained_recommenders


@pytest.fixture(scope="module")
def pushing() -> Bundle:
    return trained_recommenders.pushing().bundle


@pytest.fixture
def stars(home, light, pushing) -> Iterator[Served]:
    """A server of the model on which a star is a dislike and five are a like."""
    bundles.publish(light, home / "models", "users", pushing)
    with serving(settings(home, light)) as server:
        yield server


def listed(server: Served, *events: dict, **body: object) -> list[tuple[str, float]]:
    response = server.client.post("/v1/recommendations", json={"events": list(events), "n": 99, **body})
    assert response.status_code == 200, response.text
    return [(row["item"], row["score"]) for row in response.json()["items"]]


def event(item: str, label: float | None = None) -> dict:
    return {"item": item} if label is None else {"item": item, "label": label}


def test_one_star_and_five_stars_give_different_lists(stars):
    nothing = dict(listed(stars))
    one, five, zero, bare = (listed(stars, event("i7", label)) for label in (1, 5, 0, None))
    assert one == zero and five == bare, "a row without a label happened"
    assert one != five
    assert "i7" in nothing and not any("i7" in dict(some) for some in (one, five))
    assert dict(one) != {item: score for item, score in nothing.items() if item != "i7"}, "it pushes"


def test_the_list_is_that_of_the_offline_code(stars, pushing):
    events = [event("i7", 1), event("i3", 5), event("i9", 0), event("i4", 2)]
    own = recommend(
        Recommender(pushing), EntityRequest(events=[Interaction(e["item"], e["label"]) for e in events]), 99
    )
    assert listed(stars, *events) == [(s.item, pytest.approx(s.score, abs=1e-5)) for s in own.items]
    assert own.support_size == 4


def test_a_stored_dislike_counts_like_one_of_the_body(stars, new_id):
    sent = {"events": [{"entity": new_id, **event("i7", 0)}, {"entity": new_id, **event("i3")}]}
    assert stars.client.post("/v1/events", json=sent).json()["accepted"] == 2
    entity = {"id": new_id}
    assert listed(stars, entity=entity) == listed(stars, event("i7", 0), event("i3"))
    assert listed(stars, event("i9", 1), entity=entity) == listed(stars, event("i7", 0), event("i3"), event("i9", 1))
    stored = {row["item"]: row["label"] for row in stars.client.get(f"/v1/entities/user/{new_id}").json()["events"]}
    assert stored == {"i7": 0.0, "i3": 5.0}, "without a label it is stored as a like"
    asked = stars.client.get("/v1/onboarding", params={"id": new_id, "n": 20}).json()
    assert asked["support_size"] == 2 and not {"i7", "i3"} & {row["item"] for row in asked["items"]}


def test_the_last_word_on_an_item_counts(stars):
    def at(label: float, time: float) -> dict:
        return {**event("i7", label), "time": time}

    assert listed(stars, at(5, 1e9), at(0, 2e9)) == listed(stars, event("i7", 0))
    assert listed(stars, at(0, 1e9), at(5, 2e9)) == listed(stars, event("i7", 5))


def test_what_was_disliked_is_not_even_listed_among_seen_items(stars):
    again = dict(listed(stars, event("i7", 1), event("i3", 5), include_seen=True))
    assert "i3" in again and "i7" not in again
    assert "i7" not in dict(listed(stars, event("i7", 1), candidates=["i7", "i8"]))


def test_dislikes_alone_are_a_support(stars):
    found = stars.client.post("/v1/recommendations", json={"events": [event("i7", 0)], "explain": True}).json()
    assert (found["served_by"], found["support_size"]) == ("adapted", 1)
    causes = [cause for item in found["items"] for cause in item["why"]["events"]]
    assert causes and {(c["item"], c["label"]) for c in causes} == {("i7", 0.0)}
    adapted = stars.client.post("/v1/adapt", json={"events": [event("i7", 0)]}).json()
    assert adapted["support_size"] == 1


def test_a_model_that_cannot_push_leaves_the_item_out(server):
    before = listed(server)
    after = listed(server, event("i7", 0))
    assert after == [pair for pair in before if pair[0] != "i7"]
    assert listed(server, event("i7", 1)) != after


def test_a_label_beyond_the_scale_is_still_refused(stars):
    for label in (6, 0.5, -1):
        response = stars.client.post("/v1/recommendations", json={"events": [event("i7", label)]})
        assert response.status_code == 422 and "0 for" in response.text


def test_a_push_of_zero_is_no_push(pushing):
    closed = replace(pushing, params=pushing.params | {"push": torch.tensor([0.0, 0.0])})
    rows = [Interaction("i7", 1.0), Interaction("i3", 5.0)]
    scores = []
    for bundle in (closed, replace(pushing, params={k: v for k, v in pushing.params.items() if k != "push"})):
        own = Recommender(bundle)
        scores.append(own.score_catalog(own.adapt([own.read_support(EntityRequest(events=rows))]))[FIRST:])
    assert torch.equal(*scores)
