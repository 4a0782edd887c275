"""Methods of the gradient family for choices: against MAML where they are special cases, and what each moves."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.choice.din import Din, DinConfig
from recsys_meta.models.learners.choice.gradient_methods import ImplicitMamlDin
from tests.models.learners.cases import CONFIGS, DIN, case_of, generator, trainable

NAMES = [name for name in LEARNERS if name.endswith("-choice")]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def changed(case, kind=None, **config):
    """Learner of a case without dropout, with another configuration, and its parameters, of which none is 0."""
    shape = {**case.learner.config.model_dump(), "dropout": 0.0, "inner_negatives": 5, **config}
    learner = type(case.learner)(case.learner.Config(**shape)) if kind is None else kind(kind.Config(**shape))
    params = dict(case.params)
    if "wide" in params:
        params["wide"] = 0.1 * torch.randn(params["wide"].shape, generator=generator(4))
    return learner, params


def as_maml(learner, **config):
    """MAML of the same network."""
    shared = {k: v for k, v in learner.config.model_dump().items() if k in DinConfig.model_fields}
    return Din(DinConfig(**{**shared, **config}))


def outer(learner, params, batch):
    """Meta-loss and its gradients."""
    live = trainable(learner, params)
    loss, _ = learner.meta_loss(live, batch, None, generator(0))
    loss.backward()
    return loss.detach(), {k: v.grad for k, v in live.items() if v.grad is not None}


def assert_same_but_rates(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], **CLOSE)
    for key, value in theirs[1].items():
        if not key.startswith("rate."):
            torch.testing.assert_close(ours[1][key], value, **CLOSE, msg=lambda m, k=key: f"{k}: {m}")


def moved(learner, params, batch):
    """Leaves that adapting moves, and which tasks have them moved."""
    body = learner.body(params)
    start, end = learner.start_state(body, batch.support), learner.adapt(body, batch.support)
    leaves = {k: v for k, v in end.items() if k == "z" or k.startswith("fast.")}
    return {k: ((v - start[k]).flatten(1).abs() > 0).any(1) for k, v in leaves.items()}


def has_targets(learner, batch):
    """Tasks whose support has a row that the steps look at."""
    return learner.inner_rows(batch.support).mask.any(1)


@pytest.mark.parametrize("order", [1, 2])
def test_meta_sgd_of_equal_rates_is_maml(order):
    case = case_of("meta-sgd-choice", "all")
    learner, params = changed(case, order=order, steps=2)
    maml = as_maml(learner)
    level = params["rate.wide"].mean()
    equal = {k: torch.full_like(v, level) for k, v in params.items() if k.startswith("rate.")}
    shared = {k: v for k, v in params.items() if not k.startswith("rate.")}
    shared |= {f"rate.{k}": level.clone() for k in maml.config.groups}
    ours, theirs = outer(learner, params | equal, case.batch), outer(maml, shared, case.batch)
    assert_same_but_rates(ours, theirs)
    # A rate that all share has the sum of their gradients.
    rates = [sum(float(g.sum()) for k, g in x[1].items() if k.startswith("rate.")) for x in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)


def test_meta_sgd_turns_the_step():
    case = case_of("meta-sgd-choice", "all")
    learner, params = changed(case)
    key = "fast.wide"
    start = learner.start_state(params, case.batch.support)[key]
    step = learner.adapt(params, case.batch.support)[key] - start
    params["rate.wide"] = params["rate.wide"].clone()
    params["rate.wide"][3] -= 1
    turned = learner.adapt(params, case.batch.support)[key] - start
    factor = torch.ones(step.shape[1:])
    factor[3] = torch.tensor(-1.0).exp()
    torch.testing.assert_close(turned, step * factor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("adapts", "parts"),
    [
        ("last", {"head.1.weight", "wide"}),
        ("head", {"head.0.weight", "head.0.bias", "head.1.weight", "wide"}),
        ("body", {"head.0.weight", "head.0.bias", "item.0.weight", "item.0.bias", "attention.key", "attention.bias",
                  "attention.candidate", "attention.product", "attention.pair", "attention.out.0.weight"}),
    ],
    ids=["anil", "maml", "boil"],
)  # fmt: skip
def test_what_anil_and_boil_adapt(adapts, parts):
    """And nothing else, of who has rows to learn from; ANIL and BOIL share no tensor and together have all."""
    case = case_of("din", "last")
    learner, params = changed(case, adapts=adapts)
    params |= learner.init_rates(params)
    leaves = moved(learner, params, case.batch)
    assert set(leaves) == {f"fast.{part}" for part in parts}
    may_move = has_targets(learner, case.batch)
    assert all(tasks.any() and not (tasks & ~may_move).any() for tasks in leaves.values())
    both = {*as_maml(learner, adapts="last").config.parts, *as_maml(learner, adapts="body").config.parts}
    assert both == set(as_maml(learner, adapts="all").config.parts)


@pytest.mark.parametrize("name", ["cavia-choice", "hsml-choice", "mamo-choice", "meta-lstm-choice"])
def test_methods_of_the_entitys_vector_move_nothing_else(name):
    case = case_of(name, "entity")
    learner, params = changed(case)
    leaves = moved(learner, params, case.batch)
    assert set(leaves) == {"z"} and torch.equal(leaves["z"], has_targets(learner, case.batch))


def test_cavia_moves_the_context_alone():
    case = case_of("cavia-choice", "entity")
    learner, params = changed(case)
    body, count = learner.body(params), learner.config.context
    start, end = learner.start_state(body, case.batch.support)["z"], learner.adapt(body, case.batch.support)["z"]
    assert (start[:, -count:] == 0).all() and torch.equal(end[:, :-count], start[:, :-count])
    assert ((end[:, -count:] != 0).any(1) == has_targets(learner, case.batch)).all()


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_support_is_forgotten_after_the_steps(name):
    """A state has what scores need: the rows that the steps counted are in the whole support."""
    case = case_of(name, next(iter(CONFIGS[name])))
    state = case.learner.adapt(case.learner.body(case.params), case.batch.support)
    assert not any(k.startswith("half.") for k in state) and torch.equal(state["size"], case.batch.support.rows.counts)


def test_maml_pp_of_equal_rates_ends_as_maml_and_begins_with_every_step():
    case = case_of("maml-pp-choice", "head")
    learner, params = changed(case)
    steps, shared = learner.config.steps, {k: v for k, v in params.items() if not k.startswith("rate.")}
    shared |= {f"rate.{k}": params["rate.wide"][0].clone() for k in learner.config.groups}
    theirs = outer(as_maml(learner), shared, case.batch)
    assert_same_but_rates(outer(learner, params, case.batch), theirs)
    by_steps = [outer(as_maml(learner, steps=k), shared, case.batch) for k in range(1, steps + 1)]
    mean = sum(x[0] for x in by_steps) / steps, {k: sum(x[1][k] for x in by_steps) / steps for k in theirs[1]}
    assert_same_but_rates(outer(learner.at_progress(0.0), params, case.batch), mean)


def test_the_outer_step_of_reptile_is_the_mean_difference():
    case = case_of("reptile-choice", "all")
    learner, params = changed(case)
    state = learner.adapt(params, case.batch.support)
    end = learner.descend(params, state, learner.query_rows(case.batch))
    gradients = outer(learner, params, case.batch)[1]
    for key in learner.config.parts:
        mean = (end[f"fast.{key}"] - params[key]).mean(0)
        torch.testing.assert_close(-gradients[key], mean, rtol=1e-3, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
    assert not any(k.startswith("rate.") for k in gradients)
    assert any(k.startswith("context.") for k in gradients), "what no task adapts follows the query"
    start = learner.start_state(params, case.batch.support)
    _, mixture = learner.with_constant_steps(params, start, end)
    assert mixture["kinds"] is start["kinds"] and mixture["fast.wide"] is end["fast.wide"]


class _Unrolled(ImplicitMamlDin):
    """The same inner problem, its steps differentiated one by one."""

    adapt = Din.adapt


def test_the_implicit_gradient_is_where_that_of_maml_goes_with_many_steps():
    case = case_of("imaml-choice", "head")
    distances = []
    for steps in (2, 60):
        learner, params = changed(case, adapts="last", steps=steps, strength=3.0, rate=0.05, solver_steps=30, order=2)
        params |= learner.init_rates(params)
        (ours, implicit), (theirs, unrolled) = (
            outer(kind(learner.config), params, case.batch) for kind in (ImplicitMamlDin, _Unrolled)
        )
        torch.testing.assert_close(ours, theirs, **CLOSE)
        keys = [k for k in implicit if not k.startswith("rate.")]
        flat = [torch.cat([g[k].flatten() for k in keys]) for g in (implicit, unrolled)]
        distances.append(float((flat[0] - flat[1]).norm() / flat[1].norm()))
    assert distances[1] < 1e-2 < distances[0], distances


def test_a_learned_optimizer_that_writes_nothing_is_first_order_maml():
    case = case_of("learned-optimizer-choice", "entity")
    learner, params = changed(case)
    params["update"] = torch.zeros_like(params["update"])
    assert_same_but_rates(outer(learner, params, case.batch), outer(as_maml(learner, order=1), params, case.batch))


def test_an_entitys_vector_needs_layers_to_enter():
    with pytest.raises(ValueError, match="entity_dims"):
        DinConfig(adapts="entity")
    with pytest.raises(ValueError, match="hidden layers"):
        DinConfig(**{**DIN, "hidden": (), "entity_dims": 4})
