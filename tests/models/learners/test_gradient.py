"""Relatives of MAML: against MAML where they are special cases of each other, against calculus, and at sinusoids."""

from __future__ import annotations

import pytest
import torch

from recsys_meta.core.types import FIRST, Interactions, Support, TaskBatch
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.models.learners.gradient.coordinate_network import log_scale
from recsys_meta.models.learners.gradient.imaml import ImplicitMaml, conjugate_gradients
from recsys_meta.models.learners.gradient.maml_pp import MamlPlusPlus
from recsys_meta.models.learners.gradient.meta_dropout import MetaDropout, MetaDropoutConfig
from recsys_meta.models.learners.gradient.meta_weight_net import MetaWeightNet, MetaWeightNetConfig
from recsys_meta.models.learners.gradient.reptile import Reptile
from recsys_meta.models.learners.maml import scorer, task_loss
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.models.learners.maml.perceptron import perceptron_of
from recsys_meta.models.protocols import ScheduledLearner
from tests.fixtures.simulated_datasets import linear_gaussian_world, sinusoid_world
from tests.models.learners.cases import CONFIGS, case_of, generator, learner_of, train, trainable
from tests.models.learners.linear_gaussian import LINEAR, errors_of, mixed_batch
from tests.models.learners.plain_maml import plain_meta_loss

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def doubled(case, **config):
    """Learner of a case without dropout, its parameters and its batch, in double precision."""
    learner = type(case.learner)(case.learner.config.model_copy(update={"dropout": 0.0, **config}))
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.params.items()}

    def rows(r):
        return Interactions(r.item, r.label.double(), r.mask)

    support = case.batch.support
    features = {k: v.double() if v.is_floating_point() else v for k, v in support.features.items()}
    batch = TaskBatch(case.batch.entity, Support(features, rows(support.rows)), rows(case.batch.query))
    return learner, params, batch


def as_maml(learner, **config):
    """MAML of the same configuration."""
    shared = {k: v for k, v in learner.config.model_dump().items() if k in MamlConfig.model_fields}
    return Maml(MamlConfig(**{**shared, **config}))


def outer(learner, params, batch):
    """Meta-loss and its gradients."""
    live = trainable(learner, params)
    loss, _ = learner.meta_loss(live, batch, None, generator(0))
    loss.backward()
    return loss.detach(), {k: v.grad for k, v in live.items() if v.grad is not None}


