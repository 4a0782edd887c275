"""Meta-Embedding, MWUF and CVAR on a frozen base model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import Interactions, Support
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.functional.losses import logistic_loss
from recsys_meta.models.learners.warm_up import ctr_models as click_models
from recsys_meta.models.learners.warm_up.ctr_models import ENTITY
from recsys_meta.models.learners.warm_up.cvar import Cvar, CvarConfig
from recsys_meta.models.learners.warm_up.frozen_base_learner import SECOND_MOMENT_RATE
from recsys_meta.models.learners.warm_up.meta_embedding import EMBEDDING_BOUND, MetaEmbedding, MetaEmbeddingConfig
from recsys_meta.models.learners.warm_up.mwuf import Mwuf, MwufConfig
from tests.fixtures.simulated_datasets import ranking_world, rating_world
from tests.models.learners.test_ctr_models import clicks, generator

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
BASE = {"dims": 6, "hidden": (12, 8), "base_epochs": 6, "base_rate": 1e-2, "scale": 0.1}
MADE = {
    "meta-embedding": (MetaEmbedding, MetaEmbeddingConfig),
    "mwuf": (Mwuf, MwufConfig),
    "cvar": (Cvar, CvarConfig),
}


def learner_of(name="meta-embedding", **config):
    learner, made = MADE[name]
    return learner(made(**{**BASE, **config}))


@pytest.fixture(scope="module")
def data():
    return clicks()


@pytest.fixture(scope="module")
def started(data):
    """Each learner with its fresh parameters on forty past entities."""
    return {name: (learner_of(name), learner_of(name).init(data, np.arange(40), generator(1))) for name in MADE}


@pytest.fixture(params=MADE)
def case(request, started):
    return started[request.param]


def episodes(data, entities, shots=6, query=8):
    chosen = np.asarray(entities)
    support, asked = EventIndex.of(data).draw(
        torch.as_tensor(chosen), torch.full((len(chosen),), shots), max_query=query
    )
    return episode_batch(data, chosen, support, asked)


def trainable(learner, params):
    return {k: v.clone() if learner.is_frozen(k) else v.clone().requires_grad_() for k, v in params.items()}


def slope_by_hand(learner, params, z, batch, t):
    """The gradient of one task's mean log-loss in its own embedding, with nothing batched."""
    at = z[t : t + 1].clone().requires_grad_()
    one = batch.support.of(torch.tensor([t]))
    body = click_models.ctr_body(learner.config, params)
    entity = click_models.entity_contribution(
        learner.config, body, at, click_models.fields_of(body, ENTITY, one.features)
    )
    rows = click_models.row_contribution(learner.config, body, one.rows.item, one.rows.context)
    logit = click_models.ctr_logits(learner.config, body, entity, rows)[one.rows.mask]
    label = one.rows.label[one.rows.mask]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
    return torch.autograd.grad(loss, at)[0][0]


@pytest.mark.parametrize("base", ["deepfm", "wide-deep", "two-tower"])
def test_the_training_step_is_the_gradient_by_hand(data, base):
    learner = learner_of(base=base, cold_rate=0.7)
    params = learner.init(data, np.arange(40), generator(1))
    batch = episodes(data, range(5))
    body = learner.body(params)
    cold = learner.adapt(body, batch.support.empty())["z"]
    body["cold_rate"] = torch.tensor(0.7)
    stepped = learner.adapt(body, batch.support)["z"]
    for t in range(5):
        expected = cold[t] - 0.7 * slope_by_hand(learner, params, cold, batch, t)
        torch.testing.assert_close(stepped[t], expected, **CLOSE)


def test_a_warm_up_goes_over_the_mini_batches_in_order(data):
    learner = learner_of(warm_batch=4, warm_rate=1e-3)
    params = learner.init(data, np.arange(40), generator(1))
    batch = episodes(data, range(4), shots=10)
    body = learner.body(params)
    z = learner.adapt(body, batch.support.empty())["z"]
    moment = torch.zeros_like(z)
    for start in (0, 4, 8):
        part = replace(batch, support=replace(batch.support, rows=batch.support.rows.columns(start, start + 4)))
        slope = torch.stack([slope_by_hand(learner, params, z, part, t) for t in range(4)])
        moment = moment + SECOND_MOMENT_RATE * slope**2
        share = 1.0 if start < 8 else 0.5  # the last mini-batch is half full
        z = z - share * 1e-3 * slope / moment.sqrt()
    torch.testing.assert_close(learner.adapt(body, batch.support)["z"], z, **CLOSE)
    plain = learner_of(warm_up="sgd", warm_rate=0.5, warm_batch=10)
    cold = plain.adapt(body, batch.support.empty())["z"]
    slope = torch.stack([slope_by_hand(plain, params, cold, batch, t) for t in range(4)])
    torch.testing.assert_close(plain.adapt(body, batch.support)["z"], cold - 0.5 * slope, **CLOSE)


