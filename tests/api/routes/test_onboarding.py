"""`GET /v1/onboarding`: what to ask a newcomer."""

import pytest
from pydantic import TypeAdapter

from recsys_meta.inference.insight.active_elicitation import most_informative_items
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest
from recsys_meta.wire.responses import OnboardingResponse


def ask(server, **query):
    return server.client.get("/v1/onboarding", params={"model": "users", **query})


@pytest.mark.parametrize("strategy", ["information", "evidence"])
def test_it_is_what_the_model_says_offline(plain, bundle, strategy):
    response = ask(plain, n=7, strategy=strategy)
    assert response.status_code == 200, response.text
    TypeAdapter(OnboardingResponse).validate_json(response.content, extra="forbid")
    found = response.json()
    recommender = Recommender(bundle)
    offline = most_informative_items(recommender, recommender.read_support(EntityRequest()), 7, strategy)
    assert [(row["item"], row["value"], row["title"]) for row in found["items"]] == [
        (a.item, pytest.approx(a.value), a.title) for a in offline
    ]
    assert [row["rank"] for row in found["items"]] == list(range(1, 8))
    assert (found["strategy"], found["support_size"]) == (strategy, 0)
    again = ask(plain, n=7, strategy=strategy).json()
    assert again["items"] == found["items"]


def test_answers_lead_to_other_questions(full, new_id):
    first = ask(full, id=new_id, kind="user").json()["items"]
    event = {"entity": new_id, "item": first[0]["item"]}
    assert full.client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    second = ask(full, id=new_id).json()
    assert second["support_size"] == 1
    assert first[0]["item"] not in [row["item"] for row in second["items"]]
    assert [row["value"] for row in second["items"]] != [row["value"] for row in first]
    full.client.delete(f"/v1/entities/user/{new_id}")
    assert ask(full, id=new_id).json()["items"] == first, "nothing of the answers is left"


def test_ads_are_asked_about_people_and_cities_about_nothing(plain):
    assert plain.client.get("/v1/onboarding", params={"model": "ads", "n": 3}).json()["unit"] == "nats"
    refused = plain.client.get("/v1/onboarding", params={"model": "cities"})
    assert refused.status_code == 422 and "items of its own" in refused.json()["detail"]


@pytest.mark.parametrize("query", [{"n": 0}, {"n": 101}, {"strategy": "guess"}, {"id": ".."}, {"model": "no such"}])
def test_wrong_questions_are_refused(plain, query):
    assert ask(plain, **query).status_code in (404, 422)