def assert_same_but_rates(ours, theirs, **close):
    torch.testing.assert_close(ours[0], theirs[0], **(close or EXACT))
    for key, value in theirs[1].items():
        if not key.startswith("rate."):
            torch.testing.assert_close(ours[1][key], value, **(close or EXACT), msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("label", CONFIGS["meta-sgd"])
def test_meta_sgd_of_equal_rates_is_maml(label, order):
    learner, params, batch = doubled(case_of("meta-sgd", label), order=order, steps=2)
    params |= {k: torch.full_like(v, -2.0) for k, v in params.items() if k.startswith("rate.")}
    maml = as_maml(learner)
    shared = {k: v for k, v in params.items() if not k.startswith("rate.")}
    shared |= {f"rate.{k}": torch.tensor(-2.0, dtype=torch.float64) for k in maml.config.rates}
    ours, theirs = outer(learner, params, batch), outer(maml, shared, batch)
    assert_same_but_rates(ours, theirs)
    # A rate that all share has the sum of their gradients.
    rates = [sum(float(g.sum()) for k, g in x[1].items() if k.startswith("rate.")) for x in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-8)


@pytest.mark.parametrize("label", CONFIGS["meta-weight-net"])
def test_rows_of_equal_weights_are_maml(label):
    learner, params, batch = doubled(case_of("meta-weight-net", label), steps=2)
    params |= {k: torch.zeros_like(v) for k, v in params.items() if k.startswith("weigh.1.")}
    shared = {k: v for k, v in params.items() if not k.startswith("weigh.")}
    ours, theirs = outer(learner, params, batch), outer(as_maml(learner), shared, batch)
    torch.testing.assert_close(ours[0], theirs[0], **EXACT)
    for key, value in theirs[1].items():
        torch.testing.assert_close(ours[1][key], value, **EXACT, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("label", ["dot", "dot-sampled", "dot-rating", "dot-click", "entity-mlp"])
def test_a_step_goes_down_the_loss_of_the_rows_by_their_weights(label):
    """By autograd on the rows' losses, which on average are the loss of the support."""
    maml, params, batch = doubled(case_of("maml", label), steps=1)
    learner = MetaWeightNet(MetaWeightNetConfig(**maml.config.model_dump()))
    draws = torch.randn(16, generator=generator(2)).double()
    params |= {"weigh.0.weight": draws[None], "weigh.0.bias": draws.flip(0)}
    params |= {"weigh.1.weight": draws.roll(3)[:, None], "weigh.1.bias": draws[:1]}
    body, support = learner.body(params), batch.support
    if learner.config.negatives:
        body["negatives"] = torch.arange(FIRST, FIRST + 20)
    rows, start = task_loss.informative_rows(learner.config, support.rows), learner.start_state(body, support)
    weight, some = learner.row_weights(body, start, rows), rows.mask.any(1)
    assert weight[~rows.mask].eq(0).all() and weight[rows.mask].std() > 0.01
    z = start["z"].clone().requires_grad_()
    losses = task_loss.row_losses(learner.config, body, start | {"z": z}, rows)
    mean = (losses.sum(1) / rows.counts.clamp(min=1)).detach()
    torch.testing.assert_close(mean[some], task_loss.inner_loss(learner.config, body, start, rows)[some], **EXACT)
    (slope,) = torch.autograd.grad((weight * losses).sum(), z)
    (step,) = learner.inner_steps(body)
    torch.testing.assert_close(learner.adapt(body, support)["z"], start["z"] - step.rates["entity"] * slope, **EXACT)


def scattered(params):
    """Parameters with inner rates that all differ."""
    rates = {k: v for k, v in params.items() if k.startswith("rate.")}
    return params | {k: v + torch.rand(v.shape, generator=generator(3), dtype=v.dtype) for k, v in rates.items()}


def rate_by_weight(learner, params, key, step):
    if key in ("z", "table"):
        return params["rate.entity" if key == "z" else "rate.rows"].exp()
    layer, _, kind = key.rpartition(".")
    rate = params[f"rate.{layer}"].exp()
    return rate[-1] if kind == "bias" else rate[:-1]


def rate_by_step(learner, params, key, step):
    part = {"z": "entity", "table": "rows"}.get(key, key.rpartition(".")[0])
    rate = params[f"rate.{part}"][step].exp()
    if key != "z" or "rate.level" not in params:
        return rate
    return torch.cat([rate.expand(learner.config.dims), params["rate.level"][step].exp()[None]])


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("name", "label", "rate_of"),
    [(n, label, f) for n, f in (("meta-sgd", rate_by_weight), ("maml-pp", rate_by_step)) for label in CONFIGS[n]],
)
def test_rates_of_weights_and_of_steps_are_those_of_the_plain_form(name, label, rate_of, order):
    """Loss and every gradient, those of the rates too, where all rates differ."""
    learner, params, batch = doubled(case_of(name, label), order=order)
    params = scattered(params)
    ours, live = outer(learner, params, batch), trainable(learner, params)
    loss = plain_meta_loss(learner, live, batch, generator(0), rate_of)
    loss.backward()
    torch.testing.assert_close(ours[0], loss.detach(), **EXACT)
    for key, value in live.items():
        if value.grad is not None:
            torch.testing.assert_close(ours[1][key], value.grad, **EXACT, msg=lambda m, k=key: f"{k}: {m}")


def test_meta_sgd_turns_the_step():
    learner, params, batch = doubled(case_of("meta-sgd", "ranking"))
    body = learner.body(params)
    start = learner.adapt(body, batch.support.empty())["z"]
    step = learner.adapt(body, batch.support)["z"] - start
    body["rate.entity"][3] -= 1
    turned = learner.adapt(body, batch.support)["z"] - start
    factor = torch.ones(step.shape[1], dtype=step.dtype)
    factor[3] = torch.tensor(-1.0).exp()
    torch.testing.assert_close(turned, step * factor)


@pytest.mark.parametrize("label", CONFIGS["maml-pp"])
def test_maml_pp_of_equal_rates_ends_as_maml_and_begins_with_every_step(label):
    learner, params, batch = doubled(case_of("maml-pp", label))
    steps = learner.config.steps
    maml = as_maml(learner)
    shared = {k: v for k, v in params.items() if not k.startswith("rate.")}
    shared |= {f"rate.{k}": params["rate.head.0" if k == "head" else f"rate.{k}"][0] for k in maml.config.rates}
    ours, theirs = outer(learner, params, batch), outer(maml, shared, batch)
    assert_same_but_rates(ours, theirs)
    by_steps = [outer(as_maml(learner, steps=k), shared, batch) for k in range(1, steps + 1)]
    mean = sum(x[0] for x in by_steps) / steps, {k: sum(x[1][k] for x in by_steps) / steps for k in theirs[1]}
    assert_same_but_rates(outer(learner.at_progress(0.0), params, batch), mean)
    late = outer(learner.at_progress(learner.config.multi_step_share), params, batch)
    assert_same_but_rates(late, theirs)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_maml_pp_takes_each_step_once(progress):
    taken = []

    class Counting(MamlPlusPlus):
        def descend(self, body, state, rows, steps=None):
            taken.append(self.config.steps if steps is None else len(steps))
            return super().descend(body, state, rows, steps)

    case = case_of("maml-pp", "head-click")
    outer(Counting(case.learner.config).at_progress(progress), *doubled(case)[1:])
    assert sum(taken) == case.learner.config.steps


def test_maml_pp_has_a_rate_for_each_step_and_layer():
    case = case_of("maml-pp", "head-click")
    _, params, batch = doubled(case)
    gradients = outer(case.learner.at_progress(0.0), params, batch)[1]
    rates = {k: v for k, v in gradients.items() if k.startswith("rate.")}
    assert set(rates) == {f"rate.head.{i}" for i in range(3)}
    assert all(v.shape == (3,) and (v != 0).all() for v in rates.values())


def test_maml_pp_changes_from_first_to_second_order():
    case = case_of("maml-pp", "head-click")
    learner, params, batch = doubled(case, first_order_share=0.5, multi_step_share=0.0)
    assert isinstance(learner, ScheduledLearner)
    early, late = (outer(learner.at_progress(p), params, batch) for p in (0.4, 0.5))
    orders = [outer(MamlPlusPlus(learner.config.model_copy(update={"order": o})), params, batch) for o in (1, 2)]
    for ours, theirs in zip((early, late), orders, strict=True):
        for key, value in theirs[1].items():
            torch.testing.assert_close(ours[1][key], value, **EXACT)
    assert not torch.allclose(early[1]["head.0.weight"], late[1]["head.0.weight"], rtol=1e-4)


@pytest.mark.parametrize("label", CONFIGS["anil"])
def test_anil_adapts_the_last_layer_alone(label):
    learner, params, batch = doubled(case_of("anil", label))
    state = learner.adapt(learner.body(params), batch.support)
    assert set(state) == {"z", "head.2.weight", "head.2.bias"}
    start = learner.adapt(learner.body(params), batch.support.empty())
    assert torch.equal(state["z"], start["z"])
    some = batch.support.rows.mask.any(1)
    assert ((state["head.2.weight"] - params["head.2.weight"]).flatten(1).norm(dim=1) > 0)[some].all()


@pytest.mark.parametrize("label", CONFIGS["boil"])
def test_boil_adapts_nothing_of_the_last_layer(label):
    learner, params, batch = doubled(case_of("boil", label))
    state = learner.adapt(learner.body(params), batch.support)
    start = learner.adapt(learner.body(params), batch.support.empty())
    assert not any(k.startswith("head.2") for k in state)
    some = batch.support.rows.mask.any(1)
    assert ((state["z"] - start["z"]).norm(dim=1) > 0)[some].all()
    changes = [layer.change()[some] for layer in perceptron_of(learner.body(params), state).layers[:-1]]
    assert all((change > 0).all() for change in changes)


@pytest.mark.parametrize("label", CONFIGS["reptile"])
def test_the_outer_step_of_reptile_is_the_mean_difference(label):
    """Of the loss all is taken away that what no task adapts follows."""
    learner, params, batch = doubled(case_of("reptile", label), size_weight=0.0)
    body = learner.body(params)
    state = learner.adapt(body, batch.support)
    query = task_loss.informative_rows(learner.config, batch.query)
    end = learner.descend(body, state, query)
    gradients = outer(learner, params, batch)[1]
    if "entity" in learner.config.parts:
        start = learner.start_state(body, batch.support)
        torch.testing.assert_close(-gradients["start"], (end["z"] - start["z"]).mean(0), **EXACT)
    if "head" in learner.config.groups:
        own = perceptron_of(body, end).spell_out()
        for i, layer in enumerate(own.upper, 1):
            torch.testing.assert_close(
                -gradients[f"head.{i}.weight"], (layer.weight - params[f"head.{i}.weight"]).mean(0)
            )
        first = torch.cat([own.entity.weight, own.item.weight], 1)
        torch.testing.assert_close(-gradients["head.0.weight"], (first - params["head.0.weight"]).mean(0))
    assert not any(k.startswith("rate.") for k in gradients)


def test_reptile_takes_no_gradient_through_its_steps():
    learner, params, batch = doubled(case_of("reptile", "ranking"))
    both = [outer(Reptile(learner.config.model_copy(update={"order": o})), params, batch) for o in (1, 2)]
    assert all(torch.equal(both[0][1][k], v) for k, v in both[1][1].items())


@pytest.mark.parametrize("label", CONFIGS["cavia"])
def test_cavia_moves_the_context_alone_and_by_the_gradient(label):
    learner, params, batch = doubled(case_of("cavia", label), steps=1)
    body, count = learner.body(params), learner.config.context
    start = learner.adapt(body, batch.support.empty())["z"]
    assert (start[:, -count:] == 0).all()
    moved = learner.adapt(body, batch.support)["z"]
    assert torch.equal(moved[:, :-count], start[:, :-count])
    z = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(learner.support_loss(body, {"z": z}, batch.support).sum(), [z])
    torch.testing.assert_close(moved[:, -count:], -params["rate.context"].exp() * gradient[:, -count:])


class _Unrolled(ImplicitMaml):
    """The same inner problem, its steps differentiated one by one."""

    adapt = Maml.adapt


def solved(learner, params, batch):
    """Tasks whose inner problem is solved by many steps: those that end in a kink of a perceptron are not."""
    ends = []
    for steps in (200, 201):
        many = ImplicitMaml(learner.config.model_copy(update={"steps": steps}))
        ends.append(many.adapt(many.body(params), batch.support))
    same = [(a - b).abs().flatten(1).amax(1) < 1e-12 for a, b in zip(ends[0].values(), ends[1].values(), strict=True)]
    some = torch.stack(same).all(0)
    assert some.sum() >= 6
    return TaskBatch(batch.entity[some], batch.support.of(some), batch.query.of(some))


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ("ranking", {"strength": 0.5, "rate": 1.0}),
        ("ranking", {"adapts": "all", "strength": 1.0, "rate": 0.5}),
        ("head-click", {"strength": 30.0, "rate": 0.02}),
    ],
    ids=["entity", "all", "head"],
)
def test_the_implicit_gradient_is_where_that_of_maml_goes_with_many_steps(label, config):
    learner, params, batch = doubled(case_of("imaml", label), solver_steps=60, **config)
    params |= {k: v.double() for k, v in learner.init_rates(params).items()}
    batch = solved(learner, params, batch)
    distances = []
    for steps in (2, 10, 80):
        same = learner.config.model_copy(update={"steps": steps})
        (ours, implicit), (theirs, unrolled) = (outer(kind(same), params, batch) for kind in (ImplicitMaml, _Unrolled))
        torch.testing.assert_close(ours, theirs, **EXACT)
        keys = [k for k in implicit if not k.startswith("rate.")]
        flat = [torch.cat([g[k].flatten() for k in keys]) for g in (implicit, unrolled)]
        distances.append(float((flat[0] - flat[1]).norm() / flat[1].norm()))
    print(label, distances)
    assert distances[2] < 1e-4 < distances[0]
    assert distances[2] < distances[1] < distances[0]