def test_the_warm_up_is_adam_of_a_table_trained_for_long(data):
    """One row of a table, its mini-batch at a late step and then forty-six steps that are others': torch's own Adam."""
    learner = learner_of(warm_batch=6)
    params = learner.init(data, np.arange(40), generator(1))
    batch = episodes(data, range(3))
    body = learner.body(params)
    cold = learner.adapt(body, batch.support.empty())["z"]
    ours = learner.adapt(body, batch.support)["z"] - cold
    table = torch.nn.Parameter(torch.zeros_like(cold))
    optimiser = torch.optim.Adam([table], lr=learner.config.warm_rate)
    optimiser.state[table] = {
        "step": torch.tensor(20_000.0),
        "exp_avg": torch.zeros_like(table),
        "exp_avg_sq": torch.zeros_like(table),
    }
    for step in range(46):
        table.grad = torch.zeros_like(table)
        if step == 0:
            table.grad = torch.stack([slope_by_hand(learner, params, cold, batch, t) for t in range(3)])
        optimiser.step()
    torch.testing.assert_close(ours, table.detach(), rtol=0.03, atol=1e-4)


def test_the_meta_loss_is_the_share_of_cold_and_of_stepped(data):
    learner = learner_of(share=0.3, cold_rate=0.5)
    params = learner.init(data, np.arange(40), generator(1))
    batch = episodes(data, range(6))
    body = learner.body(params)
    cold = learner.adapt(body, batch.support.empty())
    slope = torch.stack([slope_by_hand(learner, params, cold["z"], batch, t) for t in range(6)])
    warm = {**cold, "z": cold["z"] - 0.5 * slope}
    a = logistic_loss(learner.score(body, cold, batch.support.rows), batch.support.rows).mean()
    b = logistic_loss(learner.score(body, warm, batch.query), batch.query).mean()
    loss, _ = learner.meta_loss(params, batch, None, generator())
    torch.testing.assert_close(loss, 0.3 * a + 0.7 * b, **CLOSE)


def test_the_outer_gradient_goes_through_the_step(data):
    """Against differences of the meta-loss: a step taken as a constant would give another gradient."""
    learner = learner_of(share=0.1, cold_rate=3.0, base="two-tower")
    params = {
        k: v.double() if v.is_floating_point() else v
        for k, v in learner.init(data, np.arange(40), generator(1)).items()
    }
    batch = episodes(data, range(6))
    batch = replace(batch, support=_double(batch.support), query=_doubled(batch.query))
    live = trainable(learner, params)
    learner.meta_loss(live, batch, None, generator())[0].backward()
    direction = torch.randn(live["generator"].shape, generator=generator(7), dtype=torch.float64)
    small = 1e-5
    sides = [
        float(
            learner.meta_loss(
                {**params, "generator": params["generator"] + s * small * direction}, batch, None, generator()
            )[0]
        )
        for s in (1, -1)
    ]
    expected = (sides[0] - sides[1]) / (2 * small)
    assert float((live["generator"].grad * direction).sum()) == pytest.approx(expected, rel=1e-3)


def _double(support):
    features = {k: v.double() if v.is_floating_point() else v for k, v in support.features.items()}
    return replace(support, features=features, rows=_doubled(support.rows))


def _doubled(rows):
    return rows.map(lambda t: t.double() if t.is_floating_point() else t)


def test_the_base_model_gets_no_outer_gradient(case, data):
    learner, params = case
    # Even where it is asked for: nothing of the base model is in an optimiser, so nothing of it moves.
    live = trainable(learner, params)
    loss, figures = learner.meta_loss(live, episodes(data, range(8)), None, generator())
    loss.backward()
    trained = {k for k in params if not learner.is_frozen(k)}
    assert trained
    assert all(k.startswith(("base.", "catalogue.", "past.")) for k in params if k not in trained)
    assert all(live[k].grad is not None and live[k].grad.abs().max() > 0 for k in trained)
    assert all(live[k].grad is None for k in params if k not in trained)
    assert all(np.isfinite(float(v)) for v in figures.values())
    assert {k for k in params if is_buffer(k)} <= {k for k in params if learner.is_frozen(k)}


