"""Baselines of clicks: each part against plain numpy, and each method on data simulated from known effects."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as log_loss

from recsys_meta.core.dataset import Dataset, Vocabulary
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import FeatureField
from recsys_meta.core.types import FIRST, Support
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.baselines.click.bilinear import BilinearModel
from recsys_meta.models.baselines.click.factorization_machine import FactorizationMachine
from recsys_meta.models.baselines.click.logistic_regression import LogisticRegression
from recsys_meta.models.baselines.click.position_bias import ContextOnly, PositionOnly, PositionRate
from recsys_meta.models.baselines.click.random_intercept import RandomIntercept
from recsys_meta.models.baselines.click.solvers.additive_logit import fit_additive
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    encode_side,
    fill_tables,
    init_tables,
    total_context_effect,
)
from recsys_meta.models.baselines.click.solvers.fm_solver import _gradient, fit_factorization_machine
from recsys_meta.models.baselines.click.solvers.laplace_em import FixedSide, learn_click_prior
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.functional.laplace_posterior import probit_adjusted_logit
from recsys_meta.models.protocols import UncertainPredictor
from tests.fixtures.simulated_datasets import dataset

PLACES = 5
ADAPTING = [PositionRate, RandomIntercept, FactorizationMachine, BilinearModel]
EVERY = [ContextOnly, PositionOnly, LogisticRegression, *ADAPTING]
PAST, NEW = np.arange(150), np.arange(150, 200)


def clicks(entities=200, items=30, rows=40, dims=2, seed=0) -> Dataset:
    """logit = -0.5 + place + price + item + kind of the entity + its own + taste . vector, with places 0 to 4."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, entities)
    item = rng.integers(0, items, (entities, rows))
    place, price = rng.integers(0, PLACES, item.shape), rng.normal(size=item.shape)
    own = 1.2 * (2 * kind - 1) + 0.8 * rng.normal(size=entities)
    taste, vector = rng.normal(size=(entities, dims)), rng.normal(size=(items, dims))
    logit = -0.5 + 1.0 - 0.5 * place - 0.7 * price + 0.6 * rng.normal(size=items)[item] + own[:, None]
    logit = logit + np.take_along_axis(taste @ vector.T, item, 1)
    label = (rng.random(item.shape) < 1 / (1 + np.exp(-logit))).astype(float)
    data = dataset("clicks", "click", list(item), list(label), entity_features=[("kind", [[int(k)] for k in kind])])
    context = {
        "price": price.reshape(-1).astype(np.float32),
        "position": (place.reshape(-1) + FIRST).astype(np.int32),
    }
    names = pd.Index([str(p) for p in range(PLACES)], dtype="str")
    fields = (FeatureField(name="price", kind="numeric"), FeatureField(name="position"))
    return replace(
        data,
        schema=data.schema.model_copy(update={"context": fields}),
        events=replace(data.events, context=context),
        vocab=Vocabulary({**data.vocab.values, "context.position": names}),
    )


@pytest.fixture(scope="module")
def data():
    return clicks()


@pytest.fixture(scope="module")
def fitted(data):
    """Every baseline with its body, fitted on past entities."""
    result = {}
    for kind in EVERY:
        predictor = kind(dims=2) if "dims" in kind.model_fields else kind()
        result[kind] = predictor, predictor.body(predictor.fit(data, PAST))
    return result


def episodes(data, shots, entities=NEW):
    chosen = torch.from_numpy(entities)
    support, query = EventIndex.of(data).draw(chosen, torch.full_like(chosen, shots), query_from=20)
    return episode_batch(data, entities, support, query)


def loss(fitted, data, kind, shots):
    predictor, body = fitted[kind]
    batch = episodes(data, shots)
    score = predictor.score(body, predictor.adapt(body, batch.support), batch.query)
    return float(log_loss(score[batch.query.mask], batch.query.label[batch.query.mask]))


