"""Every command as its user types it."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from pipelines.commands.recommend import read_events
from pipelines.workspace import Workspace
from recsys_meta.core.errors import DataError
from recsys_meta.store.database import engine
from recsys_meta.store.entities.entities import upsert_entity
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.promotion_gate import check_promotion
from recsys_meta.store.tracking.runs import page_runs
from tests.fixtures.services import free_port
from tests.pipelines.conftest import SMALL


def house(command) -> Workspace:
    return Workspace(Settings(home=command.home, database_url="", redis_url="", api_keys=""))


def measured(command, model):
    """What the database holds of a model's curves."""
    with house(command).reading() as session:
        return evaluations.page_evaluations(session, model=model, limit=1000).items


def test_every_command_explains_itself(command):
    words = [(), ("data",), ("models",), ("runs",), ("adaptations",), ("entities",), ("db",), ("bench",)]
    for group in words:
        text = command(*group, "--help")
        names = re.findall(r"^[│| ]*([a-z]+)  +\S", text, re.M)
        assert names, text
        for name in names:
            assert "Usage" in command(*group, name, "--help")


def test_a_run_is_in_the_database_with_its_metrics(command, run):
    rows = command.json("runs", "list")
    row = next(r for r in rows if r["id"] == run["run"])
    assert row["status"] == "finished" and row["metrics"]["valid"] == pytest.approx(run["valid"])
    shown = command.json("runs", "show", run["run"])
    keys = {m["key"] for m in shown["metrics"]}
    assert {"loss", "valid", "valid_on_training", "tasks_per_second", "gradient_norm"} <= keys
    steps = [{m["step"] for m in shown["metrics"] if m["key"] == k} for k in ("valid", "valid_on_training")]
    assert steps[1] == {min(steps[0])}, "the gap is measured at the first validation and at few of those after it"
    assert shown["config"]["train"]["epochs"] == 2


def test_the_model_is_live_and_rolls_back(command, run, model):
    other = command.json("train", "--dataset", "simulated-users", "--seed", "1", *SMALL)
    assert other["version"] != run["version"]
    command.json("models", "publish", other["run"], "--name", model, "--force")
    assert command.json("models", "show", model)["live"] == other["version"]
    assert command.json("models", "rollback", model)["version"] == run["version"]
    assert command.json("models", "promote", model, other["version"][:6], "--force")["version"] == other["version"]
    assert command.json("models", "promote", model, run["version"], "--force")["version"] == run["version"]
    history = command.json("models", "show", model)["history"]
    assert [h["action"] for h in history] == ["promote", "promote", "rollback", "publish", "publish"]


def test_recommend_adapts_and_its_answer_changes_with_an_event(command, model, items):
    none = command.json("recommend", model)
    three = command.json("recommend", model, "--items", ",".join(items[:3]))
    four = command.json("recommend", model, "--items", ",".join(items[:4]))
    assert none["served_by"] == "prior" and three["served_by"] == "adapted"
    assert three["support_size"] == 3 and len(three["items"]) == 10
    assert {i["item"] for i in three["items"]}.isdisjoint(items[:3])
    scores = [i["score"] for i in three["items"]]
    assert scores == sorted(scores, reverse=True)
    assert [i["score"] for i in three["items"]] != [i["score"] for i in four["items"]]
    again = command.json("recommend", model, "--items", ",".join(reversed(items[:3])))
    assert again["items"] == three["items"]


def test_recommend_reads_files_and_names_what_is_wrong_in_them(command, model, items, tmp_path):
    good = tmp_path / "events.csv"
    good.write_text("item,time\n" + "".join(f"{i},{n}\n" for n, i in enumerate(items[:3])))
    assert command.json("recommend", model, "--events", good)["support_size"] == 3
    bad = tmp_path / "bad.csv"
    bad.write_text("item,time\n1,10\n2,soon\n")
    message = command("recommend", model, "--events", bad, code=1)
    assert "bad.csv" in message and "line 3" in message and "time" in message
    bad.write_text("thing\n1\n")
    assert "'item'" in command("recommend", model, "--events", bad, code=1)
    unknown = command.json("recommend", model, "--items", f"{items[0]},no-such-item")
    assert unknown["unknown_items"] == ["no-such-item"]