def test_a_batch_equals_its_tasks_one_by_one(case, data):
    learner, params = case
    body, batch = learner.body(params), episodes(data, range(40, 46))
    state = learner.adapt(body, batch.support)
    scores = learner.score(body, state, batch.query)
    for t in range(6):
        alone = learner.adapt(body, batch.support.of(torch.tensor([t])))
        one = learner.score(body, alone, batch.query.of(torch.tensor([t])))
        torch.testing.assert_close(one[0], scores[t], **CLOSE)


def test_padding_changes_nothing(case, data):
    learner, params = case
    body, batch = learner.body(params), episodes(data, range(40, 46))
    rows = batch.support.rows
    wide = Interactions(
        torch.cat([rows.item, torch.full((6, 3), 7)], 1),
        torch.cat([rows.label, torch.full((6, 3), -4.0)], 1),
        torch.cat([rows.mask, torch.zeros(6, 3, dtype=torch.bool)], 1),
        {k: torch.cat([v, torch.full((6, 3), 3, dtype=v.dtype)], 1) for k, v in rows.context.items()},
    )
    padded = Support(batch.support.features, wide)
    ours, theirs = learner.adapt(body, padded), learner.adapt(body, batch.support)
    torch.testing.assert_close(ours["z"], theirs["z"], **CLOSE)
    torch.testing.assert_close(
        learner.support_loss(body, ours, padded), learner.support_loss(body, theirs, batch.support), **CLOSE
    )


def test_unknown_ids_are_accepted(case, data):
    learner, params = case
    body, batch = learner.body(params), episodes(data, range(40, 46))
    far = {
        k: torch.full_like(v, torch.nan) if v.is_floating_point() else torch.full_like(v, 10**6)
        for k, v in batch.support.features.items()
    }
    rows = replace(
        batch.support.rows,
        item=torch.ones_like(batch.support.rows.item),
        context={
            k: torch.full_like(v, torch.nan if v.is_floating_point() else 10**6)
            for k, v in batch.support.rows.context.items()
        },
    )
    state = learner.adapt(body, Support(far, rows))
    assert all(torch.isfinite(v).all() for v in state.values())
    assert torch.isfinite(learner.score(body, state, replace(batch.query, context={}))).all()
    assert torch.isfinite(learner.rank(body, state)).all()


def test_an_empty_support_leaves_the_start(case, data):
    learner, params = case
    body, batch = learner.body(params), episodes(data, range(40, 46))
    none = learner.adapt(body, batch.support.empty())
    hidden = replace(batch.support.rows, mask=torch.zeros_like(batch.support.rows.mask))
    masked = learner.adapt(body, replace(batch.support, rows=hidden))
    torch.testing.assert_close(masked["z"], none["z"], **CLOSE)
    assert (learner.support_loss(body, none, batch.support.empty()) == 0).all()
    live = trainable(learner, params)
    loss, _ = learner.meta_loss(live, replace(batch, support=batch.support.empty()), None, generator())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(v.grad).all() for v in live.values() if v.grad is not None)


def test_other_features_start_elsewhere(case, data):
    learner, params = case
    if learner.name == "mwuf":  # its cold embedding is the same for all but for the scale, which begins near one
        params = {**params, "scale.1.weight": params["scale.1.weight"] * 10}
    body, batch = learner.body(params), episodes(data, range(40, 46))
    features = dict(batch.support.features)
    features["group"] = torch.arange(6)[:, None] % 4 + 2
    z = learner.adapt(body, Support(features, batch.support.rows.first(0)))["z"]
    assert (z[0] - z[1]).norm() > 1e-4
    same = {k: v[:1].expand_as(v) for k, v in features.items()}
    z = learner.adapt(body, Support(same, batch.support.rows.first(0)))["z"]
    torch.testing.assert_close(z[1:], z[:1].expand_as(z[1:]), **CLOSE)


def test_generated_embeddings_are_bounded_and_random_ones_are_not_learned(data):
    learner = learner_of()
    params = learner.init(data, np.arange(40), generator(1))
    body, support = learner.body(params), episodes(data, range(40, 50)).support.empty()
    assert learner.adapt(body, support)["z"].abs().max() < EMBEDDING_BOUND
    drawn = learner_of(initial="random")
    params = drawn.init(data, np.arange(40), generator(1))
    other = {**params, "generator": params["generator"] + 1}
    ours, theirs = (drawn.adapt(drawn.body(p), support)["z"] for p in (params, other))
    assert torch.equal(ours, theirs)
    assert ours.std(1).sub(drawn.config.scale).abs().max() < 1e-3
    loss, _ = drawn.meta_loss(trainable(drawn, params), episodes(data, range(10)), None, generator())
    loss.backward()  # the generator is trained all the same, so that a run is a run


