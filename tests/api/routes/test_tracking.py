"""What adapting did, runs, figures and evaluations, page by page."""

from collections import Counter

import pytest

from recsys_meta.store.database import engine
from recsys_meta.store.tracking import evaluations, runs
from tests.api.servers import wait


def rows_of(server, **wanted):
    return server.client.get("/v1/adaptations", params={"limit": 1000, **wanted}).json()["items"]


def test_every_answer_leaves_a_row(full, new_id):
    for items in (("i3", "i14", "i15"), ("i3", "i14", "i15"), (), ("i4",)):
        full.recommend(*items, entity={"id": new_id})
    full.client.post("/v1/adapt", json={"entity": {"id": new_id}, "events": [{"item": "i5"}, {"item": "i6"}]})
    wait(lambda: len(rows_of(full, entity=new_id)) == 5)
    rows = rows_of(full, entity=new_id)
    assert Counter(row["served_by"] for row in rows) == {"adapted": 3, "cache": 1, "prior": 1}
    for row in rows:
        assert (row["kind"], row["entity"]) == ("user", new_id)
        assert row["model_version"] == full.container.registry.live["users"].version
        assert 0 < row["ms"] < 10_000
        if row["served_by"] == "adapted":
            assert 0 < row["loss_after"] < row["loss_before"]
            assert row["gradient_norm"] > 0
            assert row["steps"] == 1
        else:
            assert row["loss_before"] is row["loss_after"] is row["gradient_norm"] is None
    assert sorted(row["support_size"] for row in rows) == [0, 1, 2, 3, 3]
    assert len(rows_of(full, entity=new_id, served_by="cache")) == 1


def test_anonymous_newcomers_leave_rows_without_a_name(server):
    server.recommend("i1")
    wait(lambda: rows_of(server))
    assert [row["entity"] for row in rows_of(server)] == [""]


def pages(server, path, **wanted):
    found, cursor = [], None
    while True:
        page = server.client.get(path, params={**wanted, **({"cursor": cursor} if cursor else {})}).json()
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.fixture
def filled(full, published):
    made = engine.connect(published)
    with engine.session(made) as session:
        for n in range(5):
            runs.start_run(session, run=f"run-{n}", recipe="r", dataset="d", learner="maml", config={"dims": n}, seed=n)
        points = [runs.MetricPoint("run-1", key, step, step / 2) for key in ("loss", "ndcg") for step in range(6)]
        runs.log_metrics(session, points)
        runs.set_run_status(session, "run-1", "finished")
        evaluations.save_evaluations(
            session,
            [
                evaluations.NewEvaluation("d", "users", "maml", "learner", s, 3, "ndcg", 0.1 * s, None, None, 9)
                for s in range(7)
            ],
        )
    made.dispose()
    return full


def test_pages_hold_everything_once(filled):
    found = pages(filled, "/v1/runs", limit=2)
    assert sorted(run["id"] for run in found) == [f"run-{n}" for n in range(5)]
    assert next(run for run in found if run["id"] == "run-1")["metrics"] == {"loss": 2.5, "ndcg": 2.5}
    assert [run["id"] for run in pages(filled, "/v1/runs", status="finished")] == ["run-1"]
    metrics = pages(filled, "/v1/runs/run-1/metrics", limit=5)
    assert [(m["key"], m["step"]) for m in metrics] == [(k, s) for k in ("loss", "ndcg") for s in range(6)]
    assert len(pages(filled, "/v1/runs/run-1/metrics", key="ndcg", limit=4)) == 6
    assert [e["seed"] for e in pages(filled, "/v1/evaluations", limit=3)][:7] == [6, 5, 4, 3, 2, 1, 0]
    assert pages(filled, "/v1/evaluations", dataset="other") == []


def test_a_cursor_of_another_list_is_refused(filled):
    cursor = filled.client.get("/v1/runs", params={"limit": 2}).json()["next"]
    assert filled.client.get("/v1/evaluations", params={"cursor": cursor}).status_code == 422


def test_metrics_count_what_was_served(server):
    server.recommend("i1")
    server.recommend("i1")
    server.client.get("/nowhere/at/all")
    text = server.client.get("/metrics").text
    assert 'recsys_meta_answers_total{cache="miss",model="users",served_by="adapted"} 1.0' in text
    assert 'recsys_meta_answers_total{cache="process",model="users",served_by="cache"} 1.0' in text
    assert 'recsys_meta_requests_total{method="POST",route="/v1/recommendations",status="200"} 2.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "nowhere" not in text
    assert "recsys_meta_models_in_service 1.0" in text
