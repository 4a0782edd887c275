"""The learner of choices: what it answers, what it learns, and that its parts can be left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, Interactions
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.learners.choice import conditional_logit as choice
from recsys_meta.models.learners.choice import experts
from recsys_meta.models.learners.choice.conditional_logit import ChoiceConfig, ConditionalLogit
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.choice_datasets import choice_world
from tests.fixtures.simulated_datasets import ranking_world
from tests.models.learners.cases import generator, own, trainable

TRAIN, VALID, TEST = np.arange(24), np.arange(24, 32), np.arange(32, 40)
FORMS = {
    "default": {},
    "linear": {"hidden": 0, "bonus": 0},
    "blind": {"aware": False},
    "one-expert": {"split": False},
    "no-step": {"adapts": False},
    "pooled": {"aware": False, "split": False, "adapts": False},
}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def world():
    data = choice_world(entities=40, items=24, actors=10, rows=8)
    return data, EventIndex.of(data)


@pytest.fixture(scope="module", params=FORMS.values(), ids=FORMS)
def fresh(request, world):
    """A learner with parameters that are not all zero."""
    learner = ConditionalLogit(ChoiceConfig(negatives=12, **request.param))
    params = learner.init(world[0], TRAIN, generator(1))
    for key, value in params.items():
        if not learner.is_frozen(key) and key != "log_step":
            params[key] = value + 0.1 * torch.randn(value.shape, generator=generator(2))
    params["trust"] = torch.full_like(params["trust"], float(learner.config.adapts))
    return learner, params


def episodes(world, entities, shots, max_query=None):
    data, index = world
    chosen = torch.as_tensor(entities)
    sizes = torch.as_tensor(shots) if np.ndim(shots) else torch.full_like(chosen, shots)
    support, query = index.draw(chosen, sizes, query_from=40, max_query=max_query)
    return episode_batch(data, entities, support, query)


def mixed(world):
    return episodes(world, TEST, [0, 1, 2, 5, 10, 20, 30, 40], 20)


def test_answers_agree_with_each_other(fresh, world):
    learner, params = fresh
    body, batch = learner.body(params), mixed(world)
    state = learner.adapt(body, batch.support)
    assert all(len(v) == 8 for v in state.values())
    candidates = torch.stack([batch.query.item.flip(1), batch.query.item], 2)
    chosen = learner.choose(body, state, batch.query, candidates)
    assert torch.isfinite(chosen).all()
    torch.testing.assert_close(learner.score(body, state, batch.query), chosen[..., 1], **CLOSE)
    ranked = learner.rank(body, state)
    assert ranked.shape == batch.support.catalogue.item.shape
    assert torch.isfinite(ranked).all()
    nobody = batch.query.map(lambda t: torch.zeros_like(t[:, :1]))
    every = torch.arange(ranked.shape[1]).expand(8, 1, -1)
    torch.testing.assert_close(learner.choose(body, state, nobody, every)[:, 0], ranked, **CLOSE)


def test_pieces_of_a_query_are_alike(fresh, world):
    learner, params = fresh
    batch = mixed(world)
    state = learner.adapt(params, batch.support)
    whole = learner.score(params, state, batch.query)
    pieces = [learner.score(params, state, batch.query.columns(i, i + 7)) for i in range(0, whole.shape[1], 7)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **CLOSE)


def test_a_batch_equals_its_tasks_one_by_one(fresh, world):
    learner, params = fresh
    batch = mixed(world)
    state = learner.adapt(params, batch.support)
    together = learner.score(params, state, batch.query), learner.support_loss(params, state, batch.support)
    for t in range(8):
        one = torch.tensor([t])
        support = batch.support.of(one)
        support = replace(support, rows=support.rows.first(int(support.rows.mask.sum())))
        alone = learner.adapt(params, support)
        torch.testing.assert_close(learner.score(params, alone, batch.query.of(one))[0], together[0][t], **CLOSE)
        torch.testing.assert_close(learner.support_loss(params, alone, support)[0], together[1][t], **CLOSE)


def test_order_and_padding_of_the_support_change_nothing(fresh, world):
    learner, params = fresh
    batch = mixed(world)
    r = batch.support.rows
    backwards = replace(batch.support, rows=r.map(lambda t: t.flip(1)))
    filled = Interactions(
        r.item.masked_fill(~r.mask, 5),
        r.label.masked_fill(~r.mask, 9.0),
        r.mask,
        {k: v.masked_fill(~r.mask, 3) for k, v in r.context.items()},
        r.history.masked_fill(~r.mask[:, :, None], 4),
    )
    ours = learner.score(params, learner.adapt(params, batch.support), batch.query)
    for support in (backwards, replace(batch.support, rows=filled)):
        torch.testing.assert_close(learner.score(params, learner.adapt(params, support), batch.query), ours, **CLOSE)


def test_empty_support_has_no_loss_and_no_step(fresh, world):
    learner, params = fresh
    support = mixed(world).support
    hidden = replace(support, rows=replace(support.rows, mask=torch.zeros_like(support.rows.mask)))
    for none in (support.empty(), hidden):
        state = learner.adapt(params, none)
        assert learner.support_loss(params, state, none).tolist() == [0.0] * 8
        knots = experts.interpolate_by_size(torch.zeros(8), len(params["weight_by_size"]))
        expected = params["weight"] + torch.einsum("tk,kef->tef", knots, params["weight_by_size"])
        torch.testing.assert_close(state["weight"], expected, **CLOSE)


def test_before_any_row_the_loss_is_that_of_the_bare_catalogue(fresh, world):
    """Against the candidates' scores in a state that has counted nothing, one row at a time."""
    learner, params = fresh
    support = episodes(world, TEST[:3], 20).support
    start = learner.adapt(params, support.empty())
    got = learner.support_loss(params, start, support)
    others = choice._fixed_candidates(start, learner.config.negatives)
    for t in range(3):
        losses = []
        for r in range(20):
            item, past = int(support.rows.item[t, r]), support.rows.history[t, r].tolist()
            if not any(past):
                continue
            offered = dict.fromkeys([item, *past, *others[t, 0].tolist()])
            offered.pop(0, None)
            row = support.rows.of(torch.tensor([t])).columns(r, r + 1)
            bare = {k: v[t : t + 1] for k, v in start.items()}
            scores = learner.choose(params, bare, row, torch.tensor([[list(offered)]]))[0, 0]
            losses.append(-torch.log_softmax(scores, 0)[0])
        torch.testing.assert_close(got[t], torch.stack(losses).mean(), **CLOSE)
    assert (got > 0).all()