def test_additive_logistic_is_at_the_minimum():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)) * [1, 10, 0.1, 1]
    y = (rng.random(300) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    ridge = np.array([0.0, 1.0, 2.0, 50.0])
    w = fit_additive(sp.csr_matrix(x), torch.from_numpy(y), ridge, "logistic").numpy()
    slope = x.T @ (1 / (1 + np.exp(-x @ w)) - y) + ridge * w
    np.testing.assert_allclose(slope / np.sqrt((x**2).sum(0)), 0, atol=2e-3)
    w = fit_additive(sp.csr_matrix(x), torch.from_numpy(y), ridge, "squared").numpy()
    np.testing.assert_allclose(w, np.linalg.solve(x.T @ x + np.diag(ridge), x.T @ y), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("likelihood", ["logistic", "squared"])
def test_prior_of_past_entities_is_recovered(likelihood):
    rng = np.random.default_rng(2)
    entities, rows, items = 1_500, 80, 20
    vectors = rng.normal(size=(items + FIRST, 2))
    x = np.stack([np.ones(entities), rng.integers(0, 2, entities)], 1).astype(float)
    regress = np.array([[0.5, -0.5], [1.0, 1.5]])
    root = np.array([[0.6, 0.0], [0.3, 0.5]])
    w = x @ regress + rng.normal(size=(entities, 2)) @ root.T
    task, item = np.repeat(np.arange(entities), rows), rng.integers(0, items, entities * rows) + FIRST
    eta = (w[task] * vectors[item]).sum(1)
    noisy = eta + 0.7 * rng.normal(size=len(eta))
    label = noisy if likelihood == "squared" else (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)
    given = ClickRows(*map(torch.from_numpy, (task, item, label)), {}, {}, entities, items + FIRST)
    result = learn_click_prior(
        given, FixedSide(torch.zeros(len(eta)).double(), torch.from_numpy(vectors)), sp.csr_matrix(x), 1e-3, likelihood
    )
    np.testing.assert_allclose(result.coefficients.numpy(), regress, atol=0.15)
    np.testing.assert_allclose(result.covariance.numpy(), root @ root.T, atol=0.12)
    if likelihood == "squared":
        assert result.variance == pytest.approx(0.49, rel=0.05)


def test_prior_with_more_columns_than_entities_is_the_same_ridge():
    rng = np.random.default_rng(3)
    x = np.hstack([np.ones((12, 1)), rng.normal(size=(12, 30))])
    few = np.hstack([np.ones((12, 1)), rng.normal(size=(12, 3))])
    for columns in (x, few):
        task = np.repeat(np.arange(12), 5)
        label = rng.normal(size=60)
        rows = ClickRows(
            torch.from_numpy(task), torch.full((60,), FIRST), torch.from_numpy(label), {}, {}, 12, FIRST + 1
        )
        result = learn_click_prior(
            rows, FixedSide(torch.zeros(60).double(), torch.ones(FIRST + 1, 1)), sp.csr_matrix(columns), 2.0, "squared"
        )
        penalty = np.diag([1e-6] + [2.0] * (columns.shape[1] - 1))
        expected = np.linalg.solve(columns.T @ columns + penalty, columns.T @ result.weight.numpy())
        np.testing.assert_allclose(result.coefficients.numpy(), expected, atol=1e-6)


def test_covariance_of_the_fixed_side_shrinks_weights():
    rng = np.random.default_rng(7)
    entities, items = 40, 12
    task, item = np.repeat(np.arange(entities), 15), rng.integers(0, items, entities * 15) + FIRST
    vectors = rng.normal(size=(items + FIRST, 2))
    eta = (2 * rng.normal(size=(entities, 2))[task] * vectors[item]).sum(1)
    label = (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)
    rows = ClickRows(*map(torch.from_numpy, (task, item, label)), {}, {}, entities, items + FIRST)
    vectors = torch.from_numpy(vectors)
    half = 0.3 * rng.normal(size=(items + FIRST, 2, 2))
    blur = torch.from_numpy(half @ half.transpose(0, 2, 1))
    offset, constant = torch.zeros(len(task)).double(), sp.csr_matrix(np.ones((entities, 1)))
    exact = learn_click_prior(rows, FixedSide(offset, vectors), constant, 1.0, "logistic", rounds=40)
    result = learn_click_prior(rows, FixedSide(offset, vectors, blur), constant, 1.0, "logistic", rounds=200)
    assert result.weight.norm() < exact.weight.norm()
    # Where the expected loss has no slope: the blur adds p (1 - p) C w for each row.
    w = result.weight[rows.task]
    p = torch.sigmoid((vectors[rows.item] * w).sum(1))
    rest = (blur[rows.item] @ w.unsqueeze(2)).squeeze(2) * (p * (1 - p))[:, None]
    slope = torch.zeros_like(result.weight).index_add(
        0, rows.task, (p - rows.label)[:, None] * vectors[rows.item] + rest
    )
    slope += (result.weight - result.coefficients) @ torch.linalg.inv(result.covariance)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-3, rtol=0)


def test_transposed_rows_are_the_transposed_matrix(data):
    rows = ClickRows.of(data, PAST)
    there, back = rows.pair_sums(rows.label), rows.transpose().pair_sums(rows.label)
    assert there.shape == (len(PAST), data.catalogue)
    np.testing.assert_array_equal(there.toarray(), back.toarray().T)
    assert there.sum() == data.events.label[: len(rows)].sum()


def test_gradient_of_a_factorization_machine_is_the_derivative():
    rng = np.random.default_rng(4)
    fields = [sp.csr_matrix(np.ones((7, 1)))] + [
        sp.csr_matrix(rng.random((7, n)) * (rng.random((7, n)) < 0.5)) for n in (3, 4, 2)
    ]
    places, start = [], 0
    for x in fields:
        places.append(slice(start, start + x.shape[1]))
        start += x.shape[1]
    theta = rng.normal(size=(start, 3))
    theta[0, 1:] = 0
    y = rng.integers(0, 2, 7).astype(float)
    t = torch.from_numpy(theta).requires_grad_()
    pooled = [torch.from_numpy(x.toarray()) @ t[p] for x, p in zip(fields, places, strict=True)]
    logit = sum(p[:, 0] for p in pooled)
    for f in range(1, 4):
        for g in range(f + 1, 4):
            logit = logit + (pooled[f][:, 1:] * pooled[g][:, 1:]).sum(1)
    (expected,) = torch.autograd.grad(log_loss(logit, torch.from_numpy(y)), t)
    expected = expected.numpy().copy()
    expected[0, 1:] = 0
    np.testing.assert_allclose(_gradient(fields, places, theta, y), expected, atol=1e-12)


def test_factorization_machine_sums_over_pairs_of_fields(data, fitted):
    predictor, body = fitted[FactorizationMachine]
    batch = episodes(data, 6)
    state = predictor.adapt(body, batch.support)
    score = predictor.score(body, state, batch.query)
    t, r = 3, 5
    mode = state["mode"][t]
    kind = batch.support.features["kind"][t, 0]
    place = batch.query.context["position"][t, r]
    price = total_context_effect({k: v for k, v in body.items() if "price" in k}, batch.query)[t, r]
    one_hot = torch.zeros(1)
    fields = [mode, body["entity.kind"][kind], body["context.position"][place], price]
    item = torch.cat([one_hot, body["vectors"][batch.query.item[t, r]]])
    parts = [*fields, item]
    eta = body["base"][batch.query.item[t, r]] + sum(p[0] for p in fields)
    for f in range(len(parts)):
        for g in range(f + 1, len(parts)):
            eta = eta + parts[f][1:] @ parts[g][1:]
    seen = torch.cat([torch.ones(1), sum(p[1:] for p in parts[1:])])
    variance = (seen @ state["root"][t]).square().sum()
    torch.testing.assert_close(score[t, r], probit_adjusted_logit(eta, variance), rtol=1e-4, atol=1e-4)


def test_factorization_machine_learns_an_interaction():
    rng = np.random.default_rng(5)
    left, right = rng.integers(0, 2, 4_000), rng.integers(0, 2, 4_000)
    label = (rng.random(4_000) < np.where(left == right, 0.9, 0.1)).astype(float)
    fields = [sp.csr_matrix(np.ones((4_000, 1))), *(sp.csr_matrix(np.eye(2)[x]) for x in (left, right))]
    constant, a, b = (t.numpy() for t in fit_factorization_machine(fields, torch.from_numpy(label), 2, 1.0, 0))
    logit = constant[0, 0] + a[:, None, 0] + b[None, :, 0] + a[:, 1:] @ b[:, 1:].T
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), np.where(np.eye(2), 0.9, 0.1), atol=0.05)