def test_a_line_with_surplus_fields_is_refused_and_not_read_shifted(command, model, items, tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(f"item,label\n{items[0]},3,4,5\n")
    assert "more fields than the header" in command("recommend", model, "--events", path, code=1)


@pytest.mark.parametrize("late", ["86400.5", "1970-01-02T01:00:00.5+01:00", "1970-01-02T00:00:00.5Z"])
def test_times_are_read_as_seconds_and_as_iso_8601(late, tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(f"item,time\nx,0\ny,{late}\nz,\n")
    assert [e.time for e in read_events(path)] == [0, 86400.5, None]
    path.write_text("item,time\nx,yesterday\n")
    with pytest.raises(DataError, match=r"line 2, field 'time'.*'yesterday' is not a time: expected ISO 8601"):
        read_events(path)


def test_adapt_says_where_it_cannot_write(command, model, items, tmp_path):
    events = tmp_path / "events.csv"
    events.write_text(f"entity,item\nann,{items[0]}\n")
    assert "is a folder" in command("adapt", model, "--events", events, "--out", tmp_path, code=1)
    below_a_file = events / "out.parquet"
    assert "cannot be made" in command("adapt", model, "--events", events, "--out", below_a_file, code=1)


@pytest.mark.parametrize("name", ["a/b", "../out", "..", "a@b", "a b"])
def test_a_model_is_not_published_under_a_name_that_nobody_could_ask_for(command, run, name):
    assert "no name for a model" in command("models", "publish", run["run"], "--name", name, code=1)
    assert not (command.home / "models" / name.partition("/")[0] / "b").exists()


def test_adapt_writes_the_same_answers_for_many(command, model, items, tmp_path):
    events = tmp_path / "events.csv"
    events.write_text("entity,item\n" + "".join(f"ann,{i}\n" for i in items[:3]) + f"bob,{items[7]}\n")
    out = tmp_path / "out" / "adapted.parquet"
    assert command.json("adapt", model, "--events", events, "--out", out)["entities"] == 2
    rows = {r["entity"]: r for r in pq.read_table(out).to_pylist()}
    alone = command.json("recommend", model, "--items", ",".join(items[:3]))
    assert rows["ann"]["items"] == [i["item"] for i in alone["items"]]
    assert rows["ann"]["scores"] == pytest.approx([i["score"] for i in alone["items"]], rel=1e-5)
    assert rows["bob"]["support_size"] == 1 and rows["bob"]["state"]


def test_evaluate_prints_the_curve_and_stores_it(command, run, model, tmp_path):
    out = tmp_path / "curve.json"
    text = command("evaluate", model, "--shots", "0,5", "--baselines", "popularity", "--json", out, "--html", tmp_path)
    assert "popularity" in text and "unadapted" in text
    rows = json.loads(out.read_text())["rows"]
    assert {r["method"] for r in rows} == {"flagship", "flagship-unadapted", "popularity"}
    assert {r["metric"] for r in rows} == {"ndcg@10", "recall@20", "mrr", "hit@10"}
    zero = {r["method"]: r["value"] for r in rows if r["shots"] == 0 and r["metric"] == "ndcg@10" and r["seed"] is None}
    assert zero["flagship"] == zero["flagship-unadapted"]
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows)
    points = measured(command, model)  # of other versions too, whose tests ran before
    newest = max(p.created for p in points)
    assert {(p.run, p.recipe, p.split, p.seeds) for p in points if p.created == newest} == {
        (run["run"], "flagship", "seed", 1)
    }
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "cold_start.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_loses_to_popularity_is_not_promoted_after_a_plain_evaluate(command, run, tmp_path):
    few = [word for key in ("train.epochs=1", "train.rate=1e-9", "config.dims=4") for word in ("--set", key)]
    poor = command.json("train", "--recipe", "maml", "--dataset", "simulated-users", "--threads", "1", *few)
    model = command.json("models", "publish", poor["run"], "--name", "poor", "--force")["model"]
    command("evaluate", model, "--shots", "0,1", "--json", tmp_path / "poor.json")
    rows = json.loads((tmp_path / "poor.json").read_text())["rows"]
    assert {r["method"] for r in rows} == {"maml", "maml-unadapted", "popularity"}
    ndcg = [r for r in rows if r["metric"] == "ndcg@10" and r["seed"] is None and r["method"] in ("maml", "popularity")]
    ours, theirs = (sum(r["value"] for r in ndcg if r["method"] == m) / 2 for m in ("maml", "popularity"))
    assert ours < theirs
    command.json("models", "publish", run["run"], "--name", model, "--force")
    said = " ".join(command("models", "promote", model, poor["version"], code=1).split())
    assert f"ndcg@10 {ours:.4f} against {theirs:.4f} of 'popularity'" in said
    assert command.json("models", "show", model)["live"] == run["version"]
    assert command.json("models", "promote", model, poor["version"], "--force")["version"] == poor["version"]


def test_a_bundle_evaluated_in_its_folder_brings_its_curve_along_when_published(command, run, tmp_path):
    folder = command.home / "runs" / run["run"] / "bundle" / run["version"]
    command("evaluate", folder, "--shots", "2", "--json", tmp_path / "curve.json")
    model = command.json("models", "publish", run["run"], "--name", "measured", "--force")["model"]
    points = measured(command, model)
    assert 2 in {r.shots for r in points} and {r.model_version for r in points} == {run["version"]}


def test_a_run_of_a_comparison_takes_its_points_along_when_published(command, tmp_path):
    command(
        *("compare", "--dataset", "simulated-users", "--learners", "flagship", "--baselines", "popularity"),
        *("--shots", "0,3", "--seeds", "2", *SMALL, "--set", "train.epochs=1", "--json", tmp_path / "compared.json"),
    )
    costs = {m["method"]: m for m in json.loads((tmp_path / "compared.json").read_text())["methods"]}
    assert costs["flagship"]["seconds"] > 0 and costs["flagship"]["parameters"] > costs["popularity"]["parameters"] > 0
    assert costs["flagship"]["state_bytes"] > costs["popularity"]["state_bytes"] > 0
    assert "parameters" not in costs["flagship-unadapted"]
    newest = next(r for r in command.json("runs", "list") if r["recipe"] == "flagship")
    assert newest["seed"] == 1
    command(
        *("compare", "--dataset", "simulated-users", "--learners", "flagship", "--baselines", "popularity", "--reuse"),
        *("--shots", "0,3", "--seeds", "2", *SMALL, "--set", "train.epochs=1", "--json", tmp_path / "again.json"),
    )
    assert command.json("runs", "list")[0]["id"] == newest["id"], "nothing is trained twice"
    first, again = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("compared", "again"))
    assert (first["rows"], first["paired"]) == (again["rows"], again["paired"])
    times = [[(m.get("seconds"), m.get("processor_seconds")) for m in r["methods"][:1]] for r in (first, again)]
    assert times[0] == times[1] and None not in times[0][0], "what training took then"
    published = command.json("models", "publish", newest["id"], "--name", "second", "--force")
    points = measured(command, "second")
    assert {(r.method, r.model_version, r.seed, r.shots) for r in points} == {
        ("flagship", published["version"], 1, k) for k in (0, 3)
    }
    with house(command).reading() as session:
        found = check_promotion(session, "second", published["version"])
    assert found is not None and (found.metric, found.baseline, found.points) == ("ndcg@10", "popularity", 2)


