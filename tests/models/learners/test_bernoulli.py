"""The Bernoulli flagship: its posterior, its factors, and what it must not learn from itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST, Interactions
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.functional.interpolation import SIZE_KNOTS
from recsys_meta.models.functional.losses import logistic_loss
from recsys_meta.models.learners.bayesian.bernoulli import BernoulliConfig, BernoulliPosterior
from recsys_meta.models.learners.bayesian.factorization_data import FactorizationData
from recsys_meta.models.learners.bayesian.temperature_scaling import fit_temperature, fit_temperatures
from recsys_meta.models.learners.bayesian.variational_mf import QuadraticLikelihood, fit_factors, leave_fold_out
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import ranking_world, rating_world

SMALL = BernoulliConfig(dims=3, sweeps=6, hidden=4, context_dims=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def shown():
    """Clicks that depend on a place in a list, a price and the entity: context of both kinds, some of it missing."""
    data = rating_world(objective="click", entities=150, rows=24)
    rng, rows = np.random.default_rng(1), len(data.events)
    place = rng.integers(0, 4, rows)
    price = rng.normal(size=rows).astype(np.float32)
    logit = np.array([1.5, 0.0, -1.0, -2.0])[place] - 1.0 * price + 4 * np.asarray(data.events.label) - 2
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    price[rng.random(rows) < 0.1] = np.nan
    context = {"place": (place + FIRST).astype(np.int32), "price": price}
    fields = (FeatureField(name="place"), FeatureField(name="price", kind="numeric"))
    places = pd.Index([f"p{i}" for i in range(4)], dtype="str")
    return replace(
        data,
        schema=data.schema.model_copy(update={"context": fields}),
        events=replace(data.events, label=label, context=context),
        vocab=Vocabulary({**data.vocab.values, "context.place": places}),
    )


@pytest.fixture(scope="module")
def trained(shown):
    """(learner, parameters, index, split) after a short training on the world with context."""
    index = EventIndex.of(shown)
    split = split_by_seed(index.entities_with(2), 0)
    learner = BernoulliPosterior(SMALL)
    recipe = recipe_of(
        {
            "name": "test",
            "learner": "bernoulli",
            "episodes": {"max_shots": 12, "empty": 0.2},
            "train": {"tasks": 32, "epochs": 15, "rate": 1e-2, "patience": 100},
        }
    )
    run = start_training(learner, recipe, shown, index, split.train, 0)
    for _ in fit(run, lambda _: 0.0):
        pass
    return learner, {k: v.detach() for k, v in run.params.items()}, index, split


def episode(data, index, entities, shots, seed=4):
    count = torch.full((len(entities),), shots)
    support, query = index.draw(torch.as_tensor(entities), count, generator=generator(seed))
    return episode_batch(data, entities, support, query)


# The factors


def clicks(seed=0):
    data = rating_world(objective="click", entities=200, items=40, rows=30, seed=seed)
    return data, FactorizationData.of(data, np.arange(150), 100)


def test_factors_tell_held_out_clicks_of_known_entities():
    data = rating_world(objective="click", entities=200, items=40, rows=40)
    past = FactorizationData.of(data, np.arange(200), 100)
    rows, rng = past.rows, np.random.default_rng(0)
    kept = rng.random(len(rows.label)) < 0.8
    part = replace(
        rows, entity=rows.entity[kept], item=rows.item[kept], label=rows.label[kept], inputs=rows.inputs[kept]
    )
    found = fit_factors(replace(past, rows=part), 3, 8)
    e, i = found.entity.mean[rows.entity[~kept]], found.item.mean[rows.item[~kept]]
    logit = (found.base + e[:, 0] + i[:, 0] + (e[:, 1:] * i[:, 1:]).sum(1)).numpy()
    held = rows.label[~kept]
    loss = np.mean(np.logaddexp(0, logit) - held * logit)
    rate = rows.label[kept].mean()
    constant = -np.mean(held * np.log(rate) + (1 - held) * np.log(1 - rate))
    assert loss < 0.85 * constant


def test_quadratics_settle_at_the_mean_slope_and_curvature():
    mean = np.linspace(-4, 4, 9).repeat(3).astype(np.float32)
    variance = np.tile([0.0, 0.5, 4.0], 9).astype(np.float32)
    label = (np.arange(27) % 2).astype(np.float32)
    quadratics = QuadraticLikelihood.fresh(27)
    for _ in range(30):
        quadratics = quadratics.towards(mean, variance)
    point, weight = np.polynomial.hermite_e.hermegauss(60)
    chance = 1 / (1 + np.exp(-(mean[:, None] + np.sqrt(variance)[:, None] * point)))
    weight = weight / weight.sum()
    np.testing.assert_allclose(quadratics.pull(label, mean), label - chance @ weight, atol=0.02)
    np.testing.assert_allclose(quadratics.curvature, (chance * (1 - chance)) @ weight, atol=0.02)


def test_the_factorisation_comes_to_rest_where_labels_are_extreme():
    _, past = clicks()
    nearly = (past.rows.entity % 2 == 0).astype(np.float32)  # entities that always, or never, are clicked
    nearly[::50] = 1 - nearly[::50]
    past = replace(past, rows=replace(past.rows, label=nearly))
    first, second = (fit_factors(past, 3, sweeps).entity.mean[:, 0] for sweeps in (60, 61))
    assert torch.isfinite(second).all()
    assert (second - first).abs().max() < 0.02 * first.std()


def test_factors_of_a_fold_do_not_see_its_labels():
    _, past = clicks()
    found = fit_factors(past, 3, 4)
    fold = np.arange(150) % 5
    flipped = np.where(fold[past.rows.entity] == 2, 1 - past.rows.label, past.rows.label).astype(np.float32)
    ours, theirs = (leave_fold_out(rows, found, fold, 5) for rows in (past.rows, replace(past.rows, label=flipped)))
    assert torch.equal(ours[2], theirs[2])
    assert not torch.allclose(ours[1], theirs[1])


def test_training_asks_with_factors_that_do_not_know_the_entity():
    data = rating_world(objective="click")
    index, learner = EventIndex.of(data), BernoulliPosterior(SMALL)
    entities = np.arange(160)
    params = learner.init(data, entities, generator())
    training_state = learner.training_state(data, entities, generator())
    batch = episode(data, index, entities[:30], 5)
    honest = learner.meta_loss(params, batch, training_state, generator())[0]
    known = replace(training_state, fold=torch.full_like(training_state.fold, len(training_state.item) - 1))
    assert torch.equal(training_state.item[-1], params["item"])
    assert learner.meta_loss(params, batch, known, generator())[0] < honest


def test_rare_labels_get_no_factors_and_equal_labels_are_survived():
    data = rating_world(objective="click", entities=60, rows=12)
    events = data.events
    for label in (np.arange(len(events)) % 40 == 0, np.zeros(len(events)), np.ones(len(events))):
        rare = replace(data, events=replace(events, label=label.astype(np.float32)))
        params = BernoulliPosterior(SMALL).init(rare, np.arange(60), generator())
        assert params["item"].shape[1] == 1
        assert all(torch.isfinite(v).all() for v in params.values())


# The learner


def test_other_objectives_are_refused():
    with pytest.raises(ConfigError, match="is for objective 'click'"):
        BernoulliPosterior(SMALL).init(ranking_world(), np.arange(10), generator())


def test_clicks_in_context_are_predicted_better_with_a_support(shown, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    label = shown.events.label
    constant = -np.mean(label * np.log(label.mean()) + (1 - label) * np.log(1 - label.mean()))
    losses = []
    batch = episode(shown, index, split.test, 10)
    for support in (batch.support.empty(), batch.support):
        losses.append(logistic_loss(learner.score(body, learner.adapt(body, support), batch.query), batch.query).mean())
    assert losses[0] < 0.95 * constant
    assert losses[1] < losses[0]


def test_place_and_price_count_as_they_should(shown, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episode(shown, index, split.test[:4], 3)
    state = learner.adapt(body, batch.support)
    query = batch.query.first(1)

    def asked(**context):
        return learner.score(body, state, replace(query, context={**query.context, **context}))

    tops = [asked(place=torch.full_like(query.item, FIRST + p)).mean() for p in range(4)]
    assert tops == sorted(tops, reverse=True)
    assert (asked(price=torch.full(query.item.shape, -1.0)) > asked(price=torch.full(query.item.shape, 1.0))).all()


def test_missing_and_unknown_context_is_answered_as_a_ranking_does(shown, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episode(shown, index, split.test[:5], 4)
    state = learner.adapt(body, batch.support)
    ranked = learner.rank(body, state)
    query = batch.query
    nothing = {"place": torch.zeros_like(query.item), "price": torch.full(query.item.shape, torch.nan)}
    for context in ({}, nothing):
        got = learner.score(body, state, replace(query, context=context))
        torch.testing.assert_close(got, ranked.gather(1, query.item), rtol=1e-4, atol=1e-4)
    far = {"place": torch.full_like(query.item, 99), "price": torch.full(query.item.shape, 1e30)}
    strange = replace(query, context=far, item=torch.full_like(query.item, 10**7))
    assert torch.isfinite(learner.score(body, state, strange)).all()


def test_a_long_one_sided_support_stays_sane(shown, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episode(shown, index, split.test[:3], 5)
    item = torch.arange(500).remainder(40).add(FIRST).expand(3, -1)
    rows = Interactions(item, torch.ones(3, 500), torch.ones(3, 500, dtype=torch.bool))
    state = learner.adapt(body, replace(batch.support, rows=rows))
    score = learner.score(body, state, batch.query)
    before = learner.score(body, learner.adapt(body, batch.support.empty()), batch.query)
    mask = batch.query.mask
    assert torch.isfinite(score).all()
    assert (score[mask] > before[mask]).all(), "who was always taken is likelier to be taken"


def test_what_is_known_of_an_entity_makes_it_surer(shown, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episode(shown, index, split.test, 8)
    query, mask = batch.query, batch.query.mask
    before, after = (
        learner.score_std(body, learner.adapt(body, s), query)[mask] for s in (batch.support.empty(), batch.support)
    )
    assert (after < before).all()
    assert after.mean() < 0.95 * before.mean()


def test_the_state_is_small(shown, trained):
    learner, params, index, split = trained
    state = learner.adapt(learner.body(params), episode(shown, index, split.test[:1], 5).support)
    width = params["prior"].shape[0]
    assert sum(v.numel() for v in state.values()) == width + width**2 + 1


# Calibration


def test_a_slope_undoes_what_was_done_to_true_logits():
    g = generator()
    logit = 1.5 * torch.randn(20, 500, generator=g)
    label = (torch.rand(20, 500, generator=g) < torch.sigmoid(logit)).float()
    rows = Interactions(torch.zeros(20, 500, dtype=torch.int64), label, torch.ones(20, 500, dtype=torch.bool))
    assert abs(fit_temperature(logit, rows) - 1) < 0.06
    assert abs(fit_temperature(2 * logit, rows) - 0.5) < 0.06
    assert fit_temperature(logit, replace(rows, mask=torch.zeros_like(rows.mask))) == 1
    made = fit_temperatures([10.0, 0.0], [2 * logit, logit], [rows, rows], SIZE_KNOTS)
    assert made.shape == (len(SIZE_KNOTS),)
    assert (made.diff() <= 1e-6).all(), "between the sizes it goes from one slope to the other"
    assert made[0] - made[-1] > 0.4


def test_calibrating_takes_back_overconfidence(shown, trained):
    learner, params, index, split = trained
    wrong = params | {"slope": torch.ones(len(SIZE_KNOTS)), "prior": 3 * params["prior"]}
    batches = [episode(shown, index, split.valid, k) for k in (0, 10)]
    body, unset = learner.body(learner.calibrate(wrong, batches)), learner.body(wrong)
    for batch in batches:
        query, support = batch.query, batch.support
        loss = [logistic_loss(learner.score(b, learner.adapt(b, support), query), query).mean() for b in (body, unset)]
        assert loss[0] < loss[1]
    assert learner.calibrate(wrong, []) is wrong