@pytest.mark.parametrize("label", CONFIGS["imaml"])
def test_memory_of_imaml_does_not_depend_on_the_steps(label):
    def floats(kind, steps):
        kept = []
        learner, params, batch = doubled(case_of("imaml", label), steps=steps)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            kind(learner.config).meta_loss(trainable(learner, params), batch, None, generator(0))
        return sum(kept)

    assert floats(ImplicitMaml, 4) == floats(ImplicitMaml, 12)
    assert floats(_Unrolled, 4) < floats(_Unrolled, 12)


def test_conjugate_gradients_solve_each_task_on_its_own():
    a = torch.randn(3, 6, 6, generator=generator(1), dtype=torch.float64)
    matrix = a @ a.mT + torch.eye(6, dtype=torch.float64)
    target = torch.randn(3, 6, generator=generator(2), dtype=torch.float64)
    target[1] = 0
    x = conjugate_gradients(lambda v: torch.einsum("tij,tj->ti", matrix, v), target, 6)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, target[:, :, None]).squeeze(2))
    negative = conjugate_gradients(lambda v: -v, target, 3)
    assert (negative == 0).all(), "no direction along which the matrix is not positive is taken"


@pytest.mark.parametrize("label", CONFIGS["meta-dropout"])
def test_meta_dropout_without_noise_is_maml(label):
    learner, params, batch = doubled(case_of("meta-dropout", label), steps=2)
    quiet = params | {"log_spread": torch.full_like(params["log_spread"], -40.0)}
    plain = without(params, "log_spread", "perturb.")
    ours, theirs = outer(learner, quiet, batch), outer(as_maml(learner), plain, batch)
    assert_same_but_rates(ours, theirs)
    adapted = [x.adapt(x.body(params), batch.support) for x in (learner, as_maml(learner))]
    for key, value in adapted[1].items():
        torch.testing.assert_close(adapted[0][key], value, **EXACT, msg="newcomers meet no noise")


