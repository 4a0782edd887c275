"""What becomes of events over HTTP: each is joined to the list before it and judged by the state before it."""

import time

import pytest
from sqlalchemy import select

from api.inference import outcome_worker
from recsys_meta.inference.insight.next_event import NextEvent, next_event_losses
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.entities.tables import ImpressionRecord, OutcomeRecord
from recsys_meta.store.settings import Settings
from tests.api import bundles
from tests.api.servers import serving, settings, wait


@pytest.fixture
def server(home, published, monkeypatch):
    """A server without Redis, once for each kind of database, where lists need no time to settle."""
    monkeypatch.setattr(outcome_worker, "SETTLE_S", 0.0)
    with serving(settings(home, published)) as made:
        yield made


def ask(server, entity, **body):
    answer = server.client.post("/v1/recommendations", json={"entity": {"id": entity}, **body})
    assert answer.status_code == 200, answer.text
    server.flush()
    return [item["item"] for item in answer.json()["items"]]


def send(server, entity, *events):
    body = {"events": [{"entity": entity, **event} for event in events]}
    receipt = server.client.post("/v1/events", json=body).json()
    assert receipt["accepted"] == len(events), receipt
    wait(lambda: not server.container.outcomes.waiting)
    assert server.container.writer.flush(30)
    return receipt


def outcomes(server, entity):
    with reading(server.container.database.engine) as s:
        return {row.event_id: row for row in s.scalars(select(OutcomeRecord).where(OutcomeRecord.entity == entity))}


def test_an_event_is_judged_by_the_list_and_the_state_before_it(server, new_id, bundle):
    shown = ask(server, new_id, n=20)
    hit, second = shown[2], shown[15]
    send(server, new_id, {"event_id": f"{new_id} 1", "item": hit})
    again = ask(server, new_id, n=5)
    missed = next(f"i{n}" for n in range(80) if f"i{n}" not in {*again, *shown})
    send(server, new_id, {"event_id": f"{new_id} 2", "item": missed}, {"event_id": f"{new_id} 3", "item": second})
    send(server, new_id, {"event_id": f"{new_id} 4", "item": hit})
    found = outcomes(server, new_id)
    first, miss, late = (found[f"{new_id} {n}"] for n in (1, 2, 3))
    assert (first.rank, first.hit_1, first.hit_5, first.hit_10, first.reciprocal_rank) == (3, 0, 1, 1, 1 / 3)
    assert (miss.rank, miss.hit_1, miss.hit_10, miss.reciprocal_rank) == (None, 0, 0, 0)
    assert (late.rank, late.hit_5, late.hit_10) == (16, 0, 0), "the newest list that holds it is the first one"
    assert f"{new_id} 4" not in found, "no list holds what was met"
    assert (first.support_size, miss.support_size, late.support_size) == (0, 1, 1)
    model = server.container.registry.live["users"]
    assert {(row.model, row.model_version, row.variant) for row in found.values()} == {("users", model.version, None)}
    with reading(server.container.database.engine) as s:
        lists = {row.id: row.items for row in s.scalars(select(ImpressionRecord))}
    assert (lists[first.impression], lists[miss.impression]) == (shown, again)

    met = [StoredInteraction("1", hit, 1.0, 1.0)]
    cases = [NextEvent({}, [], met[0]), NextEvent({}, met, StoredInteraction("2", missed, 1.0, 2.0))]
    for row, loss in zip((first, miss), next_event_losses(Recommender(bundle), cases), strict=True):
        assert (row.loss, row.loss_unadapted) == pytest.approx((loss.loss, loss.loss_unadapted), rel=1e-5)
    assert first.loss == first.loss_unadapted and miss.loss != miss.loss_unadapted


def test_without_a_list_before_it_an_event_has_its_loss_alone(server, new_id):
    old = time.time() - 30
    send(server, new_id, {"event_id": f"{new_id} 1", "item": "i1", "time": old})
    ask(server, new_id)
    send(server, new_id, {"event_id": f"{new_id} 2", "item": "i2", "time": old + 5})
    found = outcomes(server, new_id)
    assert {(row.impression, row.rank, row.hit_10) for row in found.values()} == {(None, None, None)}
    assert [found[f"{new_id} {n}"].support_size for n in (1, 2)] == [0, 1]
    assert all(row.loss and row.loss_unadapted for row in found.values())
    assert server.client.delete(f"/v1/entities/user/{new_id}").json()["outcomes"] == 2


def test_what_is_older_than_the_window_has_no_outcome_and_lists_are_forgotten_by_it(home, light, new_id, monkeypatch):
    monkeypatch.setattr(outcome_worker, "SETTLE_S", 0.0)
    made = Settings(home=home, database_url=light, redis_url="", api_keys="", outcome_window_s=60)
    with serving(made) as server:
        now = time.time()
        shown = ask(server, new_id)
        send(server, new_id, {"event_id": "old", "item": shown[0], "time": now - 61})
        send(server, new_id, {"event_id": "next", "item": shown[1], "time": now + 59})
        send(server, new_id, {"event_id": "late", "item": shown[2], "time": now + 61.5})
        found = outcomes(server, new_id)
        assert {name: row.rank for name, row in found.items()} == {"next": 2, "late": None}
        assert found["late"].impression is None


def test_what_a_version_listed_is_judged_the_same_once_another_took_its_place(home, light, new_id, monkeypatch):
    monkeypatch.setattr(outcome_worker, "SETTLE_S", 0.0)
    other = bundles.publish(light, home / "models", "users", bundles.popular(), live=False)
    with serving(settings(home, light)) as server:
        version = server.container.registry.live["users"].version
        send(server, new_id, {"event_id": "first", "item": "i1"})
        shown = ask(server, new_id)
        promotion = server.client.post("/v1/models/users/promote?force=true", json={"version": other})
        assert promotion.status_code == 200, promotion.text
        send(server, new_id, {"event_id": "again", "item": "i1"}, {"event_id": "hit", "item": shown[1]})
        rows = outcomes(server, new_id)
        assert (rows["hit"].model_version, rows["hit"].rank, rows["hit"].loss) == (version, 2, None)
        assert "again" not in rows, "no list holds what was met"


def test_a_server_that_stops_joins_its_last_events_to_its_last_lists(home, light, new_id):
    with serving(settings(home, light)) as server:
        body = {"entity": {"id": new_id}}
        shown = [item["item"] for item in server.client.post("/v1/recommendations", json=body).json()["items"]]
        event = {"entity": new_id, "item": shown[2], "event_id": "last"}
        assert server.client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    engine = connect(light)
    with reading(engine) as s:
        (row,) = s.scalars(select(OutcomeRecord).where(OutcomeRecord.entity == new_id))
        assert row.rank == 3
    engine.dispose()


def test_only_a_sample_is_judged_and_a_failing_model_costs_the_loss_alone(home, light, new_id, monkeypatch):
    monkeypatch.setattr(outcome_worker, "SETTLE_S", 0.0)
    made = Settings(home=home, database_url=light, redis_url="", api_keys="", impression_rate=0)
    with serving(made) as server:
        ask(server, new_id)
        send(server, new_id, {"event_id": "1", "item": "i1"})
        assert outcomes(server, new_id) == {}
    with serving(settings(home, light)) as server:
        monkeypatch.setattr(outcome_worker, "next_event_losses", lambda *_: 1 / 0)
        shown = ask(server, new_id)
        send(server, new_id, {"event_id": "2", "item": shown[0]})
        row = outcomes(server, new_id)["2"]
        assert (row.hit_1, row.loss, row.popular_hit_10) == (1.0, None, None)
