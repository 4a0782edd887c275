"""`import recsys_meta as rm`: what the commands do, from Python and from pandas frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

import recsys_meta as rm
from pipelines.experiments import comparison_run
from recsys_meta.core.errors import ConfigError, DataError, RecsysMetaError
from recsys_meta.data import prepare_custom
from tests.contract.naming import ROOT
from tests.pipelines.conftest import Command

SCHEMA = {
    "name": "shop",
    "entity": "customer",
    "item": "article",
    "time": "at",
    "shots": [0, 2, 5],
    "entity_features": [{"name": "town"}],
    "item_features": [{"name": "tags", "kind": "multi"}, {"name": "price", "kind": "numeric"}],
}
SHORT = {"train.epochs": 1, "config.dims": 8}


def frames(customers=80, articles=30, rows=12):
    """Customers of two towns, each of which likes one half of the articles."""
    rng = np.random.default_rng(0)
    town = rng.integers(0, 2, customers)
    parts = []
    for c in range(customers):
        weight = np.where(np.arange(articles) % 2 == town[c], 5.0, 1.0)
        article = rng.choice(articles, rows, replace=False, p=weight / weight.sum())
        parts.append(pd.DataFrame({"customer": c, "article": [f"a{i}" for i in article], "at": np.arange(rows) * 60}))
    events = pd.concat(parts, ignore_index=True)
    events["at"] = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(events["at"], unit="s")
    items = pd.DataFrame(
        {
            "article": [f"a{i}" for i in range(articles)],
            "tags": [["odd" if i % 2 else "even", "new"] for i in range(articles)],
            "price": np.where(np.arange(articles) == 3, np.nan, np.arange(articles) / 2),
            "label": [f"Article {i}" for i in range(articles)],
        }
    )
    return events, items, pd.DataFrame({"customer": range(customers), "town": np.where(town, "north", "south")})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("RECSYS_META_")]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("RECSYS_META_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def shop(home):
    events, items, customers = frames()
    return rm.prepare(events, SCHEMA, items=items, entities=customers, title="label")


@pytest.fixture(scope="module")
def run(shop):
    return rm.train(shop, "maml", settings=SHORT, threads=1)


def test_importing_the_package_is_quick():
    code = "import sys, recsys_meta as rm; print(rm.__version__); assert 'train' in dir(rm)\n"
    code += "assert not {'torch', 'pandas', 'pydantic', 'pipelines'} & set(sys.modules), sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    with pytest.raises(AttributeError, match="has no attribute 'tarin'"):
        _ = rm.tarin


def test_a_frame_means_what_its_file_means(shop, tmp_path):
    events, items, customers = frames()
    events["at"] = [at.isoformat() for at in events["at"]]
    items["tags"] = ["|".join(tags) for tags in items["tags"]]
    for name, frame in (("events", events), ("items", items), ("customers", customers)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    lines = [f"{key} = {json.dumps(value)}" for key, value in SCHEMA.items() if not key.endswith("features")]
    lines += ['entity_features = [{ name = "town" }]']
    lines += ['item_features = [{ name = "tags", kind = "multi" }, { name = "price", kind = "numeric" }]']
    lines += [
        "[files]",
        'events = "events.csv"',
        'items = "items.csv"',
        'entities = "customers.csv"',
        'title = "label"',
    ]
    (tmp_path / "shop.toml").write_text("\n".join(lines))
    other = prepare_custom(tmp_path / "shop.toml", tmp_path / "out")
    assert other.digest == shop.data.digest
    assert "shop" in repr(shop) and "960 events of 80 entities" in repr(shop)
    assert rm.load("shop").data.digest == shop.data.digest


def test_wrong_frames_are_one_line_with_frame_and_row(home):
    events, items, customers = frames(customers=4)
    with pytest.raises(ConfigError, match=r"schema: obiective: .*did you mean objective\?"):
        rm.prepare(events, {**SCHEMA, "obiective": "rating"})
    with pytest.raises(ConfigError, match="comes with the project"):
        rm.prepare(events, {**SCHEMA, "name": "movielens-1m"})
    with pytest.raises(DataError, match=r"^frame of events.*'article'"):
        rm.prepare(events.drop(columns="article"), SCHEMA, items=items, entities=customers)
    with pytest.raises(DataError, match=r"^frame of events, line 3, field 'at'"):
        rm.prepare(
            events.assign(at=["x" if i == 2 else "2024-01-01" for i in range(len(events))]),
            SCHEMA,
            items=items,
            entities=customers,
        )
    with pytest.raises(DataError, match=r"^frame of items, line 2, field 'price': 'x' is not a finite number"):
        rm.prepare(events, SCHEMA, items=items.assign(price=[1, *["x"] * (len(items) - 1)]), entities=customers)
    with pytest.raises(DataError, match="is a list, not a pandas DataFrame"):
        rm.prepare([1, 2], SCHEMA)
    with pytest.raises(DataError, match=r"^frame of events: Duplicate column names"):
        rm.prepare(pd.concat([events, events[["at"]]], axis=1), SCHEMA)
    with pytest.raises(ConfigError, match="on_error is fail or skip"):
        rm.prepare(events, SCHEMA, on_error="ignore")
    with pytest.raises(ConfigError, match="schema: a NoneType"):
        rm.prepare(events, None)
    assert not (home / "data" / "movielens-1m").exists()


def test_a_run_is_evaluated_published_and_recommends_as_the_commands_do(home, shop, run, tmp_path):
    command = Command(home)
    curve = rm.evaluate(run, ["chance"])
    assert {"maml", "popularity", "chance"} <= set(curve["method"]) and set(curve["shots"]) == {0, 2, 5}
    model = rm.publish(run, "shop", force=True)
    assert model == f"shop@{run.bundle.version}"
    command("evaluate", "shop", "--baselines", "chance", "--json", tmp_path / "curve.json")
    rows = [row for row in json.loads((tmp_path / "curve.json").read_text())["rows"] if row["seed"] is None]
    assert curve["value"].tolist() == [row["value"] for row in rows]
    expected = command.json("recommend", "shop", "--items", "a1,a3", "--feature", "town=north", "-n", "4")["items"]
    for source in (model, run, run.bundle, rm.Recommender(run.bundle)):
        answer = rm.recommend(source, ["a1", "a3"], 4, {"town": "north"})
        assert answer.to_dict("records") == expected
    frame = pd.DataFrame({"article": ["a1", "a3"], "at": pd.to_datetime(["2024-01-02", "2024-01-03"], utc=True)})
    entity = rm.adapt("shop", frame, {"town": "north"})
    assert entity.recommend(4).to_dict("records") == expected
    assert set(entity.recommend(candidates=["a2", "a4"])["item"]) == {"a2", "a4"}
    assert len(rm.recommend("shop")) == 10
    runs = {row["id"]: row["status"] for row in command.json("runs", "list")}
    assert runs[run.spec.id] == "finished"
    assert rm.resume(run.spec.id).bundle.version == run.bundle.version


def test_methods_are_compared_as_the_command_does(home, shop, tmp_path, caplog, monkeypatch):
    """Without trainings: a learner that fails is left out, with a warning."""

    def fail(*_, **__):
        raise RecsysMetaError("out of memory")

    monkeypatch.setattr(comparison_run, "train_run", fail)
    ours = rm.compare(shop, ["maml"], ["popularity", "itemknn"], seeds=2, shots=[0, 2], newcomers=12, threads=1)
    assert list(ours.columns) == ["method", "shots", "metric", "value", "low", "high"]
    assert set(ours.method) == {"popularity", "itemknn"} and set(ours.shots) == {0, 2}
    assert "maml failed, seed 0: out of memory" in caplog.text
    words = ("compare", "--dataset", shop.folder, "--learners", "none", "--baselines", "popularity,itemknn")
    Command(home)(*words, "--seeds", "2", "--shots", "0,2", "--newcomers", "12", "--json", tmp_path / "theirs.json")
    theirs = [r for r in json.loads((tmp_path / "theirs.json").read_text())["rows"] if r["seed"] is None]
    assert {(r["method"], r["shots"], r["metric"]): r["value"] for r in theirs} == {
        (r.method, r.shots, r.metric): r.value for r in ours.itertuples()
    }


def test_errors_are_those_of_the_commands(shop, run):
    with pytest.raises(ConfigError, match=r"train\.epoch: .*did you mean epochs"):
        rm.train(shop, "maml", settings={"train.epoch": 3})
    with pytest.raises(ConfigError, match=r"settings: train\.epochs: .* is no number"):
        rm.train(shop, "maml", settings={"train.epochs": object()})
    with pytest.raises(RecsysMetaError, match="no recipe 'mml'"):
        rm.train(shop, "mml")
    with pytest.raises(ConfigError, match="is no prepared data set"):
        rm.train("nowhere")
    with pytest.raises(RecsysMetaError, match="no run 'x'"):
        rm.publish("x")
    with pytest.raises(DataError, match="is a text, not a list"):
        rm.recommend(run, "a1")
    with pytest.raises(DataError, match=r"^frame of events"):
        rm.recommend(run, pd.DataFrame({"what": ["a1"]}))


def test_ctrl_c_stops_with_a_checkpoint_and_resume_goes_on(home, shop):
    before = set((home / "runs").glob("*"))

    def press():
        while not [f for r in set((home / "runs").glob("*")) - before for f in r.glob("*") if f.is_dir()]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    recipe = {"name": "long", "learner": "maml", "train": {"epochs": 4000, "patience": 4000}, "config": {"dims": 4}}
    with pytest.raises(RecsysMetaError, match="stopped at step") as stopped:
        rm.train(shop, recipe, threads=1)
    thread.join()
    assert "--resume" in str(stopped.value)
    (folder,) = set((home / "runs").glob("*")) - before
    assert folder.name in str(stopped.value)


def test_the_fifteen_lines_of_the_documentation_run(home, tmp_path, monkeypatch, capsys):
    """As printed, but for a smaller training."""
    printed = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert sum(bool(line.strip()) for line in printed.splitlines()) <= 15
    events, items, _ = frames(customers=200)
    film = {"article": "film", "label": "title"}
    ids = {f"a{i}": f"f{i}" for i in range(30)}
    events = events.replace({"article": ids}).rename(columns={"customer": "user", **film})
    events.assign(stars=np.arange(len(events)) % 2 + 4).to_csv(tmp_path / "ratings.csv", index=False)
    items.assign(genre="drama").replace({"article": ids}).rename(columns=film)[["film", "title", "genre"]].to_csv(
        tmp_path / "films.csv", index=False
    )
    monkeypatch.chdir(tmp_path)
    small = '"train.epochs": 40, "ensemble.members": [], "new_items.choose": False'
    names: dict = {}
    exec(compile(printed.replace('"train.epochs": 10', small), "docs/python.md", "exec"), names)
    assert names["model"] == f"mine@{names['run'].bundle.version}"
    assert "itemknn" in (said := capsys.readouterr().out) and "Article" in said
    assert names["newcomer"].recommend(3)["rank"].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "docs" / "notebooks" / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    monkeypatch.setenv("RECSYS_META_HOME", str(tmp_path))
    names: dict = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 6 and all(not cell["outputs"] for cell in cells)
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(names["films"]) == 5 and names["model"].startswith("mine@")
