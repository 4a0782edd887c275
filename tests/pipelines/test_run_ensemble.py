"""The ensemble and the race of a training run: what may be missing is said, and nothing that was trained is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.experiments.recipe_race import race_recipe
from pipelines.experiments.run_ensemble import check_members, fit_run_ensemble
from pipelines.experiments.training_inputs import TrainingInputs
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.experiments.tuned_baselines import TunedBaselines, is_installed
from recsys_meta.core.errors import ConfigError, NotFoundError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from recsys_meta.models.learners.ranking.flagship import Flagship, FlagshipConfig
from recsys_meta.training.recipe import recipe_of
from tests.fixtures.choice_datasets import choice_world
from tests.models.baselines.cases import simulated_dataset

LEARNER = Flagship(FlagshipConfig(dims=4, towers=1, memories=()))


def recipe(members=("popularity", "naive-bayes"), **parts):
    config = {"dims": 4, "towers": 1, "memories": []}
    return recipe_of(
        {"name": "flagship", "learner": "flagship", "config": config, "ensemble": {"members": members}, **parts}
    )


@pytest.fixture(scope="module")
def inputs():
    data = simulated_dataset(entities=150, items=40)
    data = replace(data, schema=data.schema.model_copy(update={"shots": (0, 1, 3)}))
    index = EventIndex.of(data)
    return TrainingInputs(data, "world", "new", "seed", 0, index, split_by_seed(index.entities_with(2), 0, (0.5, 0.25)))


@pytest.fixture(scope="module")
def params(inputs):
    return LEARNER.init(inputs.data, inputs.split.train, torch.Generator().manual_seed(0))


def test_members_are_tuned_and_weighed(inputs, params):
    said = []
    result = fit_run_ensemble(LEARNER, params, recipe(), inputs, TunedBaselines(inputs, said.append))
    assert [s.name for s in result.ensemble.shares] == ["flagship", "popularity", "naive-bayes"]
    assert said == ["tuning popularity", "tuning naive-bayes", "weighing 2 members"]


def test_a_recipe_without_members_has_no_ensemble(inputs, params):
    tuned = TunedBaselines(inputs)
    assert fit_run_ensemble(LEARNER, params, recipe(()), inputs, tuned).ensemble is None
    assert fit_run_ensemble(LEARNER, params, recipe(("two-means", "recent")), inputs, tuned).ensemble is None


def test_a_member_whose_library_is_missing_is_left_out_and_named(inputs, params, monkeypatch):
    monkeypatch.setattr(NaiveBayes, "requires", "no_such_library")
    assert not is_installed("naive-bayes") and is_installed("popularity")
    result = fit_run_ensemble(LEARNER, params, recipe(), inputs, TunedBaselines(inputs))
    assert [s.name for s in result.ensemble.shares] == ["flagship", "popularity"]
    assert "'naive-bayes' is no member" in result.warnings[0] and "no_such_library" in result.warnings[0]


@pytest.mark.parametrize("error", [ConfigError("no two rows"), ZeroDivisionError("no day")])
def test_a_member_that_cannot_be_tuned_is_left_out_and_named(inputs, params, monkeypatch, error):
    def failing(self, *given):
        raise error

    monkeypatch.setattr(NaiveBayes, "fit", failing)
    result = fit_run_ensemble(LEARNER, params, recipe(), inputs, TunedBaselines(inputs))
    assert [s.name for s in result.ensemble.shares] == ["flagship", "popularity"]
    (warning,) = [w for w in result.warnings if "naive-bayes" in w]
    assert "'naive-bayes' is no member of the ensemble: it cannot be tuned:" in warning and str(error) in warning
    alone = fit_run_ensemble(LEARNER, params, recipe(("naive-bayes",)), inputs, TunedBaselines(inputs))
    assert alone.ensemble is None and str(error) in alone.warnings[0]


def test_an_interruption_while_a_member_is_tuned_is_no_failure_of_the_member(inputs, params, monkeypatch):
    def stopped(self, *given):
        raise TrainingInterruption("stopped")

    monkeypatch.setattr(NaiveBayes, "fit", stopped)
    with pytest.raises(TrainingInterruption):
        fit_run_ensemble(LEARNER, params, recipe(), inputs, TunedBaselines(inputs))


def test_without_validation_episodes_the_learner_stands_alone(inputs, params):
    empty = replace(inputs.split, valid=np.zeros(0, np.int64))
    few = replace(inputs, split=empty)
    result = fit_run_ensemble(LEARNER, params, recipe(), few, TunedBaselines(few))
    assert result.ensemble is None and "stands alone" in result.warnings[0]


def test_an_interruption_is_noticed_before_the_next_member_is_tuned(inputs, params):
    said = []

    def stop():
        if said:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fit_run_ensemble(
            LEARNER, params, recipe(), inputs, TunedBaselines(inputs, said.append), stop_if_interrupted=stop
        )
    assert said == ["tuning popularity"]


def test_members_that_cannot_be_are_refused_before_anything_is_trained(inputs):
    check_members(recipe(), inputs.data)
    with pytest.raises(NotFoundError, match="no baseline 'oracle'"):
        check_members(recipe(("oracle",)), inputs.data)
    with pytest.raises(ConfigError, match="choices cannot be members"):
        check_members(recipe(("markov",)), choice_world())


def test_a_race_may_change_other_keys_in_each_setting(inputs):
    said = []
    race = {"steps": 2, "settings": [{"dropout": 0.1}, {"decay": 0.5}]}
    settled = race_recipe(recipe(race=race), inputs, "cpu", said.append)
    assert settled.race.settings == () and len(said) == 2
    assert "dropout=0.1" in said[0] and "decay=0.5" in said[1]
    assert settled.config.get("dropout") == 0.1 or settled.config.get("decay") == 0.5


def test_a_race_of_equal_settings_trains_nothing(inputs):
    settled = race_recipe(recipe(race={"settings": [{"dropout": 0.2}]}), inputs, "cpu", pytest.fail)
    assert settled.config["dropout"] == 0.2 and race_recipe(settled, inputs, "cpu", pytest.fail) == settled
