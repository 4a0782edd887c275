"""The flagship's step away from what was disliked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.types import Interactions, Support, TaskBatch
from recsys_meta.models.learners.ranking.memory_gates import CLOSED_GATE
from recsys_meta.models.learners.ranking.push_gate import search_push
from tests.models.learners.test_flagship import fresh, learner_of, rows_of, support_of

GATE = torch.tensor([0.5, 1.0])


@pytest.fixture
def case():
    learner = learner_of()
    data, params = fresh(learner)
    params["log_step"] = 0.1 * torch.randn(params["log_step"].shape, generator=torch.Generator().manual_seed(2))
    support = replace(support_of(data).support, dislikes=rows_of([[12], [13, 14], [], [15, 16, 17]]))
    return learner, params | {"push": GATE}, support


def test_without_dislikes_or_without_a_push_nothing_changes(case):
    learner, params, support = case
    body = learner.body(params)
    without = learner.adapt(body, replace(support, dislikes=None))["z"]
    assert torch.equal(learner.adapt(body, replace(support, dislikes=rows_of([[]] * 4)))["z"], without)
    plain = learner.body({k: v for k, v in params.items() if k != "push"})
    assert torch.equal(learner.adapt(plain, support)["z"], without)
    assert torch.equal(learner.adapt(body, support)["z"][2], without[2]), "of the third nothing was disliked"


def test_the_step_is_that_of_as_many_likes_turned_round(case):
    learner, params, support = case
    body = learner.body(params)
    nothing = replace(support, rows=support.rows.first(0))
    start = learner.adapt(body, replace(nothing, dislikes=None))["z"]
    moved = learner.adapt(body, nothing)["z"] - start
    # The start of that many likes differs with their number: compared where it does not.
    assert not body["start_by_size"].any() and torch.equal(body["popularity_by_size"], torch.ones(12, 2))
    liked = learner.adapt(body, replace(support, rows=support.dislikes, dislikes=None))["z"] - start
    count = support.dislikes.counts[:, None, None]
    torch.testing.assert_close(moved, -0.5 * count / (count + 1) * liked, atol=1e-6, rtol=1e-5)


def test_what_was_disliked_scores_lower(case):
    learner, params, support = case
    body = learner.body(params)
    before = learner.rank(body, learner.adapt(body, replace(support, dislikes=None)))
    change = learner.rank(body, learner.adapt(body, support)) - before
    own = change.gather(1, support.dislikes.item)[support.dislikes.mask]
    assert float(own.mean()) < float(change[[0, 1, 3], 2:].mean())


def test_from_a_start_it_is_the_same_alone_or_in_a_batch(case):
    learner, params, support = case
    body = learner.body(params)
    start = learner.start(body, support)
    together = learner.adapt_from(body, start, support)
    torch.testing.assert_close(together["z"], learner.adapt(body, support)["z"], atol=1e-5, rtol=1e-5)
    for t in range(support.size):
        one = torch.tensor([t])
        alone = learner.adapt_from(body, {k: v[one] for k, v in start.items()}, support.of(one))
        assert torch.equal(alone["z"], together["z"][one])


def test_an_unknown_item_pushes_nothing(case):
    learner, params, support = case
    body = learner.body(params)
    unknown = Interactions(torch.ones(4, 1, dtype=torch.int64), torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.bool))
    for adapt in (learner.adapt, lambda b, s: learner.adapt_from(b, learner.start(b, s), s)):
        got = adapt(body, replace(support, dislikes=unknown))["z"]
        assert torch.equal(got, adapt(body, replace(support, dislikes=None))["z"])


def _episodes(useful, entities=60, items=40):
    """Scores without dislikes, pushes, counts and batches of entities for which a push is right, or says nothing."""
    generator = torch.Generator().manual_seed(0)
    relevant = torch.stack([torch.randperm(items, generator=generator)[:5] + 2 for _ in range(entities)])
    query = Interactions(relevant, torch.ones(relevant.shape), torch.ones(relevant.shape, dtype=torch.bool))
    scores, push = (torch.randn(entities, items + 2, generator=generator) for _ in range(2))
    if useful:
        push = push.scatter_add(1, relevant, torch.full(relevant.shape, -2.0))
    batch = TaskBatch(torch.arange(entities), Support({}, rows_of([[]] * entities)), query)
    return [scores], [push], [torch.full((entities,), 3.0)], [batch], torch.arange(entities)


def test_the_push_is_chosen_where_it_helps_and_else_none():
    weight, half = search_push(*_episodes(useful=True))
    assert weight * 3 / (3 + half) > 0.4, "beyond the first candidates"
    assert search_push(*_episodes(useful=False)) == CLOSED_GATE
    assert search_push(*_episodes(useful=True, entities=4)) == CLOSED_GATE, "four entities are no evidence"


def test_those_who_were_held_out_must_gain_too():
    scores, pushes, counts, batches, _ = _episodes(useful=True)
    assert search_push(scores, pushes, counts, batches, torch.arange(7)) != CLOSED_GATE
    assert search_push(scores, pushes, counts, batches, torch.arange(0)) == CLOSED_GATE
    turned = [torch.cat([-pushes[0][:7], pushes[0][7:]])]
    assert search_push(scores, turned, counts, batches, torch.arange(60)) != CLOSED_GATE
    assert search_push(scores, turned, counts, batches, torch.arange(7)) == CLOSED_GATE


def test_a_learner_keeps_its_parameters_where_pushing_does_not_help(case):
    learner, params, support = case
    plain = {k: v for k, v in params.items() if k != "push"}
    data, _ = fresh(learner)
    batch = support_of(data)
    held_out = np.arange(40, 44)
    assert learner.choose_push(plain, [], held_out) is plain
    assert learner.choose_push(plain, [batch], held_out) is plain, "nothing was disliked"
    few = replace(batch, support=support)
    assert set(learner.choose_push(plain, [few], held_out)) == set(plain), "four entities are no evidence"