def test_the_noise_of_meta_dropout_is_in_the_step_alone():
    """By hand: the gradient of a rating's squared error in z, of rows whose vectors are multiplied by their factors."""
    maml, params, batch = doubled(case_of("maml", "dot-rating"), steps=1)
    learner = MetaDropout(MetaDropoutConfig(**maml.config.model_dump()))
    width = params["item"].shape[1]
    draws = torch.randn(width, width + 1, generator=generator(4)).double()
    params |= {"perturb.weight": draws[:, 1:], "perturb.bias": draws[:, 0], "log_spread": torch.zeros(width).double()}
    body = learner._training_body(params, generator(5))
    vectors = scorer.item_vectors(learner.config, params)
    noise = torch.randn(vectors.shape, generator=generator(5)).double()
    factors = 2 * torch.sigmoid(vectors @ draws[:, 1:] + draws[:, 0] + noise)
    torch.testing.assert_close(body["vectors"][:, :-1], vectors, **EXACT)
    seen = torch.cat([vectors * factors, torch.ones_like(vectors[:, :1])], 1)
    rows, z = batch.support.rows, learner.start_state(body, batch.support)["z"]
    e = seen[rows.item]
    error = (torch.einsum("tsv,tv->ts", e, z) + params["bias"][rows.item] - rows.label) * rows.mask
    slope = 2 * torch.einsum("ts,tsv->tv", error, e) / rows.counts.clamp(min=1)[:, None]
    (step,) = learner.inner_steps(body)
    torch.testing.assert_close(learner.adapt(body, batch.support)["z"], z - step.rates["entity"] * slope, **EXACT)


