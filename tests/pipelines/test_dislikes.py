"""How far dislikes push away is chosen on the episodes of a training run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.experiments.meta_validation import dislike_episodes
from pipelines.experiments.training_inputs import training_inputs
from pipelines.experiments.training_run import train_run
from pipelines.workspace import Workspace
from recsys_meta.core.types import FIRST
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.learners.ranking.flagship import Flagship, FlagshipConfig
from recsys_meta.store.settings import Settings
from recsys_meta.training.recipe import recipe_of
from tests.fixtures.small_datasets import data_of

ENTITIES, GENRES, ITEMS, ROWS = 300, 6, 60, 24
CONFIG = {"dims": GENRES, "towers": 1, "memories": []}
RECIPE = recipe_of(
    {
        "name": "small",
        "learner": "flagship",
        "config": CONFIG,
        "episodes": {"max_shots": 8},
        "train": {"tasks": 32, "most_steps": 2, "validate_steps": 1},
    }
)


def genre_world(**schema):
    """Entities meet items by chance and give five stars to three genres of six, one star to the others."""
    rng = np.random.default_rng(0)
    liked = np.argsort(rng.random((ENTITIES, GENRES)), 1) < GENRES // 2
    items = np.argsort(rng.random((ENTITIES, ITEMS)), 1)[:, :ROWS]
    labels = np.where(np.take_along_axis(liked, items % GENRES, 1), 5.0, 1.0)
    data = data_of(items.tolist(), labels.tolist())
    settings = {"label": "stars", "label_range": (1.0, 5.0), "positive": 4.0, "shots": (0, 1, 2, 4), **schema}
    return replace(data, schema=data.schema.model_copy(update=settings))


def inputs_of(data):
    return training_inputs(data, "genres", scenario="new", split="seed", seed=0)


@pytest.fixture(scope="module")
def genres():
    """Inputs, and a bundle that knows the genres, with the push that was chosen for it."""
    inputs, learner = inputs_of(genre_world()), Flagship(FlagshipConfig(**CONFIG))
    params = learner.init(inputs.data, inputs.split.train, torch.Generator().manual_seed(0))
    params["item"][FIRST:] = 1.5 * torch.nn.functional.one_hot(torch.arange(ITEMS) % GENRES, GENRES)
    params = learner.choose_push(params, dislike_episodes(inputs, RECIPE), inputs.split.valid)
    return inputs, make_bundle(learner, params, inputs.data, inputs.index, inputs.split.train, {})


def test_where_dislikes_say_something_a_push_is_chosen_and_new_entities_gain(genres):
    inputs, bundle = genres
    assert bundle.params["push"][0] > 0
    curves = [
        cold_start(bundle.predictor, params, inputs.data, inputs.index, inputs.split.test)
        for params in (bundle.params, {k: v for k, v in bundle.params.items() if k != "push"})
    ]
    assert np.array_equal(*(curve.values[0]["ndcg@10"] for curve in curves), equal_nan=True), "nothing is known at 0"
    assert curves[0].mean("ndcg@10") > curves[1].mean("ndcg@10")


def test_one_star_lowers_what_is_like_it_and_five_raise_it(genres):
    own = Recommender(genres[1])
    genre = torch.arange(ITEMS) % GENRES

    def lead(*events):
        """Mean score of the other items of item 0's genre less that of all other genres."""
        scores = own.score_catalog(own.adapt([own.read_support(EntityRequest(events=events))]))[FIRST:]
        return float(scores[1:][genre[1:] == 0].mean() - scores[genre != 0].mean())

    assert lead(Interaction("i0", 1.0)) < lead() < lead(Interaction("i0", 5.0))
    assert lead(Interaction("i0", 0.0)) == lead(Interaction("i0", 1.0))


def test_feedback_of_data_without_a_threshold_is_told_apart_by_the_scale():
    threshold, none = (dislike_episodes(inputs_of(genre_world(positive=p)), RECIPE) for p in (4.0, None))
    assert len(threshold) == len(none) == 4
    for one, other in zip(threshold, none, strict=True):
        assert torch.equal(one.query.item, other.query.item)
        assert torch.equal(one.support.dislikes.item, other.support.dislikes.item)
    assert not threshold[0].support.dislikes.mask.any() and threshold[-1].support.dislikes.mask.any()


def test_episodes_are_of_validation_and_training_entities_only():
    inputs = inputs_of(genre_world())
    met = {e for batch in dislike_episodes(inputs, RECIPE) for e in batch.entity.tolist()}
    assert set(inputs.split.valid.tolist()) < met
    assert not met & set(inputs.split.test.tolist())


def test_without_low_labels_there_is_nothing_to_choose_on():
    data = genre_world()
    high = replace(data, events=replace(data.events, label=np.full_like(data.events.label, 5.0)))
    assert dislike_episodes(inputs_of(high), RECIPE) == []
    bare = data.schema.model_copy(update={"positive": None, "label": None, "label_range": None})
    assert dislike_episodes(inputs_of(replace(data, schema=bare)), RECIPE) == []


def test_a_run_chooses_after_training_and_trains_as_without_dislikes(tmp_path):
    data = genre_world(positive=None)
    bare = replace(data, schema=data.schema.model_copy(update={"label": None, "label_range": None}))
    found = []
    for name, some in (("stars", data), ("bare", bare)):
        workspace = Workspace(Settings(home=tmp_path / name, database_url="", redis_url="", api_keys=""))
        found.append(train_run(workspace, RECIPE, inputs_of(some)).bundle.params)
    stars, without = found
    assert "push" not in without
    assert all(torch.equal(stars[key], without[key]) for key in without)
    inputs, learner = inputs_of(data), Flagship(FlagshipConfig(**CONFIG))
    chosen = learner.choose_push(dict(without), dislike_episodes(inputs, RECIPE), inputs.split.valid)
    assert stars.keys() == chosen.keys()
