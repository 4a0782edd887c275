"""One adapt for choices and clicks: a newcomer told as raw events is answered as the evaluation answers it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.bundle import make_bundle
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.choice import negative_sampling
from recsys_meta.models.learners.maml.maml import Maml
from tests.fixtures.choice_datasets import choice_world
from tests.fixtures.simulated_datasets import rating_world

TRAIN = np.arange(10)


def methods(objective):
    """Every method of an objective, by name."""
    fit = [n for n, kind in BASELINES.items() if objective in kind.objectives and n != "chance"]
    return fit + [n for n, kind in LEARNERS.items() if serves(kind, objective)]


def serves(kind, objective):
    try:
        config = kind.Config(objective=objective)
    except ValueError:
        return False
    # These take any objective as their configuration, and refuse the data instead.
    if issubclass(kind, Maml):
        return objective == "click"
    return objective in {"choice": ("choice",)}.get(kind.name, (config.objective,))


def served(name, data, index):
    """A recommender of a method fitted, or merely begun, on the first entities."""
    objective = data.schema.objective
    if name in BASELINES:
        made = BASELINES[name](objective=objective)
        params = made.fit(data, TRAIN)
    else:
        made = LEARNERS[name](LEARNERS[name].Config(objective=objective))
        params = made.init(data, TRAIN, torch.Generator().manual_seed(0))
    return Recommender(make_bundle(made, params, data, index, TRAIN, {}))


@pytest.fixture(scope="module")
def town():
    return choice_world(entities=12)


@pytest.fixture
def numbered_alike(monkeypatch):
    """Adapt on all rows against all items, as which rows and items are drawn follows an item's number in the entity's
    own catalogue, and a server, which lists the items that were met first, numbers them in another order."""

    def every_item(rows, listed, count):
        others = FIRST + torch.arange(int(listed.sum())).expand(*rows.item.shape, -1)
        return torch.cat([rows.item[:, :, None], others], 2)

    monkeypatch.setattr(negative_sampling, "fixed_negatives", every_item)
    monkeypatch.setattr(negative_sampling, "hash_numbers", torch.zeros_like)


@pytest.mark.usefixtures("numbered_alike")
@pytest.mark.parametrize("name", methods("choice"))
@pytest.mark.parametrize("shots", [1, 40])
def test_choices(town, name, shots):
    index, entity = EventIndex.of(town), 11
    model = served(name, town, index)
    body, predictor = model.body, model.bundle.predictor
    batch = episodes_at(town, index, np.array([entity]), shots)
    first, own = batch.query.first(1), batch.support.catalogue
    every = torch.arange(own.mask.shape[1])
    state = predictor.adapt(body, batch.support)
    wanted = predictor.choose(body, state, first, every[None, None])[0, 0]

    names = [str(town.vocab.values["item"][i - 2]) if i > 1 else "" for i in own.item[0].tolist()]
    hours = town.vocab.values["context.hour"]
    rows = range(int(index.indptr[entity]), int(index.indptr[entity]) + shots + 1)
    told = [
        Interaction(
            str(town.vocab.values["item"][int(index.item[r]) - 2]),
            time=float(r),
            context={"hour": str(hours[int(index.context["hour"][r]) - 2])},
            actor=str(int(index.actor[r])),
        )
        for r in rows
    ]
    places = {
        name: {"lat": float(own.features["lat"][0, i]), "lon": float(own.features["lon"][0, i])}
        for i, name in enumerate(names)
        if name
    }
    known = model.read_support(EntityRequest(events=told[:-1]))
    moment = QueryContext({"hour": told[-1].context["hour"]}, told[-1].actor)
    known, question = model.queries.encode(known, moment, places)
    got = model.score_catalog(model.adapt([known]), question)
    by_name = dict(zip(known.catalog.names, got[2:].tolist(), strict=True))
    assert len(by_name) == len(places)
    expected = {name: value for name, value in zip(names, wanted.tolist(), strict=True) if name}
    # Scores of the deep interest network differ by 4e-5, and several inner steps make more of that.
    assert by_name == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.fixture(scope="module")
def adverts():
    """Clicks with a number and a category beside each row, some of them missing."""
    data = rating_world(entities=30, items=20, rows=14, objective="click")
    rng = np.random.default_rng(0)
    n = len(data.events)
    price = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)).astype(np.float32)
    context = {"price": price, "device": rng.choice([0, 2, 3], n).astype(np.int32)}
    fields = (FeatureField(name="price", kind="numeric"), FeatureField(name="device"))
    schema = data.schema.model_copy(update={"context": fields})
    words = {**data.vocab.values, "context.device": pd.Index(["mobile", "desktop"], dtype="str")}
    events = replace(data.events, context=context)
    return replace(data, schema=schema, events=events, vocab=replace(data.vocab, values=words))


def told_of(data, index, row):
    """A row as its caller tells it."""
    words = {"price": float(index.context["price"][row]), "device": int(index.context["device"][row])}
    words = {
        k: data.vocab.value("context.device", v) if k == "device" else v
        for k, v in words.items()
        if v == v and (k, v) != ("device", 0)
    }
    item = data.vocab.value("item", int(index.item[row]))
    return Interaction(item, float(index.label[row]), float(row), words)


@pytest.mark.parametrize("name", methods("click"))
@pytest.mark.parametrize("shots", [0, 1, 9])
def test_clicks(adverts, name, shots):
    index, entity = EventIndex.of(adverts), 25
    model = served(name, adverts, index)
    batch = episodes_at(adverts, index, np.array([entity]), shots)
    predictor = model.bundle.predictor
    state = predictor.adapt(model.body, batch.support)
    wanted = predictor.score(model.body, state, batch.query)

    start = int(index.indptr[entity])
    told = [told_of(adverts, index, row) for row in range(start, int(index.indptr[entity + 1]))]
    groups = adverts.entities["group"]
    ids = groups.values[groups.indptr[entity] : groups.indptr[entity + 1]]
    features = {"group": [adverts.vocab.value("entity.group", int(i)) for i in ids]}
    features["age"] = float(adverts.entities["age"].values[entity])
    known = model.read_support(EntityRequest(features, told[:shots][::-1]))
    rows = model.queries.rows(known, [(e.item, e.context) for e in told[shots:]])
    got = model.score_rows(model.adapt([known]), rows)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    spread = model.score_std(model.adapt([known]), rows)
    if spread is not None:
        torch.testing.assert_close(spread, predictor.score_std(model.body, state, batch.query), rtol=1e-3, atol=1e-4)