@pytest.mark.parametrize("label", CONFIGS["meta-regularization"])
def test_meta_regularization_for_nothing_and_without_noise_is_maml(label):
    learner, params, batch = doubled(case_of("meta-regularization", label), beta=0.0)
    quiet = params | {"log_spread": torch.full_like(params["log_spread"], -40.0)}
    ours, theirs = outer(learner, quiet, batch), outer(as_maml(learner), without(params, "log_spread"), batch)
    assert_same_but_rates(ours, theirs)


def test_information_of_item_vectors_is_their_divergence_from_the_prior():
    """Against the divergence of torch's distributions, and as what the meta-loss adds."""
    learner, params, batch = doubled(case_of("meta-regularization", "all-rating"), prior=0.7)
    params |= {"log_spread": torch.linspace(-3, 0.5, len(params["log_spread"])).double()}
    mean = scorer.item_vectors(learner.config, params)
    held = torch.distributions.Normal(mean, params["log_spread"].exp().expand_as(mean))
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.full_like(mean, 0.7))
    expected = torch.distributions.kl_divergence(held, prior).mean()
    torch.testing.assert_close(learner.information(params), expected, **EXACT)
    losses = {}
    for beta in (0.0, 2.0):
        priced = type(learner)(learner.config.model_copy(update={"beta": beta}))
        losses[beta] = priced.task_losses(priced._training_body(params, generator(0)), batch)[0]
    torch.testing.assert_close(losses[2.0] - losses[0.0], 2 * expected.expand(len(losses[0.0])), **EXACT)