def test_a_run_that_was_never_evaluated_is_evaluated_when_it_is_published(command, run):
    """And a candidate may be staged: what is live stays live, until an evaluation says that it may go."""
    staged = command.json("models", "publish", run["run"], "--name", "candidate", "--stage")
    assert (staged["version"], staged["live"]) == (run["version"], False)
    shown = command.json("models", "show", "candidate")
    assert (shown["live"], [v["state"] for v in shown["versions"]]) == (None, ["staged"])
    assert "no live version" in command("recommend", "candidate", "--items", "i1", code=1)
    with house(command).reading() as session:
        before = check_promotion(session, "candidate", run["version"])
    words, told = ("models", "promote", "candidate", run["version"]), ""
    try:
        told = command(*words)
    except AssertionError:  # it may lose, as little as it was trained
        told = command(*words, code=1)
        assert "loses to the simplest baseline" in told
    with house(command).reading() as session:
        found = check_promotion(session, "candidate", run["version"])
    assert found is not None and (before is None or before == found)
    live = command.json("models", "show", "candidate")["live"]
    assert live == (None if found.loses else run["version"]), told


def test_the_end_of_a_model(command, run):
    version = command.json("models", "publish", run["run"], "--name", "ending", "--force")["version"]
    assert command.json("models", "default", "ending") == {"kind": "user", "model": "ending"}
    folder = command.home / "models" / "ending" / version
    for words in (
        ("archive", f"ending@{version}"),
        ("delete", f"ending@{version}", "--yes"),
        ("delete", "ending", "--yes"),
    ):
        assert "is live" in command("models", *words, code=1)
    assert command.json("models", "retire", "ending")["live"] is False
    assert command.json("models", "archive", f"ending@{version[:6]}")["archived"]
    assert "is archived" in command("models", "promote", "ending", version, code=1)
    assert command.json("models", "archive", f"ending@{version}", "--restore")["archived"] is None
    assert command.json("models", "rollback", "ending")["version"] == version
    command.json("models", "retire", "ending")
    assert folder.is_dir()
    assert command.json("models", "delete", f"ending@{version}", "--yes")["removed"]
    assert not folder.exists()
    assert "is deleted" in command("models", "promote", "ending", version, "--force", code=1)
    command.json("models", "delete", "ending", "--yes")
    assert "no model" in command("models", "show", "ending", code=1)


