"""The whole walk for every kind of newcomer: data -> train -> publish -> evaluate -> a real server -> erased."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from pipelines.workspace import Workspace
from recsys_meta.inference.one_shot import recommend
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking.tables import CurriculumRecord

FEW = (
    *("--threads", "1", "--set", "train.epochs=2", "--set", "train.least_steps=0"),
    *("--set", 'ensemble.members=["two-means", "popularity"]'),
)
KINDS = {
    "ad": (
        "simulated-ads",
        "posterior",
        [*FEW, "--set", "config.dims=4"],
        {"logloss", "auc", "ece", "mrr"},
    ),
    "city": ("simulated-cities", "flagship-choice", [*FEW], {"hit@10", "new_hit@10", "macro_hit@10"}),
}


@pytest.fixture(scope="module", params=["ad", pytest.param("city", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(command, kind):
    """A published model of the kind; the server of this module serves it."""
    dataset, recipe, words, _ = KINDS[kind]
    run = command.json("train", "--recipe", recipe, "--dataset", dataset, *words)
    return command.json("models", "publish", run["run"], "--name", f"{kind}-model", "--force")["model"]


def a_newcomer(command, kind, count=6):
    """Events of one entity of the simulator, in the API's form."""
    dataset = KINDS[kind][0]
    data, _ = Workspace(_settings(command)).dataset(dataset)
    start, events = int(data.events.indptr[3]), []
    for row in range(start, start + count):
        padded = int(data.events.item[row])
        words = {
            k: float(v[row]) if v.dtype.kind == "f" else data.vocab.value(f"context.{k}", int(v[row]))
            for k, v in data.events.context.items()
        }
        if kind == "city":
            words |= {k: float(data.items[k].values[padded]) for k in ("lat", "lon")}
            words["actor"] = f"a{int(data.events.actor[row])}"
        event = {"item": data.vocab.value("item", padded), "time": int(data.events.time[row]), "context": words}
        events.append(event | ({"label": float(data.events.label[row])} if kind == "ad" else {}))
    return events


def _settings(command):
    return Settings(home=command.home, database_url="", redis_url="", api_keys="")


@pytest.mark.slow
def test_evaluation_measures_what_the_kind_is_about(command, kind, model, tmp_path):
    command("evaluate", model, "--shots", "0,5", "--json", tmp_path / "out.json", "--html", tmp_path)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert KINDS[kind][3] <= {r["metric"] for r in rows}
    assert {r["shots"] for r in rows} == {0, 5}
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "reliability.png").is_file() == (kind == "ad")


def test_answers_over_http_equal_those_without_a_server_and_erasing_leaves_nothing(command, kind, model, server):
    events = a_newcomer(command, kind, 30 if kind == "city" else 6)
    entity = {"kind": kind, "id": "fresh"}
    sent = server.post("/v1/events", json={"events": [{**entity_of(entity), **e} for e in events]}).json()
    assert sent["accepted"] == len(events), sent
    recommender = Recommender(Workspace(_settings(command)).bundle(model))
    known = [
        Interaction(
            e["item"],
            e.get("label"),
            float(e["time"]),
            {k: v for k, v in e["context"].items() if k != "actor"},
            e["context"].get("actor"),
        )
        for e in events
    ]
    if kind == "ad":
        body = {
            "model": model,
            "entity": entity,
            "rows": [{"item": events[0]["item"], "context": events[0]["context"]}],
        }
        first = server.post("/v1/score", json=body).json()
        assert (first["served_by"], first["support_size"]) == ("adapted", 6)
        mine = recommender.read_support(EntityRequest(events=known))
        asked = recommender.queries.rows(mine, [(events[0]["item"], events[0]["context"])])
        logit = float(recommender.score_rows(recommender.adapt([mine]), asked)[0, 0])
        assert first["scores"][0]["score"] == pytest.approx(logit, abs=1e-4)
        assert 0 < first["scores"][0]["low"] < first["scores"][0]["probability"] < first["scores"][0]["high"] < 1
        assert server.post("/v1/score", json=body).json()["served_by"] == "cache"
        more = {"kind": kind, "entity": "fresh", **events[0], "label": 1.0, "time": events[-1]["time"] + 60}
        server.post("/v1/events", json={"events": [more]})
        assert server.post("/v1/score", json=body).json()["scores"][0]["score"] != first["scores"][0]["score"]
    else:
        moment = {"actor": events[-1]["context"]["actor"]}
        body = {"model": model, "entity": entity, "moment": moment, "n": 5}
        first = server.post("/v1/recommendations", json=body).json()
        assert (first["served_by"], first["support_size"]) == ("adapted", 30)
        offline = recommend(recommender, EntityRequest(events=known), 5, context=QueryContext({}, moment["actor"]))
        assert [i["item"] for i in first["items"]] == [s.item for s in offline.items]
        assert server.post("/v1/recommendations", json=body).json()["served_by"] == "cache"
    assert server.get(f"/v1/entities/{kind}/fresh").json()["events_total"] >= len(events)
    receipt = server.delete(f"/v1/entities/{kind}/fresh").json()
    assert receipt["events"] >= len(events)
    assert server.get(f"/v1/entities/{kind}/fresh").status_code == 404


def entity_of(entity):
    return {"kind": entity["kind"], "entity": entity["id"]}


def test_what_the_curriculum_did_is_in_sql(command):
    words = [*FEW, "--set", "curriculum.name=hardness", "--set", "config.dims=4"]
    run = command.json("train", "--recipe", "posterior", "--dataset", "simulated-ads", *words)
    with Workspace(_settings(command)).reading() as session:
        rows = session.scalars(select(CurriculumRecord).where(CurriculumRecord.run == run["run"])).all()
        steps = {r.step for r in rows}
        assert steps == set(range(1, run["steps"] + 1))
        deciles = [r for r in rows if r.bucket.startswith("decile")]
        stages = {r.bucket for r in rows if r.bucket.startswith("stage")}
        assert deciles and {"stage kept", "stage fresh"} <= stages
        for step in steps:
            assert sum(r.weight for r in deciles if r.step == step) == pytest.approx(1, abs=1e-5)