def without(params, *starts):
    """Parameters but those whose names start so."""
    return {k: v for k, v in params.items() if not k.startswith(starts)}


def muted(params, **values):
    """Parameters with some set to a number."""
    return params | {k.replace("__", "."): torch.full_like(params[k.replace("__", ".")], v) for k, v in values.items()}


@pytest.mark.parametrize("label", CONFIGS["hsml"])
def test_hsml_of_an_open_gate_is_maml(label):
    learner, params, batch = doubled(case_of("hsml", label), restore=0.0)
    even = muted(params, gate__0__weight=0.0, gate__0__bias=0.0)
    assert_same_but_rates(outer(learner, even, batch), outer(as_maml(learner), even, batch))
    starts = learner.start_state(learner.body(params), batch.support)["z"]
    empty = learner.start_state(learner.body(params), batch.support.empty())["z"]
    some = batch.support.rows.mask.any(1)
    assert ((starts - empty).norm(dim=1) > 0)[some].all() and torch.equal(starts[~some], empty[~some])
    assert any(k.startswith("tree.") for k in params) == bool(learner.config.tree)


def test_hsml_learns_to_restore_rows():
    learner, params, batch = doubled(case_of("hsml", "ranking"), restore=1.0)
    for _ in range(3):
        loss, gradients = outer(learner, params, batch)
        params = params | {k: params[k] - 0.1 * gradients[k] for k in params if k.startswith(("encode", "restore"))}
    without = type(learner)(learner.config.model_copy(update={"restore": 0.0}))
    assert outer(learner, params, batch)[0] < loss
    unrestored = outer(without, params, batch)[1]
    assert all((v == 0).all() for k, v in unrestored.items() if k.startswith("restore"))