def test_the_step_goes_down_the_support_loss(world):
    learner = ConditionalLogit(ChoiceConfig(negatives=12, rate=1e-2))
    params = learner.init(world[0], TRAIN, generator(1))
    support = episodes(world, TEST, 40).support
    before = learner.adapt(params, support)
    after = learner.adapt(params | {"trust": torch.ones_like(params["trust"])}, support)
    assert (learner.support_loss(params, after, support) < learner.support_loss(params, before, support)).all()
    assert ((after["weight"] - before["weight"]).flatten(1).norm(dim=1) > 1e-4).all()


def test_the_written_gradient_is_the_gradient(fresh, world):
    learner, params = fresh
    support = episodes(world, TEST[:3], 20).support
    state = learner.adapt(params, support)
    x, told, mask, met = learner._support_inputs(params, state, support, own_rows=True)
    weight = state["weight"].clone().requires_grad_()
    learner.support_loss(params, state | {"weight": weight}, support).sum().backward()
    torch.testing.assert_close(experts.expert_step(params, state, x, told, mask, met), -weight.grad, **CLOSE)


def test_small_catalogues_are_offered_whole_and_great_ones_by_chance():
    listed = torch.zeros(3, FIRST + 9, dtype=torch.bool)
    for task, items in enumerate((0, 4, 9)):
        listed[task, FIRST : FIRST + items] = True
    others = choice._sample_candidates(listed, 50, 6, generator())
    assert others.shape == (3, 50, 6)
    assert (others[0] == 0).all()
    assert (others[1] == torch.tensor([FIRST + i for i in range(4)] + [0, 0])).all()
    assert set(others[2].unique().tolist()) == set(range(FIRST, FIRST + 9))
    assert choice._sample_candidates(listed[:2], 5, 500, generator()).shape == (2, 5, 4), "no wider than the widest"


def test_every_trained_parameter_gets_a_gradient(fresh, world):
    learner, params = fresh
    tried = trainable(learner, params)
    for seed in range(12):
        loss, figures = learner.meta_loss(tried, mixed(world), None, generator(seed))
        loss.backward()
        assert all(np.isfinite(float(v)) for v in figures.values())
    for key, value in tried.items():
        if learner.is_frozen(key):
            assert not value.requires_grad
        elif key != "log_step" or learner.config.adapts:
            assert value.grad is not None, key
            assert torch.isfinite(value.grad).all(), key
            assert value.grad.abs().max() > 0, key