def test_encoded_columns_and_look_ups_agree(data):
    rows = ClickRows.of(data, PAST)
    tables = init_tables("context", rows.context, np.arange(len(rows)))
    columns = encode_side(tables, "context", rows.context_features(), len(rows))
    weights = torch.from_numpy(np.random.default_rng(6).normal(size=(columns.shape[1], 3)))
    filled_tables = fill_tables(tables, "context", weights, columns)
    batch = episodes(data, 40, PAST)
    expected = (columns @ weights.numpy()).reshape(len(PAST), -1, 3)[:, :39]
    result = total_context_effect(filled_tables, batch.support.rows)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    nothing = total_context_effect(filled_tables, replace(batch.support.rows, context={}))
    assert nothing.shape == (1, 1, 3)
    np.testing.assert_allclose(nothing[0, 0].numpy(), (columns @ weights.numpy()).mean(0), atol=1e-5)


def test_context_recovers_the_simulated_effects(fitted):
    _, body = fitted[ContextOnly]
    place = body["context.position"][FIRST:, 0]
    # Marginally a little flatter than the planted -0.5 a place, as entities differ.
    steps = place.diff()
    assert (steps > -0.6).all()
    assert (steps < -0.15).all()
    assert not any(k.startswith("context.price") for k in fitted[PositionOnly][1])


