"""A kind of newcomer that nobody thought of: a schema, a file of events, and no line of code."""

from __future__ import annotations

import json

import numpy as np

SCHEMA = """
name = "counters"
kind = "shop"
objective = "click"
entity = "shop"
item = "customer"
label = "bought"
label_range = [0, 1]
time = "at"
shots = [0, 4]
context = [{ name = "shelf" }, { name = "discount", kind = "numeric" }]
entity_features = [{ name = "trade" }]

[files]
events = "visits.csv"
entities = "shops.csv"
"""
RECIPE = """
name = "shops"
learner = "bernoulli"
config = { dims = 2, hidden = 0 }
episodes = { max_shots = 10, max_query = 20 }
train = { tasks = 16, epochs = 3, rate = 0.01 }
curriculum = { name = "hardness" }
"""


def write(folder, shops=60, visits=40):
    rng = np.random.default_rng(0)
    trade, luck = rng.integers(0, 3, shops), rng.normal(size=shops)
    lines = []
    for shop in range(shops):
        for turn in range(visits):
            shelf, discount = rng.integers(0, 4), rng.random()
            chance = 1 / (1 + np.exp(-(trade[shop] - 2 + luck[shop] - 0.7 * shelf + 1.5 * discount)))
            bought = int(rng.random() < chance)
            lines.append(
                f"shop{shop},c{rng.integers(0, 50)},{bought},{1_700_000_000 + 60 * turn},s{shelf},{discount:.2f}"
            )
    (folder / "visits.csv").write_text("\n".join(["shop,customer,bought,at,shelf,discount", *lines]) + "\n")
    kinds = [f"shop{shop},trade{trade[shop]}" for shop in range(shops)]
    (folder / "shops.csv").write_text("\n".join(["shop,trade", *kinds]) + "\n")
    (folder / "counters.toml").write_text(SCHEMA)
    (folder / "shops.toml").write_text(RECIPE)


def test_a_shop_is_a_schema_and_a_recipe(command, tmp_path):
    write(tmp_path)
    out = command.home / "data" / "counters"
    command("data", "prepare", tmp_path / "counters.toml", "--out", out)
    run = command.json("train", "--recipe", tmp_path / "shops.toml", "--dataset", out, "--threads", "1")
    model = command.json("models", "publish", run["run"], "--name", "shops", "--force")["model"]
    command(
        "evaluate", model, "--dataset", out, "--baselines", "popularity,position-rate", "--json", tmp_path / "e.json"
    )
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    loss = {(r["method"], r["shots"]): r["value"] for r in rows if r["metric"] == "logloss" and r["seed"] is None}
    assert loss["shops", 4] < loss["shops", 0] < loss["popularity", 0]
    assert {r["scenario"].partition("/")[0] for r in rows} == {"new-shops"}
    events = tmp_path / "events.csv"
    events.write_text("item,label,shelf,discount\nc1,1,s0,0.5\nc2,0,s3,0.1\n")
    answer = command.json("recommend", model, "--events", events, "--feature", "trade=trade2", "-n", "3")
    assert (answer["support_size"], len(answer["items"])) == (2, 3)
