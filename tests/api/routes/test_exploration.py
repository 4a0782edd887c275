"""Exploring: entities in the order of a draw, the propensity of the first in the answer and in SQL."""

from collections import Counter

import pytest
import torch
from sqlalchemy import select

from recsys_meta.inference.ranking.thompson_sampling import propensity
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.entities.tables import ExplorationRecord
from tests.api import bundles
from tests.api.servers import serving, settings, wait
from tests.fixtures import stub_predictors as choosing

ROW = {"item": "p2", "context": {"position": 1}}
SHOWN = {"a": [1, 0], "b": [0], "c": []}
MEMBERS = [{"id": n, "events": [{"item": "p1", "label": y} for y in ys]} for n, ys in SHOWN.items()]


@pytest.fixture
def ads(home, migrated_sqlite, predictors):
    bundles.publish(migrated_sqlite, home / "models", "ads", choosing.clicks())
    with serving(settings(home, migrated_sqlite)) as made:
        yield made


def ask(server, members=MEMBERS, **body):
    return server.client.post("/v1/score", json={"model": "ads", "entities": members, "row": ROW, **body})


def rows(url):
    engine = connect(url)
    with reading(engine) as s:
        found = [row.as_dict() for row in s.scalars(select(ExplorationRecord).order_by(ExplorationRecord.id))]
    engine.dispose()
    return found


def offline():
    """Means and standard deviations of the logits of a, b and c."""
    recommender = Recommender(choosing.clicks())
    known = [
        recommender.read_support(EntityRequest(events=[Interaction("p1", y) for y in ys])) for ys in SHOWN.values()
    ]
    asked = recommender.queries.rows(known[0], [(ROW["item"], ROW["context"])])
    states = [recommender.adapt([k]) for k in known]
    mean = torch.stack([recommender.score_rows(s, asked)[0, 0] for s in states])
    return mean, torch.stack([recommender.score_std(s, asked)[0, 0] for s in states])


def test_entities_come_first_as_often_as_they_may_be_the_best(ads):
    mean, spread = offline()
    chances = {name: propensity(i, mean, spread) for i, name in enumerate(SHOWN)}
    firsts = Counter()
    for seed in range(150):
        found = ask(ads, explore={"seed": seed}).json()
        first = found["entities"][0]["id"]
        firsts[first] += 1
        assert found["explored"] == {"seed": seed, "propensity": pytest.approx(chances[first], rel=1e-6)}
    for name, chance in chances.items():
        assert firsts[name] / 150 == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 150) ** 0.5)


def test_the_scores_are_the_same_and_only_the_order_is_drawn(ads):
    plain = ask(ads).json()
    assert "explored" not in plain
    one, again = (ask(ads, explore={"seed": 5}).json() for _ in range(2))
    assert [e["id"] for e in one["entities"]] == [e["id"] for e in again["entities"]]
    assert {e["id"]: e["score"] for e in one["entities"]} == {e["id"]: e["score"] for e in plain["entities"]}
    assert [e["rank"] for e in one["entities"]] == [1, 2, 3]
    assert len({ask(ads, explore={}).json()["explored"]["seed"] for _ in range(3)}) == 3


def test_every_explored_list_leaves_a_row_until_its_entity_is_erased(ads, sqlite_url):
    found = ask(ads, explore={"seed": 7}).json()
    ask(ads)
    wait(lambda: rows(sqlite_url))
    (row,) = rows(sqlite_url)
    first = found["entities"][0]["id"]
    kept = ("request_id", "model", "model_version", "kind", "entity", "item", "candidates", "seed")
    assert {k: row[k] for k in kept} == {
        "request_id": found["request_id"],
        "model": "ads",
        "model_version": found["model"]["version"],
        "kind": "ad",
        "entity": first,
        "item": "p2",
        "candidates": 3,
        "seed": 7,
    }
    assert row["propensity"] == found["explored"]["propensity"]
    assert ads.client.delete(f"/v1/entities/ad/{first}").status_code == 200
    assert rows(sqlite_url) == []


def test_without_a_spread_or_without_entities_there_is_nothing_to_explore_by(ads, home, sqlite_url):
    bundles.publish(sqlite_url, home / "models", "blind", choosing.clicks(choosing.Blind))
    wait(lambda: ask(ads, model="blind").status_code == 200)
    refused = ask(ads, model="blind", explore={})
    assert (refused.status_code, "how sure it is" in refused.text) == (422, True)
    body = {"model": "ads", "items": ["p1"], "explore": {}}
    assert ads.client.post("/v1/score", json=body).status_code == 422
    for seed in (-1, 2**53, 1.5, "1"):
        assert ask(ads, explore={"seed": seed}).status_code == 422


def test_where_the_model_fails_nothing_is_drawn(home, migrated_sqlite, predictors):
    bundles.publish(migrated_sqlite, home / "models", "ads", bundles.diverged(choosing.clicks()))
    with serving(settings(home, migrated_sqlite)) as server:
        found = ask(server, explore={"seed": 1}).json()
        assert (found["served_by"], found["explored"]) == ("popular", None)
    assert rows(migrated_sqlite) == []