@pytest.mark.parametrize(
    ("better", "worse", "shots"),
    [
        (PositionOnly, None, 0),
        (ContextOnly, PositionOnly, 0),
        (LogisticRegression, ContextOnly, 0),
        (PositionRate, ContextOnly, 5),
        (RandomIntercept, PositionRate, 0),
        (RandomIntercept, PositionRate, 5),
        (BilinearModel, RandomIntercept, 20),
        (FactorizationMachine, LogisticRegression, 10),
    ],
)
def test_each_baseline_beats_the_simpler_one(data, fitted, better, worse, shots):
    if worse is None:
        predictor = ItemPopularity(objective="click")
        fitted = {**fitted, worse: (predictor, predictor.fit(data, PAST))}
    assert loss(fitted, data, better, shots) < loss(fitted, data, worse, shots) - 0.003


@pytest.mark.parametrize("kind", ADAPTING)
def test_more_rows_help(data, fitted, kind):
    assert loss(fitted, data, kind, 20) < loss(fitted, data, kind, 3) < loss(fitted, data, kind, 0)


@pytest.mark.parametrize("kind", EVERY)
def test_probabilities_are_calibrated(data, fitted, kind):
    predictor, body = fitted[kind]
    batch = episodes(data, 10)
    p = torch.sigmoid(predictor.score(body, predictor.adapt(body, batch.support), batch.query))
    order = p.flatten().argsort()
    for part in order.chunk(4):
        assert abs(float(p.flatten()[part].mean() - batch.query.label.flatten()[part].mean())) < 0.1


@pytest.mark.parametrize("kind", [LogisticRegression, RandomIntercept, FactorizationMachine, BilinearModel])
def test_features_change_scores_of_an_empty_support(data, fitted, kind):
    predictor, body = fitted[kind]
    batch = episodes(data, 0)
    both = {"kind": torch.tensor([[FIRST], [FIRST + 1]])}
    state = predictor.adapt(body, Support(both, batch.support.rows.first(0).of(torch.tensor([0, 1]))))
    low, high = predictor.rank(body, state)[:, FIRST:].mean(1)
    assert high - low > 1


@pytest.mark.parametrize("kind", EVERY)
def test_rows_without_context_stand_for_the_average_one(data, fitted, kind):
    predictor, body = fitted[kind]
    batch = episodes(data, 5)
    state = predictor.adapt(body, batch.support)
    ranked = predictor.rank(body, state)
    bare = replace(batch.query, context={})
    torch.testing.assert_close(predictor.score(body, state, bare), ranked.gather(1, bare.item), rtol=1e-4, atol=1e-4)
    first = {**batch.query.context, "position": torch.full_like(batch.query.item, FIRST)}
    last = {**first, "position": torch.full_like(batch.query.item, FIRST + PLACES - 1)}
    top, end = (predictor.score(body, state, replace(batch.query, context=c)).mean() for c in (first, last))
    assert end < predictor.score(body, state, bare).mean() < top


