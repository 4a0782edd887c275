"""The flagship for ratings: how near it comes to the best possible, and what it must not learn from itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.models.functional.two_way_means import two_way_means
from recsys_meta.models.learners.bayesian.factorization_data import FactorizationData
from recsys_meta.models.learners.bayesian.gaussian import GaussianPosteriorConfig, GaussianPosteriorLearner
from recsys_meta.models.learners.bayesian.gaussian_mf import fit_rating_factors
from tests.fixtures.simulated_datasets import linear_gaussian_world, ranking_world, rating_world
from tests.models.learners.cases import generator, train

SMALL = GaussianPosteriorConfig(dims=3)


@pytest.fixture(scope="module")
def world():
    return linear_gaussian_world()


@pytest.fixture(scope="module")
def trained(world):
    """(learner, parameters, index, split) after a short training where the best possible predictor is known."""
    learner = GaussianPosteriorLearner(SMALL)
    params, index, split, _ = train(learner, world.data, epochs=40, rate=2e-2)
    return learner, params, index, split


def errors(world, trained, shots):
    """Mean squared error of the learner, and of the best possible predictor, on test entities."""
    learner, params, index, split = trained
    batch = episodes_at(world.data, index.shuffled(0), split.test, shots)
    body, (support, query) = learner.body(params), (batch.support.rows, batch.query)
    ours = learner.score(body, learner.adapt(body, batch.support), query)
    best = world.posterior(*(t.numpy() for t in (support.item, support.label, support.mask, query.item)))
    return [float((p - query.label)[query.mask].square().mean()) for p in (ours, torch.from_numpy(best))]


@pytest.mark.parametrize("shots", [0, 2, 8])
def test_it_comes_near_the_best_possible_predictor(world, trained, shots):
    ours, best = errors(world, trained, shots)
    spread = float(np.var(world.data.events.label))
    assert ours - best < 0.12 * (spread - best)


def test_other_objectives_are_refused():
    with pytest.raises(ConfigError, match="is for objective 'rating'"):
        GaussianPosteriorLearner(SMALL).init(ranking_world(), np.arange(10), generator())


def test_the_scale_of_labels_changes_nothing_but_the_scale(world):
    data, learner = world.data, GaussianPosteriorLearner(SMALL)
    larger = replace(data, events=replace(data.events, label=data.events.label * 20 + 7))
    answers = []
    for made in (data, larger):
        index = EventIndex.of(made)
        body = learner.body(learner.init(made, np.arange(200), generator()))
        batch = episodes_at(made, index.shuffled(0), np.arange(200, 230), 5)
        state = learner.adapt(body, batch.support)
        answers.append((learner.rank(body, state), learner.score_std(body, state, batch.query)))
    torch.testing.assert_close(answers[1][0], 20 * answers[0][0] + 7, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(answers[1][1], 20 * answers[0][1], rtol=1e-3, atol=1e-3)


def test_what_is_known_of_an_entity_makes_it_surer(world, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episodes_at(world.data, index.shuffled(0), split.test, 8)
    query, mask = batch.query, batch.query.mask
    before, after = (
        learner.score_std(body, learner.adapt(body, s), query)[mask] for s in (batch.support.empty(), batch.support)
    )
    assert (after < before).all()
    assert after.mean() < 0.8 * before.mean()


def test_an_item_that_was_rated_little_is_less_certain(world, trained):
    learner, params, index, split = trained
    body = learner.body(params)
    batch = episodes_at(world.data, index.shuffled(0), split.test, 5)
    state = learner.adapt(body, batch.support)
    item = batch.query.first(1)
    rare = params | {"uncertainty": params["uncertainty"] + 0.5}
    more = learner.score_std(learner.body(rare), state, item)
    assert (more > learner.score_std(body, state, item)).all()
    # And as a row of the support it says less.
    moved = [
        (learner.score(b, learner.adapt(b, batch.support), item) - learner.score(b, empty, item)).abs().mean()
        for b in (body, learner.body(rare))
        for empty in [learner.adapt(b, batch.support.empty())]
    ]
    assert moved[1] < moved[0]


def test_calibration_scales_the_spread_to_the_errors(world, trained):
    learner, params, index, split = trained
    batches = [episodes_at(world.data, index.shuffled(0), split.valid, k) for k in (0, 3, 10)]
    body = learner.body(learner.calibrate(params, batches))
    for batch in batches:
        state, mask = learner.adapt(body, batch.support), batch.query.mask
        spread = learner.score_std(body, state, batch.query)[mask].square().mean()
        error = (learner.score(body, state, batch.query) - batch.query.label)[mask].square().mean()
        # Errors are those of the expected label, and the noise.
        torch.testing.assert_close(spread + world.noise**2, error, rtol=0.25, atol=0)
    assert learner.calibrate(params, []) is params


def test_training_asks_with_factors_that_do_not_know_the_entity():
    data = rating_world(entities=240, items=200, rows=24)
    index, learner = EventIndex.of(data), GaussianPosteriorLearner(SMALL)
    entities = np.arange(200)
    params = learner.init(data, entities, generator())
    training_state = learner.training_state(data, entities, generator())
    support, query = index.draw(torch.arange(60), torch.full((60,), 5), generator=generator(4))
    batch = episode_batch(data, np.arange(60), support, query)
    honest = learner.meta_loss(params, batch, training_state, generator())[0]
    known = replace(training_state, fold=torch.full_like(training_state.fold, len(training_state.factors) - 1))
    assert torch.equal(training_state.factors[-1], params["factors"])
    assert learner.meta_loss(params, batch, known, generator())[0] < honest


# The factorization


def factorization(data, entities=200):
    return FactorizationData.of(data, np.arange(entities), 100)


def test_factors_tell_held_out_ratings_of_known_entities():
    past = factorization(rating_world(entities=200, items=40, rows=40, features=False))
    rows = past.rows
    kept = np.random.default_rng(0).random(len(rows.label)) < 0.8
    part = {k: getattr(rows, k)[kept] for k in ("entity", "item", "label", "inputs")}
    model = fit_rating_factors(replace(past, rows=replace(rows, **part)), 3, 12)
    e, i = model.entity.mean[rows.entity[~kept]], model.item.mean[rows.item[~kept]]
    predicted = model.mean + model.unit * (e[:, 0] + i[:, 0] + (e[:, 1:] * i[:, 1:]).sum(1)).numpy()
    error = np.square(rows.label[~kept] - predicted).mean()
    _, items, terms = two_way_means(
        *(torch.from_numpy(part[k]) for k in ("entity", "item")),
        torch.from_numpy(part["label"]),
        entities=200,
        catalogue=rows.catalogue,
        item_shrink=3,
    )
    two_means = part["label"].mean() + items.numpy()[rows.item[~kept]] + terms.numpy()[rows.entity[~kept]]
    assert error < 0.6 * np.square(rows.label[~kept] - two_means).mean()
    assert 0.7 * 0.4**2 < model.noise * model.unit**2 < 1.5 * 0.4**2, "the world's noise is 0.4"


def test_uncertainty_falls_with_the_number_of_ratings():
    data = rating_world(entities=200, items=40, rows=20)
    events = data.events
    rare = np.array(events.item) == FIRST
    rare[np.flatnonzero(rare)[2:]] = False
    keep = (np.array(events.item) != FIRST) | rare  # the first item is left with two ratings
    moved = replace(events, item=np.where(keep, events.item, FIRST + 1).astype(np.int32))
    spread = fit_rating_factors(factorization(replace(data, events=moved)), 3, 8).uncertainty[FIRST:]
    assert spread[0] > 2 * spread[2:].max()


def test_factors_of_a_fold_do_not_see_its_labels():
    model = fit_rating_factors(factorization(rating_world()), 3, 4)
    fold = np.arange(200) % 5
    rows = model.rows
    flipped = np.where(fold[rows.entity] == 2, -rows.label, rows.label).astype(np.float32)
    ours, theirs = (m.without_folds(fold, 5) for m in (model, replace(model, rows=replace(rows, label=flipped))))
    assert torch.equal(ours[2], theirs[2])
    assert not torch.allclose(ours[1], theirs[1])


def test_equal_labels_and_one_entity_are_survived():
    data = rating_world(entities=30, rows=6)
    flat = replace(data, events=replace(data.events, label=np.full(len(data.events), 4.0, np.float32)))
    for made, entities in ((flat, np.arange(30)), (data, np.arange(1))):
        learner = GaussianPosteriorLearner(SMALL)
        params = learner.init(made, entities, generator())
        learner.training_state(made, entities, generator())
        body = learner.body(params)
        batch = episodes_at(made, EventIndex.of(made), np.arange(20, 30), 3)
        ranked = learner.rank(body, learner.adapt(body, batch.support))
        assert torch.isfinite(ranked).all()
    assert params["unit"] > 0 and ranked.shape == (10, data.catalogue) and FIRST == 2
