"""Places for new items with few events over HTTP: at most so many, and their propensities in the answer and in SQL."""

import pytest
from sqlalchemy import select

from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.entities.tables import ExplorationRecord
from tests.api.servers import serving, settings, wait


def test_slots_are_filled_by_draws_that_are_logged(home, published):
    with serving(settings(home, published)) as server:
        plain = server.recommend("i3").json()
        assert "fresh" not in plain
        body = {"items": [{"id": f"new{n}"} for n in range(5)]}
        assert server.client.post("/v1/items", json=body).status_code == 200
        wait(lambda: "new4" in server.recommend("i3", n=1000).text)
        answer = server.recommend("i3", fresh={"slots": 2, "seed": 7}).json()
        drawn = answer["fresh"]["items"]
        new = [one["item"] for one in answer["items"] if one["item"].startswith("new")]
        assert sorted(new) == sorted(one["item"] for one in drawn) and len(new) == 2
        assert len(answer["items"]) == 10 and answer["next"] is None and answer["fresh"]["seed"] == 7
        assert server.recommend("i3", fresh={"slots": 2, "seed": 7}).json()["items"] == answer["items"]
        none = server.recommend("i3", fresh={"share": 0.0}).json()
        assert none["fresh"]["items"] == [] and not [o for o in none["items"] if o["item"].startswith("new")]

        def rows():
            engine = connect(published)
            with reading(engine) as session:
                found = [r.as_dict() for r in session.scalars(select(ExplorationRecord).order_by(ExplorationRecord.id))]
            engine.dispose()
            return found

        wait(lambda: len(rows()) >= 2)
        logged = rows()[:2]
        assert [(r["item"], r["seed"], r["request_id"]) for r in logged] == [
            (one["item"], 7, answer["request_id"]) for one in drawn
        ]
        assert [r["propensity"] for r in logged] == pytest.approx([one["propensity"] for one in drawn])


@pytest.mark.parametrize(
    "fresh", [{}, {"slots": 1, "share": 0.1}, {"share": 1.5}, {"slots": -1}, {"slots": 1, "events": 0}]
)
def test_a_wrong_policy_is_refused(full, fresh):
    answer = full.recommend("i3", fresh=fresh)
    assert answer.status_code == 422 and "fresh" in answer.text
    cursor = full.recommend("i3").json()["next"]
    assert full.recommend("i3", fresh={"slots": 1}, cursor=cursor).status_code == 422


def test_a_model_may_have_places_for_new_items_by_default(home, published):
    given = settings(home, published).model_copy(update={"fresh": "users:slots=2"})
    with serving(given) as server:
        assert "fresh" not in server.recommend("i3").json()  # nothing is new
        assert server.client.post("/v1/items", json={"items": [{"id": f"new{n}"} for n in range(5)]}).status_code == 200
        wait(lambda: "fresh" in server.recommend("i3").json())
        lists = [server.recommend("i3").json() for _ in range(3)]
        assert all(len(one["fresh"]["items"]) == 2 and one["next"] is None for one in lists)
        assert len({one["fresh"]["seed"] for one in lists}) == 3  # drawn anew each time, from no cache
        plain = server.recommend("i3", fresh=None).json()
        assert "fresh" not in plain and plain["next"] is not None
        assert "fresh" not in server.recommend("i3", fresh=None, cursor=plain["next"]).json()
        assert server.recommend("i3", fresh={"slots": 0}).json()["fresh"]["items"] == []