@pytest.mark.slow
def test_compare_writes_a_row_for_each_seed_and_one_for_their_mean(command, tmp_path):
    out = tmp_path / "compare.json"
    text = command(
        *("compare", "--dataset", "simulated-users", "--learners", "flagship", "--baselines", "popularity,itemknn"),
        *("--shots", "0,3", "--seeds", "2", "--json", out, *SMALL),
    )
    assert "against" in text
    content = json.loads(out.read_text())
    assert content["command"].startswith("recsys-meta compare")
    keys = {"dataset", "scenario", "method", "role", "seed", "shots", "metric", "value", "low", "high", "n"}
    assert all(set(r) == keys for r in content["rows"])
    ours = [r for r in content["rows"] if r["method"] == "flagship" and r["metric"] == "mrr" and r["shots"] == 3]
    by_seed = {r["seed"]: r["value"] for r in ours}
    assert set(by_seed) == {0, 1, None}
    assert by_seed[None] == pytest.approx((by_seed[0] + by_seed[1]) / 2)


@pytest.mark.slow
def test_the_four_corners_of_warm_and_cold_are_compared(command, tmp_path):
    out = tmp_path / "corners.json"
    command(
        *("compare", "--dataset", "simulated-users", "--learners", "flagship", "--baselines", "popularity"),
        *("--shots", "0,3", "--seeds", "1", "--scenario", "corners", "--json", out, "--html", tmp_path, *SMALL),
    )
    rows = json.loads(out.read_text())["rows"]
    corners = {r["scenario"].split("/")[0] for r in rows}
    assert corners == {"known-known", "known-new", "new-known", "new-new"}
    ours = {r["scenario"].split("/")[0]: r["value"] for r in rows if r["method"] == "popularity" and r["shots"] == 3}
    assert ours["new-known"] > ours["new-new"], "nobody has met a new item, so it has no popularity"
    assert all((tmp_path / c / "report.html").is_file() for c in corners)