@pytest.mark.parametrize("label", CONFIGS["mamo"])
def test_mamo_of_empty_memories_is_maml(label):
    learner, params, batch = doubled(case_of("mamo", label))
    blank = muted(params, memory__preferences=0.0, log_bias=-60.0)
    ours, theirs = outer(learner, blank, batch), outer(as_maml(learner), blank, batch)
    for key, value in theirs[1].items():
        torch.testing.assert_close(ours[1][key], value, **EXACT, msg=lambda m, k=key: f"{k}: {m}")


def test_memories_of_mamo_are_drawn_to_what_they_meet():
    """Slot by slot to the mean, by attention, of features and of changes; the query says nothing."""
    learner, params, batch = doubled(case_of("mamo", "ranking"), size_weight=0.0)
    gradients = outer(learner, params, batch)[1]
    body = learner.body(params)
    z = Maml.start_state(learner, body, batch.support)["z"]
    keys = params["memory.features"]
    attention = torch.softmax(torch.cosine_similarity(z[:, None], keys[None], dim=2), 1)
    start = learner.start_state(body, batch.support)["z"].requires_grad_()
    (change,) = torch.autograd.grad(learner.support_loss(body, {"z": start}, batch.support).sum(), [start])
    drawn = torch.einsum("tk,tkz->kz", attention, keys - z[:, None]) / len(z)
    torch.testing.assert_close(gradients["memory.features"], drawn)
    some = batch.support.rows.mask.any(1)
    drawn = torch.einsum("tk,tkz->kz", attention[some], params["memory.changes"] - change[some][:, None]) / len(z)
    torch.testing.assert_close(gradients["memory.changes"], drawn)


@pytest.mark.parametrize("label", CONFIGS["meta-lstm"])
def test_meta_lstm_of_constant_gates_is_first_order_maml(label):
    learner, params, batch = doubled(case_of("meta-lstm", label))
    params |= {"gates": torch.zeros_like(params["gates"]), "gates.bias": torch.tensor([60.0, 0.0]).double()}
    assert_same_but_rates(outer(learner, params, batch), outer(as_maml(learner, order=1), params, batch))


def test_meta_lstm_writes_by_its_gates():
    learner, params, batch = doubled(case_of("meta-lstm", "ranking"), steps=1)
    body, some = learner.body(params), batch.support.rows.mask.any(1)
    start = learner.adapt(body, batch.support.empty())["z"]

    def moved(f, i):
        gates = {"gates": torch.zeros_like(params["gates"]), "gates.bias": torch.tensor([f, i]).double()}
        return learner.adapt(body | gates, batch.support)["z"]

    assert torch.equal(moved(60.0, -900.0), start)
    torch.testing.assert_close(moved(0.0, -900.0)[some], start[some] / 2)
    torch.testing.assert_close(moved(60.0, 60.0) - start, 2 * (moved(60.0, 0.0) - start))


def test_a_learned_optimizer_that_writes_nothing_is_first_order_maml():
    learner, params, batch = doubled(case_of("learned-optimizer", "rating"))
    params = muted(params, update=0.0) | {"rate.level": params["rate.entity"]}
    assert_same_but_rates(outer(learner, params, batch), outer(as_maml(learner, order=1), params, batch))


def test_what_a_learned_optimizer_writes_is_added_to_the_step():
    learner, params, batch = doubled(case_of("learned-optimizer", "rating"), steps=1)
    body, some = learner.body(params), batch.support.rows.mask.any(1)
    still, ours, twice = (
        learner.adapt(body | {"update": body["update"] * by}, batch.support)["z"] for by in (0.0, 1.0, 2.0)
    )
    assert ((ours - still).norm(dim=1) > 0)[some].all() and torch.equal(ours[~some], still[~some])
    torch.testing.assert_close(twice - still, 2 * (ours - still))


def test_numbers_reach_a_network_on_a_logarithmic_scale():
    x = torch.tensor([torch.e**-3, -(torch.e**2), 0.0, torch.e**-12])
    expected = torch.tensor([[-0.3, 1.0], [0.2, -1.0], [-1.0, 0.0], [-1.0, torch.e**-2]])
    torch.testing.assert_close(log_scale(x), expected, rtol=1e-5, atol=1e-6)


