"""Baselines of choices: orders worked out by hand on a tiny catalogue, and accuracy on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.baselines.choice import pooled_logit
from recsys_meta.models.baselines.choice.item_neighbours import ItemNeighbours
from recsys_meta.models.baselines.choice.local_popularity import LocalPopularity
from recsys_meta.models.baselines.choice.markov import MarkovChain
from recsys_meta.models.baselines.choice.nearest_item import NearestItem
from recsys_meta.models.baselines.choice.pooled_logit import SUPPORT_SIZES, PooledLogit
from recsys_meta.models.baselines.choice.revisit import RevisitFrequency
from tests.fixtures.choice_datasets import choice_world, place_support, rows_of
from tests.fixtures.simulated_datasets import ranking_world

PLAIN = [LocalPopularity, NearestItem, RevisitFrequency, MarkovChain, ItemNeighbours]
EVERY = [*PLAIN, PooledLogit]
TRAIN, TEST = np.arange(10), np.arange(10, 16)


@pytest.fixture(scope="module")
def world():
    data = choice_world()
    return data, EventIndex.of(data)


@pytest.fixture(scope="module")
def logit(world):
    return PooledLogit().fit(world[0], TRAIN)


def params_of(kind, world, logit):
    return logit if kind is PooledLogit else kind().fit(world[0], TRAIN)


def episodes(world, shots, entities=TEST):
    data, index = world
    ids = torch.as_tensor(entities)
    sizes = torch.tensor(shots) if np.ndim(shots) else torch.full_like(ids, shots)
    support, query = index.draw(ids, sizes, query_from=48)
    return episode_batch(data, entities, support, query)


def order(kind, history, params=None):
    """Return items 2 to 6 of a small catalogue, best first.

    In the support one actor chose 2, 3, 2, 3, another 4, 3, and a third 2.
    """
    rows = rows_of([2, 3, 2, 3, 4, 3, 2], [[], [2], [3, 2], [2, 3, 2], [], [4], []])
    support = place_support(rows, [40.0, 40.1, 40.2, 40.3, 40.31], [-80.0] * 5)
    state = kind().adapt(params or {}, support)
    every = torch.arange(2, 7).view(1, 1, 5)
    scores = kind().choose(params or {}, state, rows_of([2], [history]), every)[0, 0]
    return [i + 2 for i in torch.argsort(-scores, stable=True).tolist()]


def test_local_popularity_orders_by_the_support():
    assert order(LocalPopularity, [5])[:3] in ([2, 3, 4], [3, 2, 4])
    assert order(LocalPopularity, [5]) == order(LocalPopularity, [])


def test_nearest_orders_by_distance_from_the_last():
    assert order(NearestItem, [5, 2]) == [5, 6, 4, 3, 2]
    assert order(NearestItem, [])[:3] == order(LocalPopularity, [])[:3]


def test_revisits_come_first_then_popularity():
    assert order(RevisitFrequency, [6, 5, 6])[:2] == [6, 5]
    assert order(RevisitFrequency, [6, 5, 6])[2:] == order(LocalPopularity, [])[:3]


def test_markov_follows_the_transitions_of_the_support():
    assert order(MarkovChain, [4])[0] == 3
    assert order(MarkovChain, [3])[0] == 2
    assert order(MarkovChain, [6]) == order(LocalPopularity, [6])


def test_neighbours_rank_the_items_chosen_after_the_same_history():
    assert order(ItemNeighbours, [4])[0] == 3
    assert order(ItemNeighbours, [])[:3] == order(LocalPopularity, [])[:3]


@pytest.mark.parametrize("kind", EVERY)
def test_choose_score_and_rank_agree(kind, world, logit):
    predictor, params = kind(), params_of(kind, world, logit)
    batch = episodes(world, [0, 1, 5, 20, 40, 48])
    state = predictor.adapt(predictor.body(params), batch.support)
    candidates = batch.query.item[:, :, None].expand(-1, -1, 3)
    scores = predictor.choose(params, state, batch.query, candidates)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(predictor.score(params, state, batch.query), scores[..., 1])
    ranking = predictor.rank(params, state)
    assert ranking.shape == batch.support.catalogue.item.shape
    nobody = batch.query.map(lambda t: torch.zeros_like(t[:, :1]))
    every = torch.arange(ranking.shape[1]).expand(len(ranking), 1, -1)
    torch.testing.assert_close(predictor.choose(params, state, nobody, every)[:, 0], ranking)
    assert all(len(v) == 6 for v in state.values())
    loss = predictor.support_loss(params, state, batch.support)
    assert torch.isfinite(loss).all()
    assert loss[0] == 0


@pytest.mark.parametrize("kind", EVERY)
def test_a_batch_equals_its_tasks_one_by_one(kind, world, logit):
    predictor, params = kind(), params_of(kind, world, logit)
    batch = episodes(world, [0, 1, 5, 20, 40, 48])
    together = predictor.score(params, predictor.adapt(params, batch.support), batch.query)
    for t in range(6):
        one = torch.tensor([t])
        alone = predictor.score(params, predictor.adapt(params, batch.support.of(one)), batch.query.of(one))
        torch.testing.assert_close(alone[0], together[t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_order_of_the_support_changes_nothing(kind, world, logit):
    predictor, params = kind(), params_of(kind, world, logit)
    batch = episodes(world, 20)
    flipped_rows = batch.support.rows.map(lambda t: t.flip(1))
    flipped_support = type(batch.support)(batch.support.features, flipped_rows, batch.support.catalogue)
    ours = predictor.score(params, predictor.adapt(params, flipped_support), batch.query)
    torch.testing.assert_close(ours, predictor.score(params, predictor.adapt(params, batch.support), batch.query))


@pytest.mark.parametrize("kind", EVERY)
def test_another_objective_is_refused(kind):
    with pytest.raises(ConfigError, match="choice"):
        kind().fit(ranking_world(entities=4, items=10, rows=4), np.arange(3))


def hits(predictor, params, batch, depth=3):
    """Share of query rows whose item is among the first of the whole catalogue."""
    state = predictor.adapt(params, batch.support)
    tasks, rows = batch.query.item.shape
    every = torch.arange(batch.support.catalogue.item.shape[1]).expand(tasks, rows, -1)
    scores = predictor.choose(params, state, batch.query, every)
    scores = scores.masked_fill(~batch.support.catalogue.mask[:, None, :], -torch.inf)
    best = scores[..., FIRST:].topk(depth, 2).indices + FIRST
    found = (best == batch.query.item[..., None]).any(2)
    return float(found[batch.query.mask].float().mean())


def test_pooled_logit_beats_popularity_and_distance(world, logit):
    for shots in (0, 8, 48):
        batch = episodes(world, shots)
        best = hits(PooledLogit(), logit, batch)
        for kind in (LocalPopularity, NearestItem):
            assert best > hits(kind(), {}, batch) + 0.02


def test_pooled_logit_weighs_counts_at_every_support_size(logit):
    weight = logit["weight"]
    assert weight.shape == (len(SUPPORT_SIZES), 6)
    assert weight[0, 0] == 0, "without a support there is no count to weigh"
    assert (weight[1:, 0] > 0).all()
    assert (weight[:, 3] > 0).all(), "near the history is better"


@pytest.mark.slow
def test_fitting_is_deterministic_and_sees_its_entities_only(world, logit):
    data, _ = world
    again = PooledLogit().fit(data, TRAIN)
    assert torch.equal(again["weight"], logit["weight"])
    events = data.events
    item = events.item.copy()
    item[events.indptr[10] :] = np.roll(item[events.indptr[10] :], 7)
    other = type(events)(events.indptr, item, events.label, events.time, events.context, events.actor)
    changed = type(data)(data.schema, other, data.entities, data.items, data.vocab, digest="changed")
    assert torch.equal(PooledLogit().fit(changed, TRAIN)["weight"], logit["weight"])


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["flat", "steep"])
def test_pooled_logit_is_at_the_minimum_of_its_loss(scale):
    generator = torch.Generator().manual_seed(0)
    features = scale * torch.randn(300, 9, 6, generator=generator)
    features[:, 0] += 0.5 * scale  # so that the first candidate is told from the others
    mask = torch.rand(300, 9, generator=generator) < 0.8
    mask[:, 0] = True
    weight = pooled_logit._fit_conditional_logit(features, mask, 1e-3).requires_grad_()
    logits = (features @ weight).masked_fill(~mask, -torch.inf)
    loss = -torch.log_softmax(logits, 1)[:, 0].mean() + 1e-3 * weight.square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert gradient.abs().max() < 1e-3 * scale and weight.detach().norm() > 1e-3
    assert loss < 0.9 * torch.log(mask.sum(1).float()).mean()
    assert pooled_logit._fit_conditional_logit(features[:0], mask[:0], 1e-3).tolist() == [0.0] * 6
