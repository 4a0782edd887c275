"""What every learner promises, whatever it is: one registry entry buys all of these tests."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from recsys_meta.models.functional.losses import logistic_loss
from recsys_meta.models.learners import LEARNERS
from tests.models.learners.cases import (
    CASES,
    CONFIGS,
    NAMES,
    case_of,
    curve,
    episodes,
    generator,
    own,
    train,
    trainable,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=CASES, ids=NAMES)
def case(request):
    return case_of(*request.param)


def answers(learner, body, support, query):
    """Everything a caller can see of an adapted newcomer."""
    state = learner.adapt(body, support)
    return (
        learner.score(body, state, query),
        learner.rank(body, state),
        learner.support_loss(body, state, support),
    )


def assert_same(ours, theirs, **close):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **(close or CLOSE))


def identical(a, b):
    """Bit for bit, but that a missing number equals itself."""
    return torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(a.nan_to_num(), b.nan_to_num())


def columns(rows, chosen):
    return rows.map(lambda t: t[:, chosen])


def bare(rows):
    """The same rows of actors of whom nothing is known, in no context: what a ranking answers."""
    nothing = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v * 0 for k, v in rows.context.items()}
    return replace(rows, context=nothing, history=None if rows.history is None else rows.history * 0)


def test_every_case_names_a_learner():
    assert set(CONFIGS) <= set(LEARNERS)


def test_ranking_agrees_with_scoring(case):
    body = case.learner.body(case.params)
    state = case.learner.adapt(body, case.batch.support)
    ranked = case.learner.rank(body, state)
    own_items = case.batch.support.catalogue
    assert ranked.shape == (
        case.batch.support.size,
        case.data.catalogue if own_items is None else len(own_items.mask[0]),
    )
    assert torch.isfinite(ranked).all()
    query = bare(case.batch.query)
    scored = case.learner.score(body, state, query)
    expected = ranked.gather(1, query.item)
    mask = query.mask
    torch.testing.assert_close(scored[mask], expected[mask], **CLOSE)


def test_adapting_changes_predictions(case, record_property):
    body = case.learner.body(case.params)
    before = case.learner.rank(body, case.learner.adapt(body, case.batch.support.empty()))
    after = case.learner.rank(body, case.learner.adapt(body, case.batch.support))
    change = (after - before).norm(dim=1)
    some = case.batch.support.rows.mask.any(1)
    record_property("mean_norm_of_change", float(change[some].mean()))
    print(f"mean norm of the change of all scores: {float(change[some].mean()):.4f}")
    assert (change[some] > 1e-4).all()
    assert (change[~some] < 1e-5).all()


def test_padding_changes_nothing_even_if_it_is_garbage(case):
    body, support = case.learner.body(case.params), case.batch.support
    rows, tasks = support.rows, support.size
    wider = rows.map(lambda t: torch.cat([t, torch.full((tasks, 3, *t.shape[2:]), 1, dtype=t.dtype)], 1))
    there = torch.cat([rows.mask, torch.zeros(tasks, 3, dtype=torch.bool)], 1)
    garbage = replace(
        wider,
        item=wider.item.masked_fill(~there, 5),
        label=wider.label.masked_fill(~there, 9.0),
        mask=there,
        history=None if wider.history is None else wider.history.masked_fill(~there[:, :, None], 4),
    )
    padded = replace(support, rows=garbage)
    query = case.batch.query
    assert_same(answers(case.learner, body, padded, query), answers(case.learner, body, support, query))
    params = case.params
    torch.testing.assert_close(case.loss(params, replace(case.batch, support=padded))[0], case.loss(params)[0], **CLOSE)


def test_order_of_the_support_changes_nothing(case):
    body, support = case.learner.body(case.params), case.batch.support
    mixed = torch.randperm(support.rows.item.shape[1], generator=generator(5))
    turned = replace(support, rows=columns(support.rows, mixed))
    query = case.batch.query
    if getattr(case.learner, "is_ordered", False):
        now, before = answers(case.learner, body, turned, query), answers(case.learner, body, support, query)
        assert not all(torch.equal(x, y) for x, y in zip(now, before, strict=True))
    else:
        assert_same(answers(case.learner, body, turned, query), answers(case.learner, body, support, query))


def test_a_batch_equals_its_tasks_one_by_one(case):
    body, batch = case.learner.body(case.params), case.batch
    together = answers(case.learner, body, batch.support, batch.query)
    for t in range(batch.support.size):
        one = batch.support.of(torch.tensor([t]))
        alone = replace(one, rows=one.rows.first(int(one.rows.mask.sum())))
        query = batch.query.of(torch.tensor([t]))
        assert_same(answers(case.learner, body, alone, query), [x[t : t + 1] for x in together])


def test_empty_support_is_finite_and_the_same_however_it_is_spelt(case):
    body, support = case.learner.body(case.params), case.batch.support
    none = answers(case.learner, body, support.empty(), case.batch.query)
    hidden = replace(support.rows, mask=torch.zeros_like(support.rows.mask))
    assert_same(none, answers(case.learner, body, replace(support, rows=hidden), case.batch.query))
    assert all(torch.isfinite(x).all() for x in none)
    assert (none[2] == 0).all()
    loss, _ = case.loss(trainable(case.learner, case.params), replace(case.batch, support=support.empty()))
    loss.backward()
    assert torch.isfinite(loss)


def test_unknown_ids_are_accepted(case):
    body, support = case.learner.body(case.params), case.batch.support
    far = {
        k: torch.full_like(v, torch.nan) if v.is_floating_point() else torch.full_like(v, 10**6)
        for k, v in support.features.items()
    }
    rows = replace(support.rows, item=torch.ones_like(support.rows.item))
    got = answers(case.learner, body, replace(support, features=far, rows=rows), case.batch.query)
    assert all(torch.isfinite(x).all() for x in got)
    unknown = {k: v if v.is_floating_point() else torch.ones_like(v) for k, v in far.items()}
    assert_same(got, answers(case.learner, body, replace(support, features=unknown, rows=rows), case.batch.query))


def test_inputs_are_not_mutated(case):
    params = trainable(case.learner, case.params)
    before, batch = own(params), case.batch
    given = {f"s.{k}": v for k, v in vars(batch.support.rows).items() if isinstance(v, torch.Tensor)}
    given |= {f"q.{k}": v for k, v in vars(batch.query).items() if isinstance(v, torch.Tensor)}
    given |= dict(batch.support.features)
    copies = own(given)
    case.loss(params)[0].backward()
    with torch.no_grad():
        body = case.learner.body(params)
        kept = own(body)
        answers(case.learner, body, batch.support, batch.query)
    for ours, theirs in ((params, before), (given, copies), (body, kept)):
        assert ours.keys() == theirs.keys()
        assert all(identical(ours[k], theirs[k]) for k in ours)


def test_no_chance_but_the_generators(case):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    case.learner.init(case.data, case.split.train, generator(1))
    case.loss(case.params)
    answers(case.learner, case.learner.body(case.params), case.batch.support, case.batch.query)
    assert torch.equal(before, torch.get_rng_state())


def test_adapted_state_carries_no_graph_when_none_is_asked_for(case):
    params = trainable(case.learner, case.params)
    with torch.no_grad():
        blind = case.learner.adapt(case.learner.body(params), case.batch.support)
    plain = case.learner.adapt(case.learner.body(case.params), case.batch.support)
    assert not any(v.requires_grad for v in [*blind.values(), *plain.values()])
    assert all(torch.equal(blind[k], plain[k]) for k in plain)
    live = case.learner.adapt(case.learner.body(params), case.batch.support)
    assert any(v.requires_grad for v in live.values())
    for k in plain:
        torch.testing.assert_close(live[k].detach(), plain[k], **CLOSE)


def test_eight_threads_equal_one(case):
    body = case.learner.body(case.params)

    def ask(t):
        support = case.batch.support.of(torch.tensor([t]))
        with torch.no_grad():
            return case.learner.rank(body, case.learner.adapt(body, support))

    tasks = [t % case.batch.support.size for t in range(48)]
    alone = [ask(t) for t in tasks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, tasks))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_same_seed_same_result(case):
    again = case.learner.init(case.data, case.split.train, generator(1))
    assert again.keys() == case.params.keys()
    assert all(identical(again[k], case.params[k]) for k in again)
    other = case.learner.init(case.data, case.split.train, generator(9))
    assert any(not identical(other[k], case.params[k]) for k in other)
    gradients = []
    for _ in range(2):
        params = trainable(case.learner, case.params)
        case.loss(params, seed=4)[0].backward()
        gradients.append({k: v.grad for k, v in params.items() if v.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def test_every_trainable_parameter_gets_an_outer_gradient(case):
    params = trainable(case.learner, case.params)
    assert any(case.learner.is_frozen(k) for k in params)
    for seed in range(4):
        some = case.split.train.take(range(seed * 20, seed * 20 + 20), mode="wrap")
        batch = episodes(case.data, case.index, some, seed=seed)
        loss, figures = case.loss(params, batch, seed)
        loss.backward()
        assert all(np.isfinite(float(v)) for v in figures.values())
    for key, value in params.items():
        if case.learner.is_frozen(key):
            assert not value.requires_grad
            continue
        assert value.grad is not None, key
        assert torch.isfinite(value.grad).all(), key
        assert value.grad.abs().max() > 0, key
        group = case.learner.param_group(key)
        assert group.rate > 0
        assert group.decay >= 0


def test_state_and_config_survive_a_round_trip(case):
    learner = case.learner
    body = learner.body(case.params)
    state = learner.adapt(body, case.batch.support)
    assert all(v.shape[0] == case.batch.support.size for v in state.values())
    config = type(learner.config).model_validate(json.loads(learner.config.model_dump_json()))
    assert config == learner.config
    again = type(learner)(config)
    params = load(save({k: v.clone() for k, v in case.params.items()}))
    back = load(save(state))
    body_again = again.body(params)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)
    query = case.batch.query
    # Not bit for bit: where a tensor lies in memory decides how a kernel sums.
    ours = again.rank(body_again, back), again.score(body_again, back, query)
    assert_same(ours, (learner.rank(body, state), learner.score(body, state, query)))


def test_query_labels_never_reach_adapt(case):
    if hasattr(case.learner, "members"):
        pytest.skip("a mixture adapts through its members, each of which has this test")
    met = []

    class Spy(type(case.learner)):
        def adapt(self, body, support):
            state = super().adapt(body, support)
            met.append((support, own(state)))
            return state

    spy, batch = Spy(case.learner.config), case.batch
    query = batch.query
    other = replace(query, item=query.item.flip(0), label=1 - query.label, mask=query.mask.flip(0))
    for query in (batch.query, other):
        spy.meta_loss(own(case.params), replace(batch, query=query), case.training_state, generator(0))
    assert len(met) == 2, "the meta-loss must adapt through `adapt`, once"
    (support, state), (_, state_other) = met
    assert torch.equal(support.rows.item, batch.support.rows.item)
    assert all(torch.equal(state[k], state_other[k]) for k in state)


def test_support_loss_falls_along_the_step(case):
    """A small enough step downhill: adapting must not make the support less likely."""
    learner, support = case.learner, case.batch.support
    small, none = (learner.body(stepping(case.params, by)) for by in (-2.0, -60.0))
    some = support.rows.mask.any(1)
    # What choices count of a support is no step: they are compared with a step of no length.
    counts = case.data.schema.objective == "choice"
    still = learner.adapt(none, support) if counts else learner.adapt(small, support.empty())
    before = learner.support_loss(small, still, support)[some]
    after = learner.support_loss(small, learner.adapt(small, support), support)[some]
    assert after.mean() < before.mean()


def stepping(params, by):
    """Parameters whose inner rates are e^by times as great, with steps that are taken in full."""
    rates, full = ("rate.", "log_step"), {k: torch.ones_like(v) for k, v in params.items() if k == "trust"}
    return {k: v + by if k.startswith(rates) else v for k, v in own(params).items()} | full


@pytest.mark.parametrize(("name", "label"), CASES, ids=NAMES)
def test_adapting_beats_not_adapting(name, label):
    case = case_of(name, label)
    data = case.data
    longer = {"epochs": 30, "tasks": 8} if data.schema.objective == "choice" else {}  # its world has few entities
    params, index, split, _ = train(case.learner, data, **longer)
    if data.schema.objective == "click":
        batch, body = episodes_of(data, index, split.test, 8), case.learner.body(params)
        losses = []
        for support in (batch.support, batch.support.empty()):
            scores = case.learner.score(body, case.learner.adapt(body, support), batch.query)
            losses.append(logistic_loss(scores, batch.query))
        gain = (losses[1] - losses[0]).numpy()
    else:
        metric, sign = {"ranking": ("ndcg@10", 1), "rating": ("rmse", -1), "choice": ("mrr", 1)}[data.schema.objective]
        both = (case.learner, _Unadapted(case.learner))
        adapted, frozen = (curve(x, params, data, index, split.test, (8,)).values[8][metric] for x in both)
        gain = sign * (adapted - frozen) if data.schema.objective != "choice" else adapted.value - frozen.value
    error = gain.std() / np.sqrt(len(gain))
    print(f"gain by adapting to 8 rows: {gain.mean():.4f} +- {error:.4f}")
    assert gain.mean() > 2 * error


def episodes_of(data, index, entities, shots):
    from recsys_meta.evaluation.cold_start import episodes_at

    return episodes_at(data, index.shuffled(0), entities, shots)


class _Unadapted:
    """The same parameters, blind to the support."""

    def __init__(self, learner):
        self._learner = learner

    def adapt(self, body, support):
        return self._learner.adapt(body, support.empty())

    def __getattr__(self, name):
        return getattr(self._learner, name)