SINUSOID_SHAPE = {"dims": 16, "hidden": (40, 40), "objective": "rating", "negatives": 0, "rate": 0.01}
SINUSOID_SHAPE |= {"item_id": False, "item_bias": False, "size_weight": 0.0, "dropout": 0.0, "decay": 0.0}
SINUSOIDS = {
    "maml": {"adapts": "head"},
    "anil": {},
    "boil": {},
    "meta-sgd": {"adapts": "head"},
    "maml-pp": {"adapts": "head"},
    "meta-dropout": {"adapts": "head", "spread": 0.1},
    "meta-regularization": {"adapts": "head", "beta": 1e-4, "spread": 0.01},
    "reptile": {"adapts": "head", "steps": 5, "rate": 0.02},
    "cavia": {"context": 5, "rate": 1.0},
    "imaml": {"adapts": "head", "rate": 0.02, "strength": 1.0},
    "hsml": {"adapts": "head"},
    "mamo": {"adapts": "head"},
    "meta-lstm": {"rate": 0.1},
    "learned-optimizer": {"rate": 0.1},
}


PUBLISHED = {5: 1.13 + 0.18, 10: 0.85 + 0.14}
"""Upper ends of MAML's squared error after one step by the points known (Li et al. 2017, table 1)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SINUSOIDS)
def test_sinusoids_of_the_maml_paper(name):
    """A few points tell amplitude and phase; without them the error is that of the mean, about 2.8."""
    learner = learner_of(name, {**SINUSOID_SHAPE, **SINUSOIDS[name]})
    data = sinusoid_world()
    params, index, split, _ = train(learner, data, epochs=40, tasks=25, rate=5e-3, max_shots=10, empty=0.0)
    errors, body = {}, learner.body(params)
    for shots in (0, 5, 10):
        batch = episodes_at(data, index.shuffled(2), split.test, shots)
        scores = learner.score(body, learner.adapt(body, batch.support), batch.query)
        errors[shots] = float((scores - batch.query.label).square()[batch.query.mask].mean())
    print(name, {k: round(v, 3) for k, v in errors.items()})
    assert errors[10] < errors[5] < 0.5 * errors[0]
    assert all(errors[shots] < within for shots, within in PUBLISHED.items())


LINEAR_RELATIVES = {
    "maml": ({}, 0.5),
    "anil": ({"hidden": (32, 32), "negatives": 0}, 0.75),
    "boil": ({"hidden": (32, 32), "negatives": 0}, 0.4),
    "meta-sgd": ({}, 0.5),
    "maml-pp": ({}, 0.25),
    "meta-dropout": ({"spread": 0.1}, 0.5),
    "meta-regularization": ({"beta": 1e-4, "spread": 0.01}, 0.5),
    "reptile": ({}, 0.5),
    "cavia": ({"context": 4, "rate": 0.1}, 0.55),
    "imaml": ({}, 0.2),
    "hsml": ({}, 0.3),
    "mamo": ({}, 0.5),
    "meta-lstm": ({}, 0.35),
    "learned-optimizer": ({}, 0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR_RELATIVES)
def test_nears_the_optimum_in_a_linear_gaussian_world(name):
    """Of what a support of 1 to 10 rows is worth to the Bayes-optimal predictor, so much at most is lost."""
    config, within = LINEAR_RELATIVES[name]
    world, learner = linear_gaussian_world(entities=1000), learner_of(name, {**LINEAR, **config})
    params, index, split, _ = train(learner, world.data, epochs=50, max_shots=10, empty=0.05)
    best, worst, ours, _ = errors_of(world, learner, params, mixed_batch(world, index, split.test, 1))
    print(f"{name}: Bayes {best:.3f}, ours {ours:.3f}, prior {worst:.3f}; lost {(ours - best) / (worst - best):.3f}")
    assert best < ours < best + within * (worst - best)
