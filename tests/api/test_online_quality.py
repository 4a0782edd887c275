"""A simulated stream over HTTP: newcomers arrive, are shown lists, and choose by a taste that the test knows."""

import asyncio
import time

import numpy as np
import pytest
from sqlalchemy import text

from api.inference import outcome_worker
from recsys_meta.core.types import FIRST
from recsys_meta.inference.insight.next_event import NextEvent, next_event_losses
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.stored_events import StoredInteraction
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database.engine import reading
from recsys_meta.store.entities.events import support_events
from tests.api import bundles
from tests.api.servers import serving, settings, wait
from tests.fixtures.simulated_datasets import ranking_world

NEWCOMERS, EVENTS = 72, 3


def unpopular() -> Bundle:
    """A bundle that lists the least popular items first."""
    made = bundles.popular()
    return Bundle(**{**vars(made), "params": {k: -v for k, v in made.params.items()}})


@pytest.fixture
def stream(home, light, monkeypatch):
    """A server whose live version is good and whose other arm is bad, after a stream of newcomers."""
    monkeypatch.setattr(outcome_worker, "SETTLE_S", 0.0)
    monkeypatch.setattr(outcome_worker.OutcomeWorker, "rest_ratio", 0.0)
    bad = bundles.publish(light, home / "models", "users", unpopular(), live=False)
    with serving(settings(home, light)) as server:
        good = server.container.registry.live["users"].version
        arms = [{"version": v, "weight": 1, "label": label} for label, v in (("good", good), ("bad", bad))]
        put = server.client.put("/v1/models/users/split?force=true", json={"arms": arms, "salt": "s"})
        assert put.status_code == 200
        events = ranking_world(seed=0).events
        tastes = [[f"i{i}" for i in events.item[start : start + EVENTS] - FIRST] for start in events.indptr[:NEWCOMERS]]
        for turn in range(EVENTS):
            for n in range(NEWCOMERS):
                body = {"entity": {"kind": "user", "id": f"newcomer {n}"}}
                assert server.client.post("/v1/recommendations", json=body).status_code == 200
            server.flush()
            choices = [
                {"entity": f"newcomer {n}", "item": taste[turn], "event_id": f"{n} {turn}", "time": time.time()}
                for n, taste in enumerate(tastes)
            ]
            assert server.client.post("/v1/events", json={"events": choices}).json()["accepted"] == NEWCOMERS
            wait(lambda: not server.container.outcomes.waiting)
        server.flush()
        yield server, good, bad


def rows(server, query):
    with reading(server.container.database.engine) as s:
        return [dict(row) for row in s.execute(text(query)).mappings()]


def test_the_views_find_the_better_arm_and_the_guardrail_the_worse(stream):
    server, good, bad = stream
    first, second = rows(server, "SELECT * FROM split_results ORDER BY verdict DESC")
    assert (first["label"], first["model_version"], first["verdict"]) == ("bad", bad, "worse")
    assert (second["label"], second["model_version"], second["verdict"]) == ("good", good, "reference")
    assert first["difference_high"] < 0 and first["p"] < 0.05
    assert first["lists"] + second["lists"] == NEWCOMERS * EVENTS

    quality = rows(server, "SELECT * FROM online_quality WHERE variant = 'good' ORDER BY support_size")
    assert [row["support_size"] for row in quality] == list(range(EVENTS))
    assert all(row["lists"] == row["events"] == row["entities"] for row in quality)
    assert quality[0]["gain"] == pytest.approx(0.0, abs=1e-6) and quality[2]["gain"] > 0

    # The gain online is that of the same events offline.
    live = server.container.registry.live["users"].recommender
    cases, split = [], server.container.registry.splits["users"]
    with reading(server.container.database.engine) as s:
        for n in range(NEWCOMERS):
            if split.model_of(f"newcomer {n}").version == good:
                stored = [
                    StoredInteraction(e.event_id, e.item, e.label, e.time.timestamp())
                    for e in support_events(s, "user", f"newcomer {n}", 10)
                ]
                cases += [NextEvent({}, stored[:i], event) for i, event in enumerate(stored)]
    losses = next_event_losses(Recommender(live.bundle), cases)
    for row in quality:
        gains = [one.loss_unadapted - one.loss for one in losses if one.support_size == row["support_size"]]
        assert row["gain"] == pytest.approx(np.mean(gains), abs=1e-5)

    asyncio.run(server.container.alerts.check())
    (alert,) = rows(server, "SELECT * FROM alerts")
    assert (alert["model_version"], alert["rule"], alert["ended"]) == (bad, "worse than popularity", None)
    assert "recsys_meta_alerts 1.0" in server.client.get("/metrics").text
    assert server.client.delete("/v1/models/users/split").status_code == 200
    asyncio.run(server.container.alerts.check())
    assert rows(server, "SELECT * FROM alerts")[0]["ended"] is not None
    assert "recsys_meta_alerts 0.0" in server.client.get("/metrics").text
    (still,) = rows(server, "SELECT * FROM split_results WHERE label = 'bad'")
    assert still["ended"] is not None and still["difference"] == first["difference"]
