"""Every list that is shown becomes an impression, whichever cache it came from."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from api.telemetry import impression_log
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.engine import reading
from recsys_meta.store.entities.tables import ImpressionRecord
from recsys_meta.store.settings import Settings
from tests.api.servers import serving


def shown(server, entity=""):
    server.flush()
    with reading(server.container.database.engine) as s:
        query = select(ImpressionRecord).where(ImpressionRecord.entity == entity)
        return list(s.scalars(query.order_by(ImpressionRecord.id)))


def names(answer):
    return [item["item"] for item in answer["items"]]


def test_lists_are_kept_as_they_were_answered(full, new_id):
    body = {"entity": {"id": new_id}, "events": [{"item": "i3"}], "n": 4}
    first = full.client.post("/v1/recommendations", json=body).json()
    again = full.client.post("/v1/recommendations", json=body).json()
    page = full.client.post("/v1/recommendations", json={**body, "cursor": first["next"]}).json()
    rows = shown(full, new_id)
    assert {row.served_by for row in rows} == {"adapted", "cache"}
    by_request = {row.request_id: row for row in rows}
    assert sum(row.answers for row in rows) == 3
    for answer, rank in ((first, 1), (page, 5)):
        row = by_request[answer["request_id"]]
        assert (row.items, row.first_rank, row.support_size) == (names(answer), rank, 1)
        assert (row.model, row.model_version) == (answer["model"]["name"], answer["model"]["version"])
        assert (row.kind, row.propensity, row.sample_rate) == ("user", 1.0, 1.0)
        assert utcnow() - timedelta(minutes=5) < row.created < utcnow()
    assert names(again) == names(first)
    receipt = full.client.delete(f"/v1/entities/user/{new_id}").json()
    assert receipt["impressions"] == len(rows) and shown(full, new_id) == []


@pytest.mark.parametrize("large", [100, 10**6])
def test_a_list_for_nobody_and_a_long_one_are_kept_too(server, monkeypatch, large):
    monkeypatch.setattr(impression_log, "_LARGE_BYTES", large)
    answer = server.recommend("i1", "i2", n=70).json()
    (row,) = shown(server)
    assert (row.items, row.support_size) == (names(answer), 2) and len(row.items) > 60


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_setting_says_of_whom_lists_are_kept(home, light, rate):
    made = Settings(home=home, database_url=light, redis_url="", api_keys="", impression_rate=rate)
    with serving(made) as server:
        for n in range(40):
            assert server.recommend("i1", entity={"id": f"u{n}"}).status_code == 200
        counts = [len(shown(server, f"u{n}")) for n in range(40)]
        assert sum(counts) == 0 if rate == 0 else 8 < sum(counts) < 32
        assert all(row.sample_rate == rate for n in range(40) for row in shown(server, f"u{n}"))
