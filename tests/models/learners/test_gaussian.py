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
from recsys_meta.models.learners.bayesian.gaussian import GaussianPosteriorConfig, GaussianPosteriorLearner
from recsys_meta.models.learners.bayesian.item_labels import StandardizedLabels
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
    with pytest.raises(ConfigError, match="predicts ratings"):
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


def test_an_item_that_nobody_rated_is_less_certain_and_keeps_its_features(world, trained):
    learner, params, index, split = trained
    batch = episodes_at(world.data, index.shuffled(0), split.test, 5)
    item = batch.query.item[0, 0]
    bare = params | {k: params[k].index_fill(0, item[None], 0.0) for k in ("total", "count")}
    one = replace(batch.query.first(1), item=item.expand(len(batch.entity), 1))
    scores, doubts = [], []
    for some in (params, bare):
        body = learner.body(some)
        state = learner.adapt(body, batch.support)
        scores.append(learner.score(body, state, one))
        doubts.append(body["doubt"][0, item])
    assert doubts[1] > 2 * doubts[0]
    assert torch.corrcoef(torch.stack([s.flatten() for s in scores]))[0, 1] > 0.9, (
        "its x is a feature, known all the same"
    )


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


def test_item_levels_of_a_fold_do_not_see_its_labels():
    data = rating_world()
    entities = np.arange(100)
    fold = torch.arange(100) % 4
    flipped = np.array(data.events.label)
    rows = np.isin(np.repeat(np.arange(data.events.entity_count), data.events.counts), entities[fold == 2])
    flipped[rows] = flipped[rows][::-1]
    other = replace(data, events=replace(data.events, label=flipped))
    sums = [StandardizedLabels.of(d, entities).without_fold(fold, 4, data.catalogue) for d in (data, other)]
    own = [total[2] - total[4] for total, _ in sums]
    torch.testing.assert_close(sums[0][1], sums[1][1])
    assert (own[0] - own[1]).abs().max() > 1
    # All terms are fitted to all rows together, so that the others' residuals move a little with the fold's labels.
    assert (sums[0][0][2] - sums[1][0][2]).abs().mean() < 0.2 * (own[0] - own[1]).abs().mean()


def test_training_asks_with_levels_that_do_not_know_the_entity():
    data = rating_world(entities=240, items=200, rows=24)
    index, learner = (
        EventIndex.of(data),
        GaussianPosteriorLearner(GaussianPosteriorConfig(dims=3, new_items=0, dropout=0)),
    )
    entities = np.arange(200)
    params = learner.init(data, entities, generator())
    training_state = learner.training_state(data, entities, generator())
    support, query = index.draw(torch.arange(60), torch.full((60,), 5), generator=generator(4))
    batch = episode_batch(data, np.arange(60), support, query)
    honest = learner.meta_loss(params, batch, training_state, generator())[0]
    known = replace(training_state, fold=torch.full_like(training_state.fold, len(training_state.total) - 1))
    assert torch.equal(training_state.total[-1], params["total"])
    assert learner.meta_loss(params, batch, known, generator())[0] < honest


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
