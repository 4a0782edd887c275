"""`python -m tests.golden.make` makes the golden artefacts anew: small bundles with what they answer, and a checkpoint.

They are meant to be old: made before a change, they tell whether it altered what a model answers. Make them anew only
where answers, the format of bundles or that of checkpoints change on purpose.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys_meta.data import prepare, simulate_ads, simulate_cities, simulate_users
from tests.golden.home import GOLDEN, RUN, command, figures, published, read, served, write

SHORT = (
    "train.epochs=2",
    "train.least_steps=0",
    "train.tasks=16",
    "train.validate_every=1",
    "train.warmup=1",
    "ensemble.members=[]",
)
MEMORIES = 'config.memories=["posterior", "ease", "cosine", "recent"]'
CVAR = '{base="two-tower",dims=4,hidden=[8,8],latent=4,own_level=true,base_epochs=2}'
MEMBERS = (
    '[{learner="bernoulli",config={dims=3,context_dims=2,hidden=4,sweeps=3,folds=2}},'
    f'{{learner="cvar",config={CVAR},rate=0.2,tasks=8,query=10}}]'
)
MODELS = {
    "users": ("flagship", ("config.dims=4", "config.towers=2", "config.neighbours=8", "config.subspace=4", MEMORIES)),
    "maml-users": ("maml", ("config.dims=6",)),
    "ads": ("flagship-click", (f"config.members={MEMBERS}",)),
    "cities": ("flagship-choice", ("config.hidden=4", "config.negatives=20", "config.bonus=2", "config.adapts=true")),
}
"""Bundles by name: recipe, and what makes it small."""

STOP = 6
"""The step at which the run with a checkpoint counts as interrupted."""


def worlds(folder: Path) -> None:
    """Small simulated data sets, prepared."""
    made = {
        "users": simulate_users(users=80, items=40, events=1200, seed=1),
        "ads": simulate_ads(ads=60, users=40, events=1500, seed=1),
        "cities": simulate_cities(cities=16, places=320, people=64, events=2400, seed=1),
    }
    for name, world in made.items():
        prepare(world.tables, folder / name)


def settings(words: tuple[str, ...]) -> list[str]:
    """Options of `train`."""
    return [part for word in words for part in ("--set", word)]


def train(home: Path, recipe: str, dataset: Path, *words: str) -> dict[str, Any]:
    """A finished run."""
    options = settings((*SHORT, *words))
    return command(home, "train", "--recipe", recipe, "--dataset", dataset, "--threads", 1, *options)


def plan_of(home: Path, run: str) -> dict[str, Any]:
    """run.json without what is of this machine."""
    return {**json.loads((home / "runs" / run / "run.json").read_text()), "id": RUN, "dataset": "FOLDER"}


def bundles(home: Path, data: Path) -> None:
    """Train and keep each bundle with its plan."""
    versions = {}
    for name, (recipe, words) in MODELS.items():
        done = train(home, recipe, data / name.removeprefix("maml-"), *words)
        (bundle,) = (home / "runs" / done["run"] / "bundle").iterdir()
        target = GOLDEN / "bundles" / name
        shutil.copytree(bundle, target)
        write(f"bundles/{name}.run.json", plan_of(home, done["run"]))
        versions[name] = bundle.name
    write("bundles/versions.json", versions)


def checkpoint(home: Path, data: Path) -> None:
    """A run of the flagship as it stood at a step, and how it ended."""
    words = ("train.epochs=4", "train.keep=100", "train.checkpoint_every=1", *MODELS["users"][1])
    done = train(home, "flagship", data / "users", *words)
    folder = home / "runs" / done["run"]
    step = f"{STOP:08d}"
    shutil.copytree(folder / "checkpoints" / step, GOLDEN / "run" / "checkpoints" / step)
    shutil.copytree(data / "users", GOLDEN / "run" / "data")
    end = {"steps": done["steps"], "valid": done["valid"], "metrics": figures(home, done["run"])}
    write("run/run.json", plan_of(home, done["run"]))
    write("run/end.json", end)


def questions(data: Path) -> dict[str, Any]:
    """Requests to the API by name: a path and a body."""
    rng = np.random.default_rng(0)
    films = [str(v) for v in pd.read_parquet(GOLDEN / "bundles/users/vocab.parquet").query("space == 'item'")["value"]]
    asked: dict[str, Any] = {}
    features = {"gender": "F", "age": "25-34", "occupation": "engineer"}
    for model in ("users", "maml-users"):
        for shots in (0, 1, 5, 12):
            # Likes only: their answers are older than dislikes.
            events = [{"item": str(i), "label": 3.0 + k % 3} for k, i in enumerate(rng.choice(films, shots, False))]
            entity = {"features": features if shots % 2 else {}}
            asked[f"{model}, {shots} events"] = (
                "/v1/recommendations",
                {"model": model, "entity": entity, "events": events, "n": 8},
            )
        events = [{"item": i} for i in films[3:9]]
        body = {"model": model, "events": events}
        choice = {
            "candidates": films[5:25],
            "exclude": films[12:14],
            "filters": {"genres": {"any": ["drama", "crime"]}},
        }
        asked[f"{model}, chosen and explained"] = ("/v1/recommendations", {**body, **choice, "explain": True, "n": 5})
        asked[f"{model}, scores"] = ("/v1/score", {**body, "items": [*films[20:25], "nobody"]})
        asked[f"{model}, adapted"] = ("/v1/adapt", body)
    people = [str(v) for v in pd.read_parquet(GOLDEN / "bundles/ads/vocab.parquet").query("space == 'item'")["value"]]
    entity = {"features": {"category": "books", "words": "cheap new gift", "price": 12.5}}
    for shots in (0, 1, 7, 25):
        events = [
            {
                "item": str(i),
                "label": float(k % 3 == 0),
                "context": {"position": str(1 + k % 4), "hour": str(8 + k % 9)},
            }
            for k, i in enumerate(rng.choice(people, shots))
        ]
        rows = [{"item": i, "context": {"position": str(1 + k)}} for k, i in enumerate([*people[:5], "nobody"])]
        body = {"model": "ads", "entity": entity if shots % 2 else {}, "events": events}
        asked[f"ads, {shots} events"] = ("/v1/score", {**body, "rows": rows})
    asked["ads, adapted"] = ("/v1/adapt", body)
    asked["ads, a list"] = ("/v1/recommendations", {**body, "n": 6, "moment": {"context": {"position": "1"}}})
    for shots in (0, 4, 40):
        walks = [
            {
                "item": f"new{(n * n + n // 7) % 12}",
                "time": 1_600_000_000.0 + 3600 * n,
                "context": {
                    "actor": f"a{n % 5}",
                    "lat": 50 + (n * n + n // 7) % 12 / 100,
                    "lon": 8.0,
                    "venue": ("cafe", "bar", "park")[(n * n + n // 7) % 3],
                    "hour": str(n % 24),
                },
            }
            for n in range(shots)
        ]
        told = [
            {"item": f"told{k}", "features": {"lat": 50.01 + k / 200, "lon": 8.01, "venue": "bar"}} for k in range(4)
        ]
        moment = {"actor": "a1", "context": {"hour": "12"}}
        body = {"model": "cities", "entity": {"features": {"country": "C", "climate": "mild"}}, "events": walks}
        asked[f"cities, {shots} events"] = ("/v1/recommendations", {**body, "moment": moment, "n": 6})
        asked[f"cities, {shots} events, told"] = (
            "/v1/recommendations",
            {**body, "moment": {**moment, "lat": 50.02, "lon": 8.0}, "candidates": told, "n": 4},
        )
    return asked


def main() -> None:
    """Make all of it anew."""
    for name in ("bundles", "run"):
        shutil.rmtree(GOLDEN / name, ignore_errors=True)
        (GOLDEN / name).mkdir()
    with TemporaryDirectory() as folder:
        home, data = Path(folder) / "home", Path(folder) / "data"
        home.mkdir()
        worlds(data)
        bundles(home, data)
        checkpoint(home, data)
        requests = questions(data)
        fresh = Path(folder) / "fresh"
        fresh.mkdir()
        for name in MODELS:
            published(fresh, GOLDEN / "bundles" / name, read(f"bundles/{name}.run.json"), name)
        write("requests.json", requests)
        write("answers.json", served(fresh, requests))
        write("libraries.json", {"pandas": pd.__version__, "pyarrow": pa.__version__})


if __name__ == "__main__":
    sys.exit(main())
