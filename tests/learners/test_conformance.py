"""What every learner promises, whatever it is: one registry entry buys all of these tests."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from recsys_meta.learners import LEARNERS
from recsys_meta.objectives import logistic
from recsys_meta.types import Rows, Support
from tests.learners.cases import (
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
    return Rows(rows.item[:, chosen], rows.label[:, chosen], rows.mask[:, chosen])


def test_every_case_names_a_learner():
    assert set(CONFIGS) <= set(LEARNERS)


def test_ranking_agrees_with_scoring(case):
    body = case.learner.body(case.params)
    state = case.learner.adapt(body, case.batch.support)
    ranked = case.learner.rank(body, state)
    assert ranked.shape == (case.batch.support.size, case.data.catalogue)
    assert torch.isfinite(ranked).all()
    scored = case.learner.score(body, state, case.batch.query)
    expected = ranked.gather(1, case.batch.query.item)
    mask = case.batch.query.mask
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
    garbage = Rows(
        torch.cat([rows.item.masked_fill(~rows.mask, 5), torch.full((tasks, 3), 7)], 1),
        torch.cat([rows.label.masked_fill(~rows.mask, 9.0), torch.full((tasks, 3), -4.0)], 1),
        torch.cat([rows.mask, torch.zeros(tasks, 3, dtype=torch.bool)], 1),
    )
    padded = Support(support.features, garbage)
    query = case.batch.query
    assert_same(answers(case.learner, body, padded, query), answers(case.learner, body, support, query))
    params = case.params
    torch.testing.assert_close(case.loss(params, replace(case.batch, support=padded))[0], case.loss(params)[0], **CLOSE)


def test_order_of_the_support_changes_nothing(case):
    body, support = case.learner.body(case.params), case.batch.support
    mixed = torch.randperm(support.rows.item.shape[1], generator=generator(5))
    turned = Support(support.features, columns(support.rows, mixed))
    query = case.batch.query
    assert_same(answers(case.learner, body, turned, query), answers(case.learner, body, support, query))


def test_a_batch_equals_its_tasks_one_by_one(case):
    body, batch = case.learner.body(case.params), case.batch
    together = answers(case.learner, body, batch.support, batch.query)
    for t in range(batch.support.size):
        rows = Rows(*(x[t : t + 1] for x in vars(batch.support.rows).values()))
        alone = Support({k: v[t : t + 1] for k, v in batch.support.features.items()}, rows.first(int(rows.mask.sum())))
        query = Rows(*(x[t : t + 1] for x in vars(batch.query).values()))
        assert_same(answers(case.learner, body, alone, query), [x[t : t + 1] for x in together])


def test_empty_support_is_finite_and_the_same_however_it_is_spelt(case):
    body, support = case.learner.body(case.params), case.batch.support
    none = answers(case.learner, body, support.empty(), case.batch.query)
    hidden = replace(support.rows, mask=torch.zeros_like(support.rows.mask))
    assert_same(none, answers(case.learner, body, Support(support.features, hidden), case.batch.query))
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
    got = answers(case.learner, body, Support(far, rows), case.batch.query)
    assert all(torch.isfinite(x).all() for x in got)
    unknown = {k: v if v.is_floating_point() else torch.ones_like(v) for k, v in far.items()}
    assert_same(got, answers(case.learner, body, Support(unknown, rows), case.batch.query))


def test_inputs_are_not_mutated(case):
    params = trainable(case.learner, case.params)
    before, batch = own(params), case.batch
    given = {f"s.{k}": v for k, v in vars(batch.support.rows).items()}
    given |= {f"q.{k}": v for k, v in vars(batch.query).items()} | dict(batch.support.features)
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
        rows = Rows(*(x[t : t + 1] for x in vars(case.batch.support.rows).values()))
        support = Support({k: v[t : t + 1] for k, v in case.batch.support.features.items()}, rows)
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
    assert any(case.learner.frozen(k) for k in params)
    for seed in range(3):
        batch = episodes(case.data, case.index, case.split.train[seed * 20 : seed * 20 + 20], seed=seed)
        loss, figures = case.loss(params, batch, seed)
        loss.backward()
        assert all(np.isfinite(v) for v in figures.values())
    for key, value in params.items():
        if case.learner.frozen(key):
            assert not value.requires_grad
            continue
        assert value.grad is not None, key
        assert torch.isfinite(value.grad).all(), key
        assert value.grad.abs().max() > 0, key
        group = case.learner.group(key)
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
    met = []

    class Spy(type(case.learner)):
        def adapt(self, body, support):
            state = super().adapt(body, support)
            met.append((support, own(state)))
            return state

    spy, batch = Spy(case.learner.config), case.batch
    other = Rows(batch.query.item.flip(0), 1 - batch.query.label, batch.query.mask.flip(0))
    for query in (batch.query, other):
        spy.meta_loss(own(case.params), replace(batch, query=query), case.aids, generator(0))
    assert len(met) == 2, "the meta-loss must adapt through `adapt`, once"
    (support, state), (_, state_other) = met
    assert torch.equal(support.rows.item, batch.support.rows.item)
    assert all(torch.equal(state[k], state_other[k]) for k in state)


def test_support_loss_falls_along_the_step(case):
    """A small enough step downhill: adapting must not make the support less likely."""
    small = {k: v - 2.0 if k.startswith("rate.") else v for k, v in own(case.params).items()}
    body, support = case.learner.body(small), case.batch.support
    some = support.rows.mask.any(1)
    before = case.learner.support_loss(body, case.learner.adapt(body, support.empty()), support)[some]
    after = case.learner.support_loss(body, case.learner.adapt(body, support), support)[some]
    assert after.mean() < before.mean()


@pytest.mark.parametrize(("name", "label"), CASES, ids=NAMES)
def test_adapting_beats_not_adapting(name, label):
    case = case_of(name, label)
    params, index, split, _ = train(case.learner, case.data)
    body, data = case.learner.body(params), case.data
    if data.schema.objective == "click":
        batch = episodes_of(data, index, split.test, 8)
        losses = []
        for support in (batch.support, batch.support.empty()):
            scores = case.learner.score(body, case.learner.adapt(body, support), batch.query)
            losses.append(logistic(scores, batch.query))
        gain = (losses[1] - losses[0]).numpy()
    else:
        metric, sign = ("ndcg@10", 1) if data.schema.objective == "ranking" else ("rmse", -1)
        adapted = curve(case.learner, params, data, index, split.test, (8,)).values[8][metric]
        frozen = curve(_Unadapted(case.learner), params, data, index, split.test, (8,)).values[8][metric]
        gain = sign * (adapted - frozen)
    error = gain.std() / np.sqrt(len(gain))
    print(f"gain by adapting to 8 rows: {gain.mean():.4f} +- {error:.4f}")
    assert gain.mean() > 2 * error


def episodes_of(data, index, entities, shots):
    from recsys_meta.evaluate import episodes_at

    return episodes_at(data, index.shuffled(0), entities, shots)


class _Unadapted:
    """The same parameters, blind to the support."""

    def __init__(self, learner):
        self._learner = learner

    def adapt(self, body, support):
        return self._learner.adapt(body, support.empty())

    def __getattr__(self, name):
        return getattr(self._learner, name)
