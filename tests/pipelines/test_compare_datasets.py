"""`compare` on several data sets in one go: of several objectives, by name, folder and schema, and one that fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from pipelines.commands.comparison_output import SummaryOutput
from pipelines.experiments.dataset_sources import DatasetSource, open_sources
from pipelines.experiments.dataset_summary import DatasetFailure
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.settings import Settings
from tests.pipelines import test_fourth_kind

SCHEMA = """
name = "shop"
objective = "{objective}"
label = "stars"
label_range = [1, 5]
shots = [0, 3]

[files]
events = "bought.csv"
"""
FEW = ("--seeds", "1", "--threads", "1", "--set", "train.epochs=1", "--set", "config.dims=4")
FEW += ("--set", "train.least_steps=0")


def write_shop(folder, objective="ranking", users=50, events=12, items=30):
    """Users of two tastes who buy items of their half, and rate them by it; one TOML schema beside a table."""
    rng = np.random.default_rng(1)
    lines = ["user,item,stars"]
    for user in range(users):
        taste = rng.permutation(items // 2)[:events] * 2 + user % 2
        lines += [f"u{user},i{item},{1 + (item + user) % 5}" for item in taste]
    folder.mkdir(parents=True)
    (folder / "bought.csv").write_text("\n".join(lines) + "\n")
    (folder / "shop.toml").write_text(SCHEMA.format(objective=objective))
    return folder


def workspace_of(command) -> Workspace:
    return Workspace(Settings(home=command.home, database_url="", redis_url="", api_keys=""))


@pytest.fixture(scope="module")
def compared(command, tmp_path_factory):
    """What a comparison on four data sets, of which one is missing, printed and wrote."""
    folder = tmp_path_factory.mktemp("compared")
    shop = write_shop(folder / "shop")
    ratings = command.home / "data" / "ratings"
    command("data", "prepare", write_shop(folder / "stars", "rating") / "shop.toml", "--out", ratings)
    (folder / "counters").mkdir()
    test_fourth_kind.write(folder / "counters", shops=40, visits=20)
    out = folder / "compared.json"
    printed = command(
        *("compare", "--dataset", shop, "--dataset", "nowhere", "--dataset", "ratings"),
        *("--dataset", folder / "counters" / "counters.toml", "--learners", "posterior,maml"),
        *("--baselines", "popularity,item-mean", "--json", out, "--html", folder / "html", *FEW),
        code=1,
        printed=True,
    )
    return printed, json.loads(out.read_text()), folder


def test_each_data_set_counts_in_its_own_metric(compared):
    _, content, _ = compared
    found = {o["dataset"].partition(" ")[0]: [] for o in content["datasets"]["outcomes"]}
    for o in content["datasets"]["outcomes"]:
        found[o["dataset"].partition(" ")[0]].append((o["metric"], o["method"]))
        assert o["wins"] + o["ties"] + o["losses"] + o["undefined"] == len(o["points"]) > 0
    assert found == {"shop": [("ndcg@10", "maml"), ("rmse", "maml")], "counters": [("logloss", "posterior")]}


def test_data_sets_of_one_name_are_told_apart_by_their_folders(command, compared):
    _, content, folder = compared
    names = [f"shop ({folder / 'shop'})", f"shop ({command.home / 'data' / 'ratings'})", "counters"]
    assert [o["dataset"] for o in content["datasets"]["outcomes"]] == names
    for key in ("rows", "paired", "beside", "methods", "change"):
        assert {r["dataset"] for r in content[key]} == set(names), key
    # The same in SQL, where nothing else tells them apart.
    with workspace_of(command).reading() as session:
        stored = session.execute(text("SELECT DISTINCT dataset FROM evaluations")).scalars().all()
    assert set(names) <= set(stored)


def test_a_data_set_that_fails_is_named_and_costs_the_others_nothing(compared):
    _, content, _ = compared
    (failure,) = content["datasets"]["failed"]
    assert failure["dataset"] == "nowhere" and "none of" in failure["reason"]


def test_verdicts_and_ranks_agree_with_the_rows(compared):
    _, content, _ = compared
    paired = {(p["dataset"], p["shots"]): p for p in content["paired"] if p["metric"] in ("ndcg@10", "rmse", "logloss")}
    for o in content["datasets"]["outcomes"]:
        sign = 1 if o["metric"] == "ndcg@10" else -1
        for point in o["points"]:
            same = paired[o["dataset"], point["shots"]]
            assert (point["low"], point["high"]) == (same["low"], same["high"])
            low, high = sorted((sign * same["low"], sign * same["high"]))
            assert point["verdict"] == ("win" if low > 0 else "loss" if high < 0 else "tie")
    ranks = {m["method"]: m for m in content["datasets"]["mean_ranks"]}
    assert ranks["maml"]["datasets"] == 3 and ranks["posterior"]["datasets"] == 1
    assert all(1 <= m["mean_rank"] <= m["mean_methods"] for m in ranks.values())


def test_mean_ranks_are_derived_from_sql_as_the_documentation_says(command, compared):
    _, content, _ = compared
    document = Path(__file__).parents[2] / "docs" / "database.md"
    query = next(
        part for part in document.read_text().split("```sql")[1].split("```")[0].split(";") if "AS mean_rank" in part
    )
    label = next(o["dataset"] for o in content["datasets"]["outcomes"] if o["metric"] == "ndcg@10")
    with workspace_of(command).reading() as session:
        query = query.replace("'movielens-1m', 'movielens-100k'", "'" + label + "'")
        stored = {row.method: row.mean_rank for row in session.execute(text(query))}
    rows = [
        r for r in content["rows"]
        if (r["dataset"], r["metric"], r["seed"]) == (label, "ndcg@10", None)
    ]  # fmt: skip
    values = {m: [r["value"] for r in sorted(rows, key=lambda r: r["shots"]) if r["method"] == m] for m in stored}
    expected = {
        m: np.mean([1 + sum(o[i] > v[i] for o in values.values()) for i in range(2)]) for m, v in values.items()
    }
    assert stored == pytest.approx(expected) and len(stored) >= 3


def test_reports_have_a_page_for_each_data_set_and_one_for_all(compared):
    printed, _, folder = compared
    assert "wins" in printed and "mean rank" in printed and ("Largest loss" in printed or "No loss" in printed)
    page = (folder / "html" / "report.html").read_text()
    links = [part.partition('"')[0] for part in page.split('<a href="')[1:]]
    assert len(links) == 3 and all((folder / "html" / link).is_file() for link in links)
    assert "nowhere" in page and (folder / "html" / "datasets.png").read_bytes().startswith(b"\x89PNG")


def test_one_data_set_has_the_keys_that_it_always_had(command, compared, tmp_path):
    _, content, folder = compared
    words = ("--learners", "none", "--baselines", "popularity", "--json", tmp_path / "one.json", *FEW)
    command("compare", "--dataset", folder / "shop", *words)
    one = json.loads((tmp_path / "one.json").read_text())
    assert list(one) == ["command", "created", "rows", "paired", "beside", "among", "methods", "change"]
    assert {r["dataset"] for r in one["rows"]} == {"shop"}
    assert all("dataset" not in m for m in one["methods"])
    assert [*one, "datasets"] == list(content)


def test_a_wrong_name_or_a_data_set_given_twice_is_an_error_before_anything_is_trained(command, compared):
    _, _, folder = compared
    runs = command.json("runs", "list", "--limit", "100")
    two = ("compare", "--dataset", folder / "shop", "--dataset", "ratings")
    assert "no baseline 'popularty'" in command(*two, "--baselines", "popularty", code=1)
    assert "no recipe 'mamel'" in command(*two, "--learners", "mamel", code=1)
    file = folder / "shop" / "bought.csv"
    assert "cannot be written" in command(*two, "--html", file, code=1)
    assert "cannot be written" in command(*two, "--json", file / "out.json", code=1)
    assert "is a folder" in command(*two, "--json", folder, code=1)
    same = folder / "shop" / "shop.toml"
    assert "are one data set" in command("compare", "--dataset", folder / "shop", "--dataset", same, code=1)
    assert command.json("runs", "list", "--limit", "100") == runs


def test_a_data_set_that_no_method_serves_fails_alone(command, compared, tmp_path):
    _, _, folder = compared
    out = tmp_path / "out.json"
    words = ("--learners", "none", "--baselines", "nearest,popularity", "--json", out, *FEW)
    assert "failed:" not in command("compare", "--dataset", folder / "shop", "--dataset", "ratings", *words)
    words = ("--learners", "none", "--baselines", "itemknn", "--json", out, *FEW)
    complaint = command("compare", "--dataset", folder / "shop", "--dataset", "ratings", *words, code=1)
    assert "failed: ratings: none of itemknn serves a rating" in complaint
    content = json.loads(out.read_text())
    assert [o["metric"] for o in content["datasets"]["outcomes"]] == ["ndcg@10"]


def test_the_summary_is_written_after_each_data_set(tmp_path):
    """So that a command that is killed leaves what it has done."""
    output = SummaryOutput(tmp_path / "so-far.json")
    output.add_failure(DatasetFailure("first", "gone"))
    output.add(DatasetSource("second", tmp_path, "second"), [])
    content = json.loads((tmp_path / "so-far.json").read_text())
    assert content["rows"] == [] and content["datasets"]["failed"] == [{"dataset": "first", "reason": "gone"}]
    assert output.finish() == 1


def test_a_schema_is_prepared_anew_when_its_files_changed(command, tmp_path):
    shop = write_shop(tmp_path / "fresh")
    workspace = workspace_of(command)
    first, folder = workspace.dataset(str(shop))
    with (shop / "bought.csv").open("a") as file:
        file.write("someone,i1,4\n")
    second, again = workspace.dataset(str(shop / "shop.toml"))
    assert again == folder and len(second.events) == len(first.events) + 1
    with pytest.raises(ConfigError, match="no TOML schema"):
        workspace.dataset(str(tmp_path))
    with pytest.raises(ConfigError, match="none of"):
        workspace.dataset("")


def test_sources_keep_their_names_unless_two_have_one(command, compared):
    _, _, folder = compared
    workspace = workspace_of(command)
    sources, failures = open_sources(workspace, [str(folder / "shop"), "gone"])
    assert [s.label for s in sources] == ["shop"] and [f.dataset for f in failures] == ["gone"]