def test_inputs_and_chance_are_left_alone(fresh, world):
    learner, params = fresh
    kept, batch = own(params), mixed(world)
    item = batch.support.rows.item.clone()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    learner.meta_loss(params, batch, None, generator(3))
    again = learner.init(world[0], TRAIN, generator(1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(params[k], kept[k]) for k in kept)
    assert torch.equal(item, batch.support.rows.item)
    assert again.keys() == params.keys()


def test_what_the_blind_form_is_told_has_no_size(world):
    learner = ConditionalLogit(ChoiceConfig(aware=False, hidden=4))
    params = learner.init(world[0], TRAIN, generator(1))
    params["net.outer"] = params["net.outer"] + 1
    params["bonus.outer"] = params["bonus.outer"] + 1
    small, great = (learner.adapt(params, episodes(world, TEST, n).support) for n in (2, 40))
    torch.testing.assert_close(small["weight"], great["weight"])
    rows = mixed(world).query
    torch.testing.assert_close(learner._row_inputs(params, small, rows), learner._row_inputs(params, great, rows))


def test_another_objective_is_refused():
    with pytest.raises(ConfigError, match="choice"):
        ConditionalLogit().init(ranking_world(entities=10, items=10, rows=5), np.arange(8), generator())


@pytest.fixture(scope="module")
def trained(world):
    data, index = world
    learner = ConditionalLogit(ChoiceConfig(negatives=16, hidden=8))
    recipe = recipe_of(
        {
            "name": "test",
            "learner": "choice",
            "episodes": {"max_shots": 60, "draw": "log", "max_query": 24, "order": "window"},
            "train": {"tasks": 12, "epochs": 1, "least_steps": 300, "rate": 0.01, "schedule": "cosine"},
        }
    )
    run = start_training(learner, recipe, data, index, TRAIN, 0)
    losses = [s.loss for s in fit(run, lambda _: 0.0)]
    return learner, {k: v.detach() for k, v in run.params.items()}, losses


def ranks(learner, params, batch):
    """Mean reciprocal rank of the query's items in the whole catalogue: (all rows, rows of new items)."""
    state = learner.adapt(params, batch.support)
    tasks, rows = batch.query.item.shape
    there = batch.support.catalogue.mask
    every = torch.arange(there.shape[1]).expand(tasks, rows, -1)
    scores = learner.choose(params, state, batch.query, every).masked_fill(~there[:, None, :], -torch.inf)
    mine = scores.gather(2, batch.query.item[..., None])
    value = 1 / (1 + (scores > mine).sum(2) + 0.5 * ((scores == mine).sum(2) - 1))
    asked = batch.query.mask & (batch.query.item >= FIRST)
    new = asked & ~(batch.query.history == batch.query.item[..., None]).any(2)
    return float(value[asked].mean()), float(value[new].mean())


def test_training_learns_and_a_support_helps(trained, world):
    learner, params, losses = trained
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.3
    before = learner.init(world[0], TRAIN, generator(1))
    curve = [ranks(learner, params, episodes(world, TEST, n)) for n in (0, 10, 40)]
    for n, found in zip((0, 10, 40), curve, strict=True):
        untrained = ranks(learner, before, episodes(world, TEST, n))
        assert found[0] > untrained[0] + 0.1
        assert n == 0 or found[1] > untrained[1] + 0.01, "a support tells which new items are popular"
    assert curve[2][1] > curve[0][1], "with more of the support new items are found better"


def test_the_step_is_taken_only_where_it_pays(trained, world):
    learner, params, _ = trained
    tried = [episodes(world, VALID, n, 24) for n in (0, 40)]
    harmful = params | {"log_step": torch.full_like(params["log_step"], 5.0)}
    assert (learner.calibrate(harmful, tried)["trust"] == 0).all()
    chosen = learner.calibrate(params, tried)["trust"]
    assert chosen.shape == params["trust"].shape
    assert ((chosen >= 0) & (chosen <= 1)).all()
    assert learner.calibrate(params, tried[:1]) == params, "an empty support says nothing of the step"
    assert ConditionalLogit(ChoiceConfig(adapts=False)).calibrate(params, tried) is params
