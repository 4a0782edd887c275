"""Small trained models behind a `Recommender`, made once for all tests."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st

from recsys_meta.bundle import make_bundle
from recsys_meta.episodes import EventIndex
from recsys_meta.learners import LEARNERS
from recsys_meta.recommend import Interaction, Newcomer, Recommender, recommend
from recsys_meta.train import fit, start
from recsys_meta.types import FIRST
from tests.small import recipe, tiny
from tests.worlds import ranking_world, rating_world


def trained(data, learner):
    index, train = EventIndex.of(data), np.arange(60)
    run = start(learner, recipe(epochs=6, tasks=20, patience=99), data, index, train, 0)
    list(fit(run, lambda _: 0.0))
    titles = {"i3": "Three"}
    return replace(make_bundle(learner, run.chosen(), data, index, train, {}), titles=titles, version="v")


@cache
def world():
    return ranking_world(entities=80, items=30, rows=10)


@cache
def ranking():
    return Recommender(trained(world(), tiny(dims=8)))


@cache
def liking():
    """The same model where labels from 1 to 5 are given and 4 is a like."""
    schema = ranking().bundle.schema.model_copy(update={"label": "stars", "label_range": (1.0, 5.0), "positive": 4.0})
    return Recommender(replace(ranking().bundle, schema=schema))


@cache
def rating():
    data = rating_world(entities=80, items=30, rows=10)
    schema = data.schema.model_copy(update={"label_range": (-20.0, 20.0)})
    return Recommender(trained(replace(data, schema=schema), tiny(objective="rating", rate=0.1)))


@cache
def flagship():
    """A bundle of the flagship with vectors drawn by chance, in which every memory is heard."""
    data, train = ranking_world(), np.arange(150)
    learner = LEARNERS["flagship"](LEARNERS["flagship"].Config(dims=8, towers=2, subspace=8, neighbours=16))
    generator, memories = torch.Generator().manual_seed(0), learner.config.memories
    params = learner.init(data, train, generator)
    for name in ("item", "entity.group", "entity.age.weight"):
        params[name][FIRST:] = torch.randn(params[name][FIRST:].shape, generator=generator)
    heard = [[0.5, 2.0] if any(key.startswith(f"memory.{m}.") for key in params) else [0.0, 0.0] for m in memories]
    params["gate"] = torch.tensor(heard)
    return make_bundle(learner, params, data, EventIndex.of(data), train, {})


EVENTS = st.lists(
    st.builds(
        Interaction,
        item=st.sampled_from(["i0", "i1", "i2", "i3", "none", "other"]),
        label=st.one_of(st.none(), st.sampled_from([1.0, 3.0, 4.0, 5.0])),
        time=st.one_of(st.none(), st.integers(0, 3).map(float)),
        context=st.none(),
        actor=st.none(),
    ),
    max_size=8,
)


def answer(recommender, events, n=10, **more):
    return recommend(recommender, Newcomer(events=events), n, **more)