@pytest.mark.slow
def test_a_rating_data_set_is_compared_with_what_predicts_ratings(command, tmp_path):
    command("data", "prepare", "simulated-users", "--objective", "rating", "--out", command.home / "data" / "stars")
    out = tmp_path / "ratings.json"
    command(
        *("compare", "--dataset", "stars", "--baselines", "item-mean,blr", "--shots", "0,5", "--seeds", "1"),
        *("--json", out, "--set", "train.epochs=1", "--set", "config.dims=8", "--threads", "1"),
    )
    rows = json.loads(out.read_text())["rows"]
    assert {"maml", "fomaml", "melu", "item-mean", "blr"} <= {r["method"] for r in rows}
    assert {r["method"] for r in rows if r["role"] == "flagship"} == {"flagship-rating"}
    assert rows[0]["method"] == "flagship-rating", "the flagship of the objective stands first"
    assert {r["metric"] for r in rows} == {"rmse", "mae", "ndcg@5"}


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_a_resume_ends_where_an_undisturbed_run_does(command):
    words = ("train", "--dataset", "simulated-users", *SMALL, "--set", "train.epochs=12", "--seed", "5")
    whole = command.json(*words)
    before = {r["id"] for r in command.json("runs", "list")}
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words],
        env=command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    runs = command.home / "runs"
    deadline = time.monotonic() + 120
    while not any(list(p.glob("checkpoints/0*")) for p in runs.iterdir() if p.name not in before):
        assert time.monotonic() < deadline and child.poll() is None, "no checkpoint appeared"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, message = child.communicate(timeout=120)
    if child.returncode == 0:
        pytest.skip("the run ended before the signal reached it")
    assert child.returncode == 1 and "--resume" in message and "Traceback" not in message
    name = next(r["id"] for r in command.json("runs", "list") if r["id"] not in before)
    assert command.json("runs", "list")[0]["status"] == "stopped"
    done = command.json("train", "--resume", name)
    assert done["version"] == whole["version"]
    assert whole["resumed_at"] == 0 < done["resumed_at"] < done["steps"]


def test_wrong_usage_is_exit_2_and_wrong_input_exit_1(command, run):
    command("train", "--split", "sideways", code=2)
    command("evaluate", "x", "--shots", "1,one", code=2)
    assert "no recipe" in command("train", "--recipe", "nothing", "--dataset", "simulated-users", code=1)
    message = command("train", "--dataset", "simulated-users", "--set", "train.epoch=3", code=1)
    assert "train.epoch" in message
    assert "no-such-model" in command("recommend", "no-such-model", code=1)
    assert "no run" in command("train", "--resume", "../../etc", code=1)
    for option, value, own in (("--seed", "7", "0"), ("--split", "time", "seed"), ("--threads", "3", "1")):
        message = command("train", "--resume", run["run"], option, value, code=2)
        assert f"{run['run']} was started with {own}" in message and option in message
    message = command("serve", "--host", "0.0.0.0", code=1)
    assert "API key" in message
    assert "none of" in command("compare", "--dataset", "nowhere", code=1)


@pytest.mark.slow
def test_serve_that_cannot_start_says_why_in_a_line(command, model):
    """And exits 1, as every command that failed: uvicorn's own would be 3."""

    def serve(*words: object, **more: str) -> str:
        asked = [sys.executable, "-m", "pipelines", "serve", *map(str, words)]
        environment = {**command.environment, **more}
        ended = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
        return ended.stderr + ended.stdout

    assert "RECSYS_META_REDIS_URL" in serve(RECSYS_META_REDIS_URL="foo")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = serve("--port", port, "--json")
    assert "address already in use" in said and f'"http://127.0.0.1:{port}"' in said


