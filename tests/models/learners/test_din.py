"""The deep interest network: items without ids, attention, and what an entity's support moves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from pipelines.workspace import find_recipe
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, EntityCatalog, Interactions, Support, TaskBatch
from recsys_meta.episodes.actor_episodes import ActorIndex
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.learners.choice import interest_network as interest
from recsys_meta.models.learners.choice import negative_sampling as candidates
from recsys_meta.models.learners.choice.din import Din, DinConfig
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.city_datasets import towns
from tests.fixtures.simulated_datasets import ranking_world

ROOT = Path(__file__).parents[3]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SMALL = {"dims": 8, "attention": 6, "hidden": (16,), "context_dims": 4, "dropout": 0.0, "inner_negatives": 3}
CONFIGS = {
    "none": {},
    "head": {"adapts": "head", "rate": 0.1},
    "all": {"adapts": "all", "rate": 0.1, "steps": 2, "learned_rate": True},
    "all-second": {"adapts": "all", "rate": 0.1, "order": 2, "learned_rate": True},
    "narrow": {"adapts": "all", "wide": False, "rate": 0.1, "history": 3},
}
each = pytest.mark.parametrize("name", CONFIGS)
adapting = pytest.mark.parametrize("name", [n for n in CONFIGS if n != "none"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@cache
def world():
    data = towns(actors=110, rows=10, nearness=40.0)  # short walks: longer ones settle down at one place
    return data, ActorIndex.of_rows(EventIndex.of(data), 0)


@cache
def case(name):
    """A learner with parameters that are not as fresh (the wide part starts at 0), and a meta-batch."""
    data, _ = world()
    learner = Din(DinConfig(**SMALL, **CONFIGS[name]))
    params = learner.init(data, np.arange(4), generator(1))
    if "wide" in params:
        params["wide"] = 0.1 * torch.randn(params["wide"].shape, generator=generator(2))
    return learner, params, meta_batch()


def meta_batch(entities=(0, 2, 3), shots=(6, 3, 0), seed=3):
    data, index = world()
    chosen = np.array(entities)
    support, query = index.draw(torch.tensor(entities), torch.tensor(shots), generator=generator(seed), max_query=15)
    return episode_batch(data, chosen, support, query)


def asked(learner, body, support, query):
    """Everything a caller can see of an adapted newcomer."""
    state = learner.adapt(body, support)
    every = torch.arange(support.catalogue.mask.shape[1]).expand(*query.item.shape, -1)
    return (
        learner.choose(body, state, query, every),
        learner.score(body, state, query),
        learner.rank(body, state),
        learner.support_loss(body, state, support),
    )


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@each
def test_scores_agree_with_choices_and_ranks_are_those_of_an_unknown_actor(name):
    learner, params, batch = case(name)
    chosen, scored, ranked, _ = asked(learner, params, batch.support, batch.query)
    torch.testing.assert_close(chosen.gather(2, batch.query.item[:, :, None]).squeeze(2), scored, **CLOSE)
    blank = Interactions(batch.query.item, batch.query.label, batch.query.mask)
    state = learner.adapt(params, batch.support)
    torch.testing.assert_close(learner.score(params, state, blank), ranked.gather(1, batch.query.item), **CLOSE)


@each
def test_a_batch_equals_its_tasks_one_by_one(name):
    learner, params, batch = case(name)
    together = asked(learner, params, batch.support, batch.query)
    for t in range(batch.support.size):
        one = torch.tensor([t])
        support = batch.support.of(one)
        support = replace(support, rows=support.rows.first(int(support.rows.mask.sum())))
        alone = asked(learner, params, support, batch.query.of(one))
        assert_same(alone, [x[t : t + 1] for x in together])


@each
def test_neither_padding_nor_the_order_of_the_support_matters(name):
    learner, params, batch = case(name)
    rows, tasks = batch.support.rows, batch.support.size
    turned = torch.randperm(rows.item.shape[1], generator=generator(5))
    mixed = rows.map(lambda t: t[:, turned])
    mask = mixed.mask
    garbage = Interactions(
        torch.cat([mixed.item.masked_fill(~mask, 5), torch.full((tasks, 3), 7)], 1),
        torch.cat([mixed.label, torch.full((tasks, 3), -4.0)], 1),
        torch.cat([mask, torch.zeros(tasks, 3, dtype=torch.bool)], 1),
        {"hour": torch.cat([mixed.context["hour"].masked_fill(~mask, 3), torch.full((tasks, 3), 9)], 1)},
        torch.cat([mixed.history, torch.full((tasks, 3, mixed.history.shape[2]), 4)], 1),
    )
    support = replace(batch.support, rows=garbage)
    ours = asked(learner, params, support, batch.query)
    assert_same(ours, asked(learner, params, batch.support, batch.query))


def test_items_have_no_ids():
    """Numbering the items of a catalogue in another order changes nothing but where their scores stand."""
    learner, params, batch = case("none")
    own = batch.support.catalogue
    order = torch.cat([torch.arange(FIRST), FIRST + torch.randperm(own.item.shape[1] - FIRST, generator=generator(4))])
    place = torch.argsort(order)

    def turned(rows):
        return replace(rows, item=place[rows.item], history=place[rows.history])

    there = EntityCatalog(own.item[:, order], {k: v[:, order] for k, v in own.features.items()}, own.mask[:, order])
    support = Support({}, turned(batch.support.rows), there)
    chosen, scored, ranked, _ = asked(learner, params, support, turned(batch.query))
    before = asked(learner, params, batch.support, batch.query)
    for ours, theirs in ((chosen, before[0][:, :, order]), (scored, before[1]), (ranked, before[2][:, order])):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_moving_a_whole_catalogue_east_changes_nothing_even_across_the_date_line():
    learner, params, batch = case("none")
    own = batch.support.catalogue
    lon = torch.remainder(own.features["lon"] - own.features["lon"][:, FIRST : FIRST + 1] + 180 + 180, 360) - 180
    assert (lon[own.mask] > 179).any()
    assert (lon[own.mask] < -179).any()
    far = replace(batch.support, catalogue=replace(own, features={**own.features, "lon": lon}))
    ours = asked(learner, params, far, batch.query)
    for a, b in zip(ours, asked(learner, params, batch.support, batch.query), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@adapting
def test_adapting_moves_the_weights_of_who_has_a_support_and_nobody_elses(name):
    learner, params, batch = case(name)
    state = learner.adapt(params, batch.support)
    fast = {k: v for k, v in state.items() if k.startswith("fast.")}
    assert {k.split(".")[1] for k in fast} == set(learner.config.groups)
    moved = torch.cat([(v - params[k.removeprefix("fast.")]).flatten(1) for k, v in fast.items()], 1).norm(dim=1)
    assert (moved[:2] > 1e-5).all()
    assert moved[2] == 0
    still = state | {k: params[k.removeprefix("fast.")].expand_as(v) for k, v in fast.items()}
    gap = learner.score(params, state, batch.query) - learner.score(params, still, batch.query)
    assert (gap.abs().amax(1)[:2] > 1e-5).all()


def test_nothing_moves_where_nothing_adapts():
    learner, params, batch = case("none")
    assert not any(k.startswith("fast.") for k in learner.adapt(params, batch.support))
    assert not any(k.startswith("rate.") for k in params)


@pytest.mark.parametrize("name", ["head", "all-second"])
def test_the_step_is_the_gradient_of_each_tasks_own_loss(name):
    """Against plain autograd on weights without a leading T, task by task."""
    learner, params, batch = case(name)
    state = learner.adapt(params, batch.support)
    for t in range(2):
        one = batch.support.of(torch.tensor([t]))
        known, tell = candidates.split_halves(one.rows)
        seen = interest.encode_history(learner.config, params, replace(one, rows=known))
        own = {k: v.clone().requires_grad_() for k, v in params.items() if k.split(".")[0] in learner.config.groups}
        among = candidates.fixed_negatives(tell, seen["listed"], 3)
        inputs = interest.ChoiceInputs.of(seen, tell, among)
        scores = interest.network_scores(learner.config, params | own, seen, tell, inputs)
        candidates.choice_loss(scores, tell, among).sum().backward()
        for key, value in own.items():
            wanted = params[key] - 0.1 * value.grad
            torch.testing.assert_close(state[f"fast.{key}"][t], wanted, rtol=1e-3, atol=1e-6)


def test_second_order_gradients_differ_from_first_order_ones():
    gradients = []
    for name in ("all-second", "all"):
        learner, params, batch = case(name)
        learner = Din(learner.config.model_copy(update={"steps": 1}))
        free = {
            k: v.clone().requires_grad_(v.is_floating_point() and not learner.is_frozen(k)) for k, v in params.items()
        }
        learner.meta_loss(free, batch, None, generator())[0].backward()
        gradients.append({k: v.grad for k, v in free.items() if v.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any((gradients[0][k] - gradients[1][k]).abs().max() > 1e-6 for k in gradients[0])


@each
def test_every_parameter_that_trains_gets_a_gradient(name):
    learner, params, batch = case(name)
    free = {k: v.clone() if learner.is_frozen(k) else v.clone().requires_grad_() for k, v in params.items()}
    loss, figures = learner.meta_loss(free, batch, None, generator())
    loss.backward()
    for key, value in free.items():
        if not learner.is_frozen(key):
            assert value.grad is not None, key
            assert torch.isfinite(value.grad).all(), key
            assert value.grad.abs().max() > 0, key
    assert all(np.isfinite(float(v)) for v in figures.values())
    assert bool(figures) is (name != "none")
    fixed = {k for k in params if k.startswith("rate.") and learner.is_frozen(k)}
    assert bool(fixed) is (name in ("head", "narrow"))


def test_no_actor_is_counted_and_asked_about():
    data, index = world()
    support, _ = index.draw(torch.arange(4), torch.full((4,), 12), generator=generator())
    rows = episode_batch(data, np.arange(4), support, support).support.rows
    known, tell = candidates.split_halves(rows, seasoned=4)
    of = {id(part): index.actor[part.position] for part in (known, tell)}
    for t in range(4):
        counted, told = (set(of[id(part)][t][part.mask[t]].tolist()) for part in (known, tell))
        assert counted
        assert told
        assert not counted & told
    length = (tell.history >= FIRST).sum(2)
    assert (length[tell.mask] >= 4).all()
    seasoned = (rows.mask & ((rows.history >= FIRST).sum(2) >= 4)).sum()
    assert 0.2 < tell.mask.sum() / seasoned < 0.8
    assert tell.item.shape[1] == tell.mask.sum(1).max(), "no column is empty"


def test_candidates_are_of_the_own_catalogue_and_spread_over_it():
    listed = torch.zeros(2, 12, dtype=torch.bool)
    listed[0, 2:12], listed[1, 2:5] = True, True
    rows = Interactions(
        torch.randint(2, 5, (2, 400), generator=generator()), torch.ones(2, 400), torch.ones(2, 400).bool()
    )
    rows = replace(rows, history=torch.randint(2, 5, (2, 400, 6), generator=generator(1)))
    for among in (
        candidates.sample_negatives(TaskBatch(torch.arange(2), Support({}, rows), rows), listed, 5, generator()),
        candidates.fixed_negatives(rows, listed, 5),
    ):
        assert torch.equal(among[:, :, 0], rows.item)
        for t, size in enumerate((10, 3)):
            share = torch.bincount(among[t, :, 1:].flatten(), minlength=12) / among[t, :, 1:].numel()
            assert (share[2 : 2 + size] - 1 / size).abs().max() < 0.05
            assert float(share[2 : 2 + size].sum()) == pytest.approx(1)
    again = candidates.fixed_negatives(rows.map(lambda t: t.flip(1)), listed, 5)
    assert torch.equal(again.flip(1), candidates.fixed_negatives(rows, listed, 5))


def test_an_item_is_not_told_from_itself():
    scores = torch.tensor([[[1.0, 9.0, 2.0]]])
    rows = Interactions(torch.tensor([[3]]), torch.ones(1, 1), torch.ones(1, 1).bool())
    loss = candidates.choice_loss(scores, rows, torch.tensor([[[3, 3, 4]]]))
    assert float(loss) == pytest.approx(np.log1p(np.e))
    unknown = replace(rows, item=torch.tensor([[1]]))
    assert float(candidates.choice_loss(scores, unknown, torch.tensor([[[1, 3, 4]]]))) == 0


@each
def test_dropout_is_off_but_in_the_meta_loss(name):
    learner, params, batch = case(name)
    noisy = Din(learner.config.model_copy(update={"dropout": 0.5}))
    for a, b in zip(
        asked(noisy, params, batch.support, batch.query),
        asked(learner, params, batch.support, batch.query),
        strict=True,
    ):
        assert torch.equal(a, b)
    losses = {float(noisy.meta_loss(params, batch, None, generator(s))[0]) for s in range(3)}
    assert len(losses) == 3


@each
def test_a_state_survives_a_round_trip(name):
    learner, params, batch = case(name)
    state = learner.adapt(params, batch.support)
    assert all(len(v) == batch.support.size for v in state.values())
    back = load(save(state))
    assert_same([learner.rank(params, back)], [learner.rank(params, state)])


def test_a_choice_in_pieces_is_the_same(monkeypatch):
    learner, params, batch = case("all")
    whole = asked(learner, params, batch.support, batch.query)
    monkeypatch.setattr(interest, "PAIR_FLOATS", 1)
    assert_same(asked(learner, params, batch.support, batch.query), whole)


@each
def test_attention_to_pairs_of_items_is_that_to_the_rows_candidates(name, monkeypatch):
    """Rows that rank the catalogue look the attention up; with few rows it is computed for each candidate."""
    learner, params, batch = case(name)
    calls = []
    monkeypatch.setattr(interest, "pair_logits", lambda *a, f=interest.pair_logits: calls.append(1) or f(*a))
    looked_up = asked(learner, params, batch.support, batch.query)
    assert calls
    monkeypatch.setattr(interest, "TABLE_FLOATS", 0)
    assert_same(asked(learner, params, batch.support, batch.query), looked_up)


def test_items_without_coordinates_or_rows_without_context_are_fine():
    learner, params, batch = case("all")
    own = batch.support.catalogue
    lat = own.features["lat"].clone()
    lat[:, FIRST : FIRST + 3] = torch.nan
    nowhere = replace(own, features={"lat": lat})
    blank = replace(batch.query, context={}, history=None)
    got = asked(learner, params, replace(batch.support, catalogue=nowhere), blank)
    assert all(torch.isfinite(x).all() for x in got)
    unknown = replace(batch.support.rows, item=torch.ones_like(batch.support.rows.item))
    got = asked(learner, params, replace(batch.support, rows=unknown), batch.query)
    assert all(torch.isfinite(x).all() for x in got)


def test_other_objectives_are_refused():
    with pytest.raises(ConfigError, match="'din' is for objective 'choice'"):
        Din().init(ranking_world(entities=10), np.arange(4), generator())


STAGES = {
    "din": set(),
    "maml-din": set(),
    "haml": {"kept", "fresh", "members"},
    "chaml": {"kept", "fresh", "members"},
    "benchmarks/recipes/chaml-cities.toml": {"kept", "fresh"},
    "benchmarks/recipes/chaml-users.toml": {"fresh", "members"},
}
"""Recipes, and what their curricula draw."""


@pytest.mark.parametrize("name", STAGES)
def test_the_recipes_train(name):
    """Each with its curriculum, for a few steps, on a world that is not theirs."""
    data, index = world()
    raw = find_recipe(str(ROOT / name) if "/" in name else name).model_dump()
    raw["config"] |= {"dims": 8, "attention": 8, "hidden": (16,)}
    raw["train"] |= {"epochs": 6, "tasks": 2, "warmup": 0}
    raw["curriculum"] |= {"probe_steps": 3}
    raw["episodes"] |= {"max_shots": 10}
    recipe = recipe_of(raw)
    run = start_training(Din(DinConfig(**recipe.config)), recipe, data, index, np.arange(4), 0)
    steps = list(fit(run, lambda _: 0.0))
    assert len(steps) == 12
    stages = {b.name.removeprefix("stage ") for s in steps for b in s.buckets} - {f"decile {d:02d}" for d in range(11)}
    assert stages == STAGES[name]
    if "chaml" in name:
        assert [s.logs["curriculum.open"] for s in steps] == [0.5] * 5 + [1.0] * 7


def test_training_finds_what_the_world_is_made_of():
    """After a short training the item taken is among the first far more often than by chance or by popularity."""
    data, index = world()
    recipe = recipe_of(
        {
            "name": "t",
            "learner": "din",
            "episodes": {"max_shots": 10, "max_query": 30, "order": "random"},
            "train": {"tasks": 4, "epochs": 60, "rate": 1e-2, "patience": 99},
        }
    )
    learner = Din(DinConfig(**{**SMALL, "negatives": 5}))
    run = start_training(learner, recipe, data, index, np.arange(4), 0)
    for _ in fit(run, lambda _: 0.0):
        pass
    batch = meta_batch((4, 5), (10, 10))
    with torch.no_grad():
        state = learner.adapt(run.params, batch.support)
        every = torch.arange(FIRST, 14).expand(*batch.query.item.shape, -1)
        scores = learner.choose(run.params, state, batch.query, every)
    own = scores.gather(2, batch.query.item[:, :, None] - FIRST)
    place = (scores > own).sum(2)[batch.query.mask].float()
    popular = (state["count"][:, None, FIRST:] > state["count"].gather(1, batch.query.item)[:, :, None]).sum(2)
    assert place.mean() < 0.8 * popular[batch.query.mask].float().mean()
    assert place.mean() < 3
