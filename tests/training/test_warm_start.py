"""A warm start takes over what both models know, item by item and value by value; new items start from content."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.held_out_items import without_items
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.learners.ranking.flagship import Flagship, FlagshipConfig
from recsys_meta.training.warm_start import carry_parameters
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import same, tiny

TRAIN = np.arange(200)


@pytest.fixture(scope="module")
def data():
    return ranking_world(entities=240, items=60, rows=10)


def init(learner, data, seed):
    return learner.init(data, TRAIN, torch.Generator().manual_seed(seed))


def bundle_of(learner, params, data):
    return make_bundle(learner, params, data, EventIndex.of(data), TRAIN, {})


@pytest.fixture(scope="module")
def learner():
    return Flagship(FlagshipConfig(dims=4, towers=1))


def test_the_same_data_carry_everything_that_is_trained(learner, data):
    old = init(learner, data, 0)
    made, carried = carry_parameters(init(learner, data, 1), learner, bundle_of(learner, old, data), data)
    trained = [k for k in old if not learner.is_frozen(k)]
    assert same({k: made[k] for k in trained}, {k: old[k] for k in trained})
    assert carried.spaces["item"] == (60, 60) and not carried.anew
    kept = {k: v.clone() for k, v in old.items()}
    for key in trained:
        made[key] += 1  # as the optimiser does, in place
    assert same(old, kept)


def test_known_items_keep_their_rows_and_new_ones_start_from_content(learner, data):
    gone = np.array([5, 20, 40])
    before = without_items(data, gone)
    old = init(learner, before, 0)
    genres = data.items["genres"]
    first = torch.tensor([int(genres.values[s]) if s < e else 0 for s, e in pairwise(genres.indptr)])
    kept = np.setdiff1d(np.arange(data.catalogue), gone)
    old["item"] = torch.nn.functional.one_hot(first, 8)[kept][:, 2:6].float()  # an item's vector is its genre
    made, carried = carry_parameters(init(learner, data, 1), learner, bundle_of(learner, old, before), data)
    assert torch.equal(made["item"][kept], old["item"])
    assert carried.spaces["item"] == (57, 60) and carried.from_content == 3
    for item in gone:
        vector = made["item"][item]
        assert int(vector.argmax()) == int(first[item]) - 2
    assert torch.equal(made["popularity"][:, kept], old["popularity"])
    assert torch.equal(made["items.genres"], old["items.genres"])
    assert "57 of 60 values of item" in carried.describe() and "3 new items" in carried.describe()


def test_another_data_set_shares_features_and_titles_but_no_ids(learner, data):
    other = replace(data, schema=data.schema.model_copy(update={"name": "elsewhere"}))
    old = init(learner, other, 0)
    made, carried = carry_parameters(init(learner, data, 1), learner, bundle_of(learner, old, other), data)
    assert carried.spaces["item"] == (0, 60) and carried.spaces["item.genres"].carried == 4
    assert torch.equal(made["items.genres"], old["items.genres"])
    assert not torch.equal(made["item"], old["item"])
    titled = replace(other, about={"titles": {"i7": "Film"}})
    here = replace(data, about={"titles": {"i3": "Film"}})
    made, carried = carry_parameters(init(learner, here, 1), learner, bundle_of(learner, old, titled), here)
    assert carried.spaces["item"].carried == 1
    assert torch.equal(made["item"][3 + FIRST], old["item"][7 + FIRST])


def test_another_learner_or_size_is_said(learner, data):
    bundle = bundle_of(learner, init(learner, data, 0), data)
    with pytest.raises(ConfigError, match="is of 'flagship', and the recipe trains 'maml'"):
        carry_parameters(tiny().init(data, TRAIN, torch.Generator()), tiny(), bundle, data)
    wide = Flagship(FlagshipConfig(dims=6, towers=1))
    with pytest.raises(ConfigError, match=r"--set config\.dims=4"):
        carry_parameters(init(wide, data, 0), wide, bundle, data)
