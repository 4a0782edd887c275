"""Base models for clicks: fields, sides, and their training on past rows."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.learners.warm_up import ctr_models as click_models
from recsys_meta.models.learners.warm_up.ctr_models import CONTEXT, ENTITY, ClickConfig
from recsys_meta.models.learners.warm_up.pretraining import PretrainingRows, pretrain, pretraining_loss
from tests.fixtures.simulated_datasets import rating_world

BASES = ("deepfm", "wide-deep", "two-tower")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clicks(context=True, seed=0, entities=60):
    """A world of clicks; with context, a place that lowers the rate of clicks and a price that says nothing."""
    data = rating_world(entities=entities, items=20, objective="click", seed=seed)
    if not context:
        return data
    rng = np.random.default_rng(seed + 1)
    place = rng.integers(0, 3, len(data.events))
    label = np.where(place == 2, 0.0, data.events.label).astype(np.float32)
    price = rng.normal(size=len(place)).astype(np.float32)
    price[0] = np.nan
    events = replace(data.events, label=label, context={"place": (place + FIRST).astype(np.int32), "price": price})
    fields = (FeatureField(name="place"), FeatureField(name="price", kind="numeric"))
    vocab = Vocabulary({**data.vocab.values, "context.place": pd.Index(["a", "b", "c"])})
    return replace(data, events=events, vocab=vocab, schema=data.schema.model_copy(update={"context": fields}))


def config_of(base, **more):
    return ClickConfig(**{"base": base, "dims": 6, "hidden": (12, 5), "scale": 0.3, **more})


def fresh(base, data, **more):
    """Parameters with no zero in them, so that nothing is equal by being nothing."""
    config = config_of(base, **more)
    params = click_models.init_ctr_model(config, data, np.arange(40), 0.4, generator(1))
    for key in ("base.wide", "base.neutral", "base.crossed"):
        if key in params:
            params[key] = params[key] + 0.1 * torch.randn(params[key].shape, generator=generator(2))
    return config, params


def batch(data, tasks=5):
    chosen = torch.arange(tasks)
    support, query = EventIndex.of(data).draw(chosen, torch.full((tasks,), 4))
    return episode_batch(data, chosen.numpy(), support, query)


def by_hand(config, params, z, b):
    """Every pair spelt out: all fields of each row side by side, crossed pair by pair, through the layers."""
    rows = b.query
    tasks, count = rows.item.shape
    own = torch.cat([z[:, None], click_models.fields_of(params, ENTITY, b.support.features)], 1)
    other = click_models.item_fields(params, rows.item.reshape(-1)).reshape(tasks, count, -1, config.dims)
    around = click_models.context_fields(params, rows.context, rows.item.shape)
    e = torch.cat([own[:, None].expand(-1, count, -1, -1), other, around], 2)
    split = own.shape[1]
    first = params["base.first"]

    def layers(x, prefix):
        for i in itertools.takewhile(lambda i: f"{prefix}.{i}.weight" in params, itertools.count()):
            x = torch.relu(x) @ params[f"{prefix}.{i}.weight"] + params[f"{prefix}.{i}.bias"]
        return x

    if config.base == "two-tower":
        a = layers(
            torch.einsum("trfd,fdh->trh", e[:, :, :split], first[:split]) + params["base.bias"][0], "base.tower.entity"
        )
        c = layers(
            torch.einsum("trfd,fdh->trh", e[:, :, split:], first[split:]) + params["base.bias"][1], "base.tower.row"
        )
        total = (a * c).sum(-1) + params["base.level"]
    else:
        total = layers(torch.einsum("trfd,fdh->trh", e, first) + params["base.bias"], "base.deep")[..., 0]
    if config.base != "deepfm":
        return total + torch.einsum("trfd,fd->tr", e, params["base.wide"])
    for f in range(e.shape[2]):
        others = e.sum(2) - e[:, :, f]
        total = total + params["base.crossed"][f] * (e[:, :, f] * others).sum(-1)
    return total


@pytest.mark.parametrize("base", BASES)
def test_sides_add_up_to_all_fields_spelt_out(base):
    data = clicks()
    config, params = fresh(base, data)
    b = batch(data)
    z = torch.randn(5, 6, generator=generator(3))
    body = click_models.ctr_body(config, params)
    entity = click_models.entity_contribution(config, body, z, click_models.fields_of(body, ENTITY, b.support.features))
    rows = click_models.row_contribution(config, body, b.query.item, b.query.context)
    torch.testing.assert_close(
        click_models.ctr_logits(config, body, entity, rows), by_hand(config, params, z, b), **CLOSE
    )


@pytest.mark.parametrize("base", BASES)
def test_ranking_is_scoring_in_the_mean_context(base, monkeypatch):
    data = clicks()
    config, params = fresh(base, data)
    b = batch(data)
    body = click_models.ctr_body(config, params)
    z = torch.randn(5, 6, generator=generator(3))
    entity = click_models.entity_contribution(config, body, z, click_models.fields_of(body, ENTITY, b.support.features))
    whole = click_models.ctr_rank(config, body, entity)
    assert whole.shape == (5, data.catalogue)
    rows = click_models.row_contribution(config, body, b.query.item, {})
    torch.testing.assert_close(
        whole.gather(1, b.query.item), click_models.ctr_logits(config, body, entity, rows), **CLOSE
    )
    monkeypatch.setattr(click_models, "RANK_FLOATS", 5 * 12 * 7)  # pieces of seven items
    torch.testing.assert_close(click_models.ctr_rank(config, body, entity), whole, **CLOSE)


def test_context_moves_scores_and_unknown_values_are_accepted():
    data = clicks()
    _, params = fresh("deepfm", data)
    shape = torch.Size((2, 3))
    known = click_models.context_fields(params, {"place": torch.full(shape, 2), "price": torch.zeros(shape)}, shape)
    other = click_models.context_fields(
        params, {"place": torch.full(shape, 4), "price": torch.full(shape, torch.nan)}, shape
    )
    assert known.shape == (2, 3, 2, 6)
    assert (known - other).norm(dim=-1).min() > 0.1
    far = click_models.context_fields(params, {"place": torch.full(shape, 10**6), "price": torch.zeros(shape)}, shape)
    unknown = click_models.context_fields(
        params, {"place": torch.ones(shape).long(), "price": torch.zeros(shape)}, shape
    )
    assert torch.equal(far, unknown)
    assert click_models.context_names(params) == ["place", "price"]
    assert any(k.startswith(f"{CONTEXT}.price.knots") for k in params)


@pytest.mark.parametrize("base", BASES)
def test_pretraining_learns_the_past(base):
    data = clicks()
    config = config_of(base, scale=0.05, base_epochs=30, base_batch=100, base_rate=1e-2)
    past = np.arange(40)
    params = pretrain(config, data, past, generator(4))
    rows = PretrainingRows.of(data, past)
    every = torch.arange(len(rows.label))
    rate = rows.label.mean()
    constant = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
    assert pretraining_loss(config, params, rows, every, generator()) < 0.8 * constant
    assert torch.equal(params["past.entity"], torch.arange(40))
    assert not any(v.requires_grad for v in params.values())


def test_pretraining_is_of_the_given_entities_alone_and_repeats():
    data = clicks()
    config = config_of("deepfm", base_epochs=2)
    past = np.arange(10, 40)
    ours = pretrain(config, data, past, generator(4))
    label = data.events.label.copy()
    begin, end = data.events.indptr[10], data.events.indptr[40]
    label[:begin], label[end:] = 1 - label[:begin], 1 - label[end:]
    turned = pretrain(config, replace(data, events=replace(data.events, label=label)), past, generator(4))
    # A missing number is a NaN nowhere here, so equal means equal.
    assert all(torch.equal(ours[k], turned[k]) for k in ours if not k.startswith("catalogue."))
    other = pretrain(config, data, past, generator(5))
    assert not torch.equal(ours["base.first"], other["base.first"])


def test_the_neutral_context_is_the_mean_of_past_rows():
    data = clicks()
    params = pretrain(config_of("deepfm", base_epochs=1), data, np.arange(30), generator(4))
    events = data.events
    rows = slice(0, events.indptr[30])
    place = torch.from_numpy(events.context["place"][rows]).long()
    expected = params["base.context.place"][place].mean(0)
    torch.testing.assert_close(params["base.neutral"][0], expected, **CLOSE)


def test_dropout_and_decay_change_the_base_model():
    data = clicks(context=False)
    plain = pretrain(config_of("deepfm"), data, np.arange(40), generator(4))
    for more in ({"base_dropout": 0.5}, {"base_decay": 1.0}):
        other = pretrain(config_of("deepfm", **more), data, np.arange(40), generator(4))
        assert not torch.equal(plain["base.first"], other["base.first"])
        assert all(torch.isfinite(v).all() for k, v in other.items() if not k.startswith("catalogue."))


@pytest.mark.parametrize("hidden", [(), (4, 0)])
def test_layers_must_be_there(hidden):
    with pytest.raises(ValueError, match="hidden"):
        ClickConfig(hidden=hidden)


def test_a_tower_may_have_one_layer():
    data = clicks()
    config, params = fresh("two-tower", data, hidden=(7,))
    b = batch(data)
    z = torch.randn(5, 6, generator=generator(3))
    body = click_models.ctr_body(config, params)
    entity = click_models.entity_contribution(config, body, z, click_models.fields_of(body, ENTITY, b.support.features))
    rows = click_models.row_contribution(config, body, b.query.item, b.query.context)
    torch.testing.assert_close(
        click_models.ctr_logits(config, body, entity, rows), by_hand(config, params, z, b), **CLOSE
    )
