"""What a study begins with, and whose trials are tried again."""

import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.tuning.dataset_meta_features import distance, meta_features
from pipelines.tuning.search_space import fitted_space, parse_search_space
from pipelines.tuning.starting_settings import (
    abandoned_settings,
    distinct_proposals,
    recipe_settings,
    similar_studies,
)
from pipelines.tuning.worker_identity import SILENCE, is_dead, new_worker_name
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.database.migrate import upgrade_database
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tuning import TrialProposal
from tests.models.baselines.cases import simulated_dataset
from tests.pipelines.tuning.samples import SPACE, small_recipe, trial
from tests.store.samples import a_study, later


@pytest.fixture(scope="module")
def space():
    return fitted_space(parse_search_space(SPACE, "x"), small_recipe(), lambda recipe: recipe)


def inputs_of(**world) -> TrainingInputs:
    data = simulated_dataset(**world)
    index = EventIndex.of(data)
    return TrainingInputs(data, "world", "new", "seed", 0, index, split_by_seed(index.entities_with(2), 0, (0.5, 0.25)))


def test_the_recipe_itself_is_tried_first_or_each_setting_of_its_race(space):
    recipe = small_recipe(config={"dims": 64, "dropout": 0.5}, train={"rate": 0.01})
    (own,) = recipe_settings(recipe, space)
    assert own.params == {"config.dims": 16, "config.dropout": 0.5, "episodes.draw": "uniform", "train.rate": 0.01}
    race = {"settings": [{"dropout": 0.1, "decay": 1.0}, {"dropout": 0.7, "decay": 2.0}]}
    raced = recipe_settings(small_recipe(race=race), space)
    assert [(p.origin, p.params["config.dropout"]) for p in raced] == [("race", 0.1), ("race", 0.7)]
    other = recipe_settings(small_recipe(race={"settings": [{"decay": 1.0}, {"decay": 2.0}]}), space)
    assert [p.origin for p in other] == ["recipe"], "its race is over keys that are not searched"


def test_equal_proposals_are_one():
    two = [TrialProposal({"a": 1, "b": 2}, "x"), TrialProposal({"b": 2, "a": 1}, "y"), TrialProposal({"a": 2}, "z")]
    assert [p.origin for p in distinct_proposals(two)] == ["x", "z"]


def test_what_came_to_no_result_is_tried_again_but_not_for_ever():
    a, b = {"x": 1}, {"x": 2}
    assert abandoned_settings([trial(1, a), trial(2, b, "running")]) is None
    assert abandoned_settings([trial(1, a, "lost"), trial(2, b, "stopped")]).params == a
    assert abandoned_settings([trial(1, a, "lost"), trial(2, b, "stopped"), trial(3, a)]).params == b
    assert abandoned_settings([trial(1, a, "lost"), trial(2, a, "lost")]) is None, "it may be what kills workers"
    assert abandoned_settings([trial(i, a, "stopped") for i in (1, 2, 3)]).origin == "again, trial 3"


def test_a_worker_is_dead_if_its_process_is_gone_or_silent():
    now, me = datetime.now(UTC), new_worker_name()
    assert me != new_worker_name() and me.startswith(f"{socket.gethostname()}:{os.getpid()}:")
    assert not is_dead(trial(1, {}, "running", worker=me))
    assert is_dead(trial(1, {}, "running", worker=f"{socket.gethostname()}:{2**22 + 1}:aa"))
    elsewhere = trial(1, {}, "running", worker="elsewhere:1:aa", heartbeat=now)
    assert not is_dead(elsewhere) and is_dead(elsewhere, now + SILENCE + timedelta(seconds=1))


def test_meta_features_tell_data_sets_apart_and_see_training_entities_alone():
    one, other = inputs_of(entities=120, items=30), inputs_of(entities=120, items=30, seed=5)
    large = inputs_of(entities=1200, items=300)
    features = meta_features(one)
    assert np.isfinite(list(features.values())).all()
    assert features["entities"] == pytest.approx(np.log1p(len(one.split.train)))
    assert 0 < features["concentration"] < 1 and 0 <= features["entity_features"] <= 1
    near, far = distance(features, meta_features(other)), distance(features, meta_features(large))
    assert distance(features, features) == 0 < near < far
    without_test = replace(one, split=replace(one.split, test=one.split.test[:0], valid=one.split.valid[:0]))
    assert meta_features(without_test) == features
    assert distance({}, features) == np.inf


def test_the_best_of_studies_on_data_that_look_alike_is_tried_nearest_first(space, tmp_path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    upgrade_database(url)
    engine = connect(url)
    here = {"rows": 5.0, "density": 1.0}
    recipe = small_recipe(config={"dropout": 0.7}).model_dump(mode="json", exclude_unset=True)
    with session(engine) as s:
        for i, (name, rows) in enumerate([("far", 50.0), ("near", 5.2), ("nearer", 5.1), ("empty", 5.0)]):
            a_study(s, name, meta_features={"rows": rows, "density": 1.0}, recipe=recipe, now=later(i))
        for name, rates in {"far": [0.1], "near": [0.2, 0.3], "nearer": [0.4]}.items():
            for rate in rates:
                proposal = TrialProposal({"train.rate": rate}, "sampler")
                made = tuning.claim_trial(s, name, "w", lambda _, proposal=proposal: proposal)
                tuning.close_trial(s, made, "finished", value=rate)
        found = similar_studies(s, "mine", "flagship", "ranking", here)
    engine.dispose()
    assert [f.name for f in found] == ["nearer", "near"] and found[0].distance < found[1].distance
    assert found[1].params["train.rate"] == 0.3, "the best of its trials"
    assert space.nearest(found[1].params) == {
        "train.rate": 0.1, "config.dropout": 0.7, "config.dims": 16, "episodes.draw": "uniform",
    }, "keys that it did not search are those of its recipe, and all lie in the space of today"  # fmt: skip
