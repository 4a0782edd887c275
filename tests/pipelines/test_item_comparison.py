"""`compare --scenario items`: the table, the JSON file, the stored rows, and what is wrong in one line."""

import json

import pytest

from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.tracking.evaluations import page_evaluations

ITEMS = ("compare", "--dataset", "simulated-users", "--scenario", "items", "--seeds", 1)


@pytest.fixture(scope="module")
def prepared(command):
    command("data", "prepare", "simulated-users")
    return command


@pytest.mark.slow
def test_methods_for_new_items_side_by_side(prepared, tmp_path):
    file = tmp_path / "items.json"
    printed = prepared(*ITEMS, "--shots", "0,3", "--baselines", "random,itemknn", "--json", file)
    assert "content-blend" in printed and "itemknn" in printed and "new-items" in printed
    content = json.loads(file.read_text())
    views = {r["scenario"].split("/")[0] for r in content["rows"]}
    assert views == {f"new-items-{v}" for v in ("among-new", "among-all", "known-beside", "once-trained")}
    among = [r for r in content["rows"] if r["seed"] is None and "among-new" in r["scenario"]]
    rows = {(r["method"], r["shots"], r["metric"]): r for r in among}
    assert {m for m, _, _ in rows} == {"content-blend", "served", "random", "itemknn"}
    assert rows["served", 0, "ndcg@20"]["value"] > rows["random", 0, "ndcg@20"]["value"]
    assert rows["content-blend", 0, "ndcg@20"]["value"] > rows["random", 0, "ndcg@20"]["value"]
    beside = {p["against"] for p in content["beside"] if "among-all" in p["scenario"]}
    assert beside == {"served", "random", "itemknn"}
    served = [p for p in content["beside"] if p["method"] == "served" and "among-new" in p["scenario"]]
    assert [p["shots"] for p in served] == [0, 3] and {p["against"] for p in served} <= {"random", "itemknn"}
    assert all(p["low"] <= p["difference"] <= p["high"] for p in served)
    beside_known = {r["method"] for r in content["rows"] if "known-beside" in r["scenario"]}
    assert beside_known == {"content-blend", "served", "random", "itemknn", "no-new-items", "once-trained"}
    with reading(connect(f"sqlite:///{prepared.home}/recsys-meta.db")) as session:
        stored = page_evaluations(session, method="content-blend").items
    assert {r.metric for r in stored} >= {"ndcg@20", "recall@20", "ndcg@10", "share@10"}
    assert {r.scenario.split("/")[0] for r in stored} == views


@pytest.mark.parametrize(
    "options, code, said",
    [
        (["--baselines", "ease"], 1, "no baseline 'ease' for new items"),
        (["--learners", "maml"], 1, "there are content-blend and served"),
        (["--truth"], 2, "is not for --scenario items"),
    ],
)
def test_what_does_not_go_together_is_said(prepared, options, code, said):
    assert said in " ".join(prepared(*ITEMS, *options, code=code).split())