@pytest.mark.parametrize("kind", EVERY)
def test_missing_and_unknown_context_is_accepted(data, fitted, kind):
    predictor, body = fitted[kind]
    batch = episodes(data, 5)
    unknown_context = {
        "price": torch.full_like(batch.query.label, torch.nan),
        "position": torch.full_like(batch.query.item, 99),
    }
    state = predictor.adapt(body, batch.support)
    assert torch.isfinite(predictor.score(body, state, replace(batch.query, context=unknown_context))).all()
    assert torch.isfinite(
        predictor.score(body, state, replace(batch.query, context={"other": batch.query.label}))
    ).all()


SPREAD = [
    (kind, {"squared": squared}) for kind in (PositionRate, RandomIntercept, BilinearModel) for squared in (False, True)
]


@pytest.mark.parametrize(("kind", "setting"), [*SPREAD, (FactorizationMachine, {})])
def test_spread_falls_with_the_support(data, kind, setting):
    predictor = kind(**setting)
    assert isinstance(predictor, UncertainPredictor)
    body = predictor.body(predictor.fit(data, PAST))
    spreads = []
    for shots in (0, 5, 20):
        batch = episodes(data, shots)
        spreads.append(float(predictor.score_std(body, predictor.adapt(body, batch.support), batch.query).mean()))
    assert spreads[0] > spreads[1] > spreads[2] > 0


def test_a_click_at_a_low_position_is_stronger_evidence(data, fitted):
    predictor, body = fitted[PositionRate]
    batch = episodes(data, 1)
    rows = replace(batch.support.rows, label=torch.ones_like(batch.support.rows.label))

    def after(place):
        context = {**rows.context, "position": torch.full_like(rows.item, FIRST + place)}
        state = predictor.adapt(body, replace(batch.support, rows=replace(rows, context=context)))
        return predictor.rank(body, state).mean()

    assert after(PLACES - 1) > after(0)


def test_squared_two_means_is_the_shrunk_mean(data):
    predictor = RandomIntercept(squared=True)
    params = predictor.fit(data, PAST)
    body = predictor.body(params)
    batch = episodes(data, 4)
    state = predictor.adapt(body, batch.support)
    rows = batch.support.rows
    left = (rows.label - body["base"][rows.item] - total_context_effect(body, rows).squeeze(2)).sum(1)
    prior = body["start"] + body["entity.kind"][batch.support.features["kind"][:, 0]]
    shrink = body["variance"] * body["precision"][0, 0]
    torch.testing.assert_close(state["mode"][:, 0], (left + shrink * prior[:, 0]) / (4 + shrink), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_rows_of_other_entities_change_nothing(data, kind):
    own = int(data.events.indptr[len(PAST)])
    context = {k: v.copy() for k, v in data.events.context.items()}
    context["price"][own:] = 1e6
    context["position"][own:] = FIRST
    changed = replace(data, events=replace(data.events, context=context))
    before, after = (kind().fit(d, PAST) for d in (data, changed))
    assert before.keys() == after.keys()
    for key in before:
        torch.testing.assert_close(before[key], after[key], rtol=0, atol=0)


def test_other_objectives_are_refused(data):
    ranking = replace(data, schema=data.schema.model_copy(update={"objective": "rating"}))
    for kind in EVERY:
        with pytest.raises(ConfigError, match="serves click"):
            kind().fit(ranking, PAST)


@pytest.mark.parametrize("kind", EVERY)
def test_grids_are_small(kind):
    grid = kind().grid()
    assert len(grid) <= 20
    assert len({g.fit_key() for g in grid}) <= 8
    # Tuning reports the edges of a grid for numbers only.
    assert all(isinstance(getattr(g, field), float | int) for g in grid for field in g.search_space())
