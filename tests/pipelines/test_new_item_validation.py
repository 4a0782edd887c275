"""Choices for new items after a training: only if the recipe asks for them, and blind to what was learned of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipelines.experiments.new_item_validation import HeldOutItems, with_new_item_choices
from pipelines.experiments.training_inputs import training_inputs
from recsys_meta.core.types import FIRST
from recsys_meta.inference.new_items.relevance_choices import NEW_ITEM_CHOICES, RelevanceChoices
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.bundle import make_bundle
from recsys_meta.training.recipe import recipe_of
from tests.fixtures.simulated_datasets import ranking_world

RECIPE = recipe_of({"name": "flagship", "learner": "flagship"})


@pytest.fixture(scope="module")
def inputs():
    return training_inputs(ranking_world(items=100), "world", scenario="new", split="seed", seed=0)


@pytest.fixture(scope="module")
def bundle(inputs):
    baseline, train = ItemKNN(), inputs.split.train
    return make_bundle(baseline, baseline.fit(inputs.data, train), inputs.data, inputs.index, train, {})


def test_a_recipe_may_leave_the_choices_out(bundle, inputs):
    said: list[str] = []
    without = recipe_of({**RECIPE.model_dump(), "new_items": {"choose": False}})
    assert with_new_item_choices(bundle, inputs, without, said.append) is bundle and said == []


def test_choices_are_stored_in_the_bundle_and_read_again(bundle, inputs):
    said: list[str] = []
    chosen = with_new_item_choices(bundle, inputs, RECIPE, said.append)
    assert said == ["choosing how new items are placed"]
    choices = RelevanceChoices.read(chosen.about, [])
    assert choices.to_json() == chosen.about[NEW_ITEM_CHOICES] != RelevanceChoices.read({}, []).to_json()
    assert len(choices.bins) > 1 and all(one.weights for one in choices.bins)


class Biased(ItemKNN):
    """The same, but for what it says of some items."""

    columns: tuple[int, ...] = ()

    def rank(self, body, state):
        scores = super().rank(body, state)
        scores[:, list(self.columns)] += torch.arange(len(self.columns)) * 7.0
        return scores


def test_what_was_learned_of_held_out_items_is_not_looked_at(bundle, inputs):
    held_out = HeldOutItems(bundle, inputs, RECIPE)
    popularity = bundle.popularity.clone()
    popularity[torch.from_numpy(held_out.new + FIRST)] *= 50
    biased = Biased(columns=tuple((held_out.new + FIRST).tolist()))
    changed = HeldOutItems(replace(bundle, predictor=biased, popularity=popularity), inputs, RECIPE)
    assert changed.choices().to_json() == held_out.choices().to_json()


def test_what_a_model_says_of_known_items_is_looked_at(bundle, inputs):
    held_out = HeldOutItems(bundle, inputs, RECIPE)
    biased = Biased(columns=tuple((held_out.known + FIRST).tolist()))
    changed = HeldOutItems(replace(bundle, predictor=biased), inputs, RECIPE)
    assert changed.choices().to_json() != held_out.choices().to_json()