def test_without_features_all_start_alike():
    plain = rating_world(entities=40, items=15, objective="click", features=False)
    for name in MADE:
        learner = learner_of(name)
        params = learner.init(plain, np.arange(30), generator(1))
        batch = episodes(plain, range(30, 36))
        body = learner.body(params)
        z = learner.adapt(body, batch.support.empty())["z"]
        torch.testing.assert_close(z, z[:1].expand_as(z), **CLOSE)
        assert learner.adapt(body, batch.support)["features"].shape == (6, 0, 6)
        live = trainable(learner, params)
        learner.meta_loss(live, batch, None, generator())[0].backward()


def test_only_clicks():
    for name in MADE:
        with pytest.raises(ConfigError, match=r"is for objective .click."):
            learner_of(name).init(ranking_world(entities=20, items=30), np.arange(10), generator())


def test_mwuf_is_scale_and_shift_by_hand(started, data):
    learner, params = started["mwuf"]
    body, batch = learner.body(params), episodes(data, range(40, 44))
    features = learner.features(body, batch.support)
    cold = learner.warm_up(body, params["base.mean"].expand(4, -1), features, batch.support.rows)

    def net(prefix, x):
        hidden = torch.relu(x @ params[f"{prefix}.0.weight"] + params[f"{prefix}.0.bias"])
        return hidden @ params[f"{prefix}.1.weight"] + params[f"{prefix}.1.bias"]

    for t in range(4):
        met = params["base.item"][batch.support.rows.item[t]].mean(0)
        expected = (1 + net("scale", features[t].flatten())) * cold[t] + net("shift", met)
        torch.testing.assert_close(learner.adapt(body, batch.support)["z"][t], expected, **CLOSE)


def test_cvar_knows_the_size_of_the_support_and_no_total(started, data):
    learner, params = started["cvar"]
    moved = {**params, "decode.0.weight": params["decode.0.weight"].clone()}
    moved["decode.0.weight"][-1] += 1.0  # what the decoder makes of how often
    for shots in (0, 3):
        batch = episodes(data, range(40, 44), shots=shots)
        body, other = learner.body(params), learner.body(moved)
        for made in (body, other):
            made["cold"] = torch.ones(())
        change = learner.adapt(other, batch.support)["z"] - learner.adapt(body, batch.support)["z"]
        torch.testing.assert_close(change, torch.full_like(change, np.log1p(shots)), **CLOSE)


def test_cvar_recovers_the_embeddings_of_past_entities(data):
    learner = learner_of("cvar", recover=1.0, latent=8)
    params = trainable(learner, learner.init(data, np.arange(40), generator(1)))
    assert torch.equal(params["past.entity"], torch.arange(40))
    moving = [v for k, v in params.items() if not learner.is_frozen(k)]
    optimiser = torch.optim.Adam(moving, lr=1e-2)
    batch, figures = episodes(data, range(40)), []
    for _ in range(60):
        optimiser.zero_grad()
        loss, made = learner.meta_loss(params, batch, None, generator())
        loss.backward()
        optimiser.step()
        figures.append(made["recovered"])
    assert figures[-1] < 0.3 * figures[0]


@pytest.mark.parametrize("name", MADE)
def test_adapting_lowers_the_loss_of_newcomers(name):
    """Simulated clicks: the base model on past entities, a short meta-training, then newcomers with 12 rows."""
    world = rating_world(entities=200, items=40, rows=40, objective="click")
    split = split_by_seed(np.arange(200), 0)
    learner = learner_of(name, dims=16, base_epochs=10, base_batch=100)
    params = trainable(learner, learner.init(world, split.train, generator(1)))
    optimiser = torch.optim.Adam([v for k, v in params.items() if not learner.is_frozen(k)], lr=3e-3)
    index, rng = EventIndex.of(world), np.random.default_rng(0)
    for step in range(40):
        part = rng.choice(split.train, 25, replace=False)
        shots = torch.full((25,), 12 if step % 4 else 0)
        support, query = index.draw(torch.as_tensor(part), shots, generator=generator(step), max_query=12)
        optimiser.zero_grad()
        learner.meta_loss(params, episode_batch(world, part, support, query), None, generator(step))[0].backward()
        optimiser.step()
    body = learner.body({k: v.detach() for k, v in params.items()})
    batch = episodes(world, split.test, shots=12, query=28)
    cold, warm = (learner.adapt(body, s) for s in (batch.support.empty(), batch.support))
    before, after = (logistic_loss(learner.score(body, s, batch.query), batch.query) for s in (cold, warm))
    gain = before - after
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5