def test_an_objective_that_cannot_be_trained_is_refused_in_words(command):
    message = command("train", "--recipe", "melu", "--dataset", "simulated-cities", code=1)
    assert "'maml' serves objective click or ranking or rating" in message and "--recipe flagship-choice" in message
    command("data", "prepare", "simulated-users", "--objective", "rating", "--out", command.home / "data" / "stars2")
    message = command("train", "--recipe", "flagship-choice", "--dataset", "stars2", code=1)
    assert "'choice' serves objective choice" in message and "--recipe flagship-rating or --recipe fomaml" in message


def test_nan_stops_the_run_with_a_reason_and_keeps_the_checkpoint(command):
    words = ("train", "--dataset", "simulated-users", *SMALL, "--set", "train.rate=1e30", "--set", "train.clip=1e30")
    message = command(*words, code=1)
    assert "not finite" in message and "train.rate" in message
    last = command.json("runs", "list")[0]
    assert last["status"] == "failed" and "not finite" in last["reason"]


def test_the_database_goes_down_and_up_with_its_rows(command, run):
    assert command.json("db", "current")["revision"]
    command("db", "upgrade")
    assert any(r["id"] == run["run"] for r in command.json("runs", "list"))
    assert command.json("db", "prune", "--days", "1") == {
        "runs": 0,
        "adaptations": 0,
        "impressions": 0,
        "outcomes": 0,
        "explorations": 0,
        "alerts": 0,
        "newcomer_results": 0,
        "paired_tests": 0,
        "evaluations": 0,
        "log_emptied": True,
    }


def test_doctor_finds_the_installation_whole(command, model):
    states = {c["what"]: c["state"] for c in command.json("doctor")}
    assert states["database"] == states["models"] == states["home"] == "ok"


@pytest.mark.parametrize(
    "url", ["redis+cluster://127.0.0.1:{port}", "redis://127.0.0.1:notaport", "redis://127.0.0.1:{port}"]
)
def test_doctor_names_a_redis_that_cannot_be_asked(command, model, url):
    with_redis = replace(command, more={"RECSYS_META_REDIS_URL": url.format(port=free_port())})
    said = with_redis("doctor", "--json", code=1, printed=True)
    states = {c["what"]: c["state"] for c in json.loads(said)}
    assert (states["cache"], states["models"]) == ("failed", "ok")


def test_doctor_names_data_sets_of_ones_own(command, run):
    own = command.home / "data" / "my-shop"
    own.symlink_to(command.home / "data" / "simulated-users")
    try:
        details = {c["what"]: c["detail"] for c in command.json("doctor")}
    finally:
        own.unlink()
    assert "my-shop" in details["data"] and "simulated-users" in details["data"]


def test_erasing_an_entity_gives_a_receipt(command, model):
    receipt = command.json("entities", "delete", "user", "nobody", "--yes")
    assert receipt["events"] == 0 and receipt["receipt"]
    assert receipt["cached"] is None, "no Redis is set, so nobody looked into one"


def test_a_run_that_the_database_does_not_know_is_published(command, run, tmp_path):
    """As where a model was trained beside one database and is served beside another: the run comes along."""
    (tmp_path / "runs").symlink_to(command.home / "runs")
    elsewhere = replace(command, home=tmp_path)
    made = elsewhere.json("models", "publish", run["run"], "--name", "shop", "--force")
    shown = elsewhere.json("models", "show", "shop")
    assert (shown["live"], shown["versions"][0]["run"]) == (made["version"], run["run"])
    assert elsewhere.json("runs", "show", run["run"]) == command.json("runs", "show", run["run"])


def test_who_deletes_is_told_that_a_reader_keeps_the_log(command, run, monkeypatch):
    monkeypatch.setattr(engine, "TRUNCATE_S", 0.1)
    erase, prune = ("entities", "delete", "user", "somebody", "--yes"), ("db", "prune", "--days", "36500")
    with house(command).session() as session:
        upsert_entity(session, "user", "somebody", {})
    with house(command).reading() as reader:
        page_runs(reader)
        assert [command.json(*words)["log_emptied"] for words in (erase, prune)] == [False, False]
    assert [command.json(*words)["log_emptied"] for words in (erase, prune)] == [True, True]
