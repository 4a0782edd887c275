"""Small bundles for the API's tests: MAML, or another learner, trained for a second, and popularity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.bundle import Bundle, make_bundle, save_bundle
from recsys_meta.models.learners import LEARNERS
from recsys_meta.store.database import engine
from recsys_meta.store.model_registry import registry
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.evaluations import NewEvaluation
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import ranking_world, rating_world


def trained(objective: str = "ranking", seed: int = 0, epochs: int = 6, name: str = "maml", **schema: object) -> Bundle:
    """A bundle of MAML, or of the learner of a name, on a simulated world."""
    data = ranking_world() if objective == "ranking" else rating_world(objective=objective)
    if schema:
        data = type(data)(**{**vars(data), "schema": data.schema.model_copy(update=schema)})
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    learner = LEARNERS[name](LEARNERS[name].Config(dims=8, objective=objective))
    recipe = recipe_of(
        {
            "name": "test",
            "learner": name,
            "episodes": {"max_shots": 8},
            "train": {"tasks": 32, "epochs": epochs, "rate": 0.02, "patience": 1000},
        }
    )
    run = start_training(learner, recipe, data, index, split.train, seed)
    for _ in fit(run, lambda _: 0.0):
        pass
    params = {k: v.detach() for k, v in run.params.items()}
    titles: Mapping[str, str] = {f"i{n}": f"Item {n}" for n in range(40)}
    made = make_bundle(learner, params, data, index, split.train, {"seed": seed, "metrics": {"ndcg": 0.5}})
    return Bundle(**{**vars(made), "titles": titles})


def popular() -> Bundle:
    """A bundle of a baseline."""
    data = ranking_world()
    index = EventIndex.of(data)
    split = split_by_seed(index.entities_with(2), 0)
    predictor = BASELINES["popularity"]()
    return make_bundle(predictor, predictor.fit(data, split.train), data, index, split.train, {})


def diverged(bundle: Bundle) -> Bundle:
    """The same bundle with weights that are not numbers."""
    params = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in bundle.params.items()}
    return Bundle(**{**vars(bundle), "params": params})


def publish(url: str, models: Path, name: str, bundle: Bundle, live: bool = True) -> str:
    """Write a bundle and register it; answers its version."""
    path = save_bundle(bundle, models / name)
    made = engine.connect(url)
    with engine.session(made) as session:
        act = registry.publish_version if live else registry.register_version
        act(session, name, path.name, str(path))
        evaluations.save_evaluations(session, evaluation(name, path.name))
    made.dispose()
    return path.name


def evaluation(name: str, version: str) -> list[NewEvaluation]:
    """A curve of one point on which a version wins against popularity: without one it could not be promoted."""
    common = {"dataset": "d", "scenario": "s", "metric": "ndcg@10", "seed": None, "shots": 5}
    common |= {"low": None, "high": None, "n": 9}
    mine = {"method": "maml", "role": "learner", "value": 0.4, "model": name, "model_version": version}
    theirs = {"method": "popularity", "role": "baseline", "value": 0.3}
    return [NewEvaluation(**common, **one) for one in (mine, theirs)]


def register(url: str, name: str, path: Path, live: bool = True) -> None:
    """Make a folder live, or a version only, whatever is in it."""
    made = engine.connect(url)
    with engine.session(made) as session:
        (registry.publish_version if live else registry.register_version)(session, name, path.name, str(path))
    made.dispose()
