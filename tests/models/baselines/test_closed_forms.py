"""Closed forms of the baselines against plain numpy on small matrices, and properties of each method."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recsys_meta.core.dataset import add_arrival
from recsys_meta.core.errors import ConfigError, NotFoundError
from recsys_meta.core.types import FIRST, Interactions, Support
from recsys_meta.data import prepare, simulate_users
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.models.baselines import BASELINES, interaction_matrix, make_baseline
from recsys_meta.models.baselines.counting.bias_model import ItemMean
from recsys_meta.models.baselines.counting.popularity import ItemPopularity
from recsys_meta.models.baselines.counting.recent_popularity import RecentPopularity
from recsys_meta.models.baselines.interaction_matrix import TrainingRows, popular_item_columns
from recsys_meta.models.baselines.item_based import ease
from recsys_meta.models.baselines.item_based.ease import Ease
from recsys_meta.models.baselines.item_based.gaussian import GaussianPosterior
from recsys_meta.models.baselines.item_based.item_scores import distinct_weights, mix_with_popularity
from recsys_meta.models.baselines.item_based.itemknn import ItemKNN
from recsys_meta.models.baselines.item_based.naive_bayes import NaiveBayes
from recsys_meta.models.baselines.latent.bayesian_linear_regression import BayesianLinearRegression
from recsys_meta.models.baselines.latent.content import ContentOnly
from recsys_meta.models.baselines.latent.em_prior import learn_prior, residual_factors
from recsys_meta.models.baselines.latent.ials import Ials, IalsPrior
from recsys_meta.models.functional.neighbour_lists import cooccurring_items
from tests.fixtures.simulated_datasets import dataset
from tests.models.baselines.cases import make_small_baseline, rows, simulated_dataset, supports

X = np.array(
    [[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 1]], float
)
BY_POPULARITY = ["itemknn", "ease", "naive-bayes", "ials", "gaussian"]


@pytest.fixture(scope="module")
def page():
    items = [np.flatnonzero(r) for r in X]
    return dataset("page", "ranking", items, [np.ones(len(i)) for i in items])


def answer(predictor, data, items, labels=None):
    """Scores of the real items for one support given as indices of X's columns."""
    body = predictor.body(predictor.fit(data, np.arange(data.events.entity_count)))
    support = Support({}, rows([[i + FIRST for i in items]], [labels] if labels else None))
    return predictor.rank(body, predictor.adapt(body, support))[0, FIRST:].double().numpy()


def mixed(evidence, weight):
    log = np.log1p(X.sum(0))
    return evidence / evidence.std() + weight * log / log.std()


def ease_by_hand(ridge):
    inverse = np.linalg.inv(X.T @ X + ridge * np.eye(5))
    return np.eye(5) - inverse @ np.diag(1 / np.diag(inverse))


@pytest.mark.parametrize("ridge", [0.5, 20.0])
@pytest.mark.parametrize("items", [[0], [1, 3], [0, 2, 4]])
def test_ease_equals_its_formula(page, ridge, items):
    scores = answer(Ease(ridge=ridge, popularity=0.4), page, items)
    np.testing.assert_allclose(scores, mixed(ease_by_hand(ridge)[items].sum(0), 0.4), rtol=1e-4, atol=1e-5)


def test_ials_prior_equals_its_formula(page):
    predictor = IalsPrior(dims=3, zeros=0.2, trust=0.7, popularity=0.0)
    params = predictor.body(predictor.fit(page, np.arange(6)))
    y, m, p = (params[k].double().numpy() for k in ("items", "mean", "precision"))
    items = [0, 3]
    a = y[[i + FIRST for i in items]]
    matrix = 0.2 * y.T @ y + 10 * a.T @ a + 0.7 * p
    w = np.linalg.solve(matrix, 11 * a.sum(0) + 0.7 * p @ m)
    state = predictor.adapt(params, Support({}, rows([[i + FIRST for i in items]])))
    np.testing.assert_allclose(state["vector"][0].numpy(), w, rtol=1e-4, atol=1e-5)
    empty = predictor.adapt(params, Support({}, rows([[]])))
    np.testing.assert_allclose(empty["vector"][0].numpy(), m, rtol=1e-6)


def test_ials_prior_has_the_moments_of_training_vectors(page):
    implicit = pytest.importorskip("implicit.cpu.als")
    predictor = IalsPrior(dims=3, confidence=4.0, ridge=0.5)
    params = predictor.fit(page, np.arange(6))
    model = implicit.AlternatingLeastSquares(
        factors=3, regularization=0.5, alpha=4.0, iterations=10, random_state=0, num_threads=1
    )
    padded = np.concatenate([np.zeros((6, FIRST)), X], 1).astype(np.float32)
    model.fit(sp.csr_matrix(padded), show_progress=False)
    users = model.user_factors.astype(float)
    np.testing.assert_allclose(params["mean"].numpy(), users.mean(0), rtol=1e-3, atol=1e-4)
    covariance = np.cov(users.T, bias=True)
    slack = 1e-3 * np.trace(covariance) / 3 + 1e-8
    np.testing.assert_allclose(
        np.linalg.inv(params["precision"].double().numpy()), covariance + slack * np.eye(3), rtol=1e-2, atol=1e-3
    )


def test_ials_folds_in_as_the_library_does(page):
    implicit = pytest.importorskip("implicit.cpu.als")
    predictor = Ials(dims=3, confidence=4.0, ridge=0.5, fold_ridge=0.5, popularity=0.0)
    params = predictor.fit(page, np.arange(6))
    padded = sp.csr_matrix(np.concatenate([np.zeros((6, FIRST)), X], 1).astype(np.float32))
    model = implicit.AlternatingLeastSquares(
        factors=3, regularization=0.5, alpha=4.0, iterations=10, random_state=0, num_threads=1
    )
    model.fit(padded, show_progress=False)
    own = sp.csr_matrix(padded[:1])
    theirs = model.recalculate_user(0, own)
    support = Support({}, rows([(np.flatnonzero(X[0]) + FIRST).tolist()]))
    ours = predictor.adapt(predictor.body(params), support)["vector"][0].numpy()
    np.testing.assert_allclose(ours, theirs.reshape(-1), rtol=1e-2, atol=1e-3)


def test_ials_without_its_library_is_a_clear_error(page, monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "implicit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(ConfigError, match=r"pip install 'recsys-meta\[baselines\]'"):
        IalsPrior(dims=3).fit(page, np.arange(6))


@pytest.mark.parametrize("centred", [True, False])
def test_gaussian_conditions(page, centred):
    items = [1, 3]
    mean = X.mean(0) * centred
    moment = X.T @ X / 6 - np.outer(mean, mean)
    inner = moment[np.ix_(items, items)] + 0.1 * np.eye(2)
    expected = mean + moment[:, items] @ np.linalg.solve(inner, 1 - mean[items])
    scores = answer(GaussianPosterior(noise=0.1, centred=centred, popularity=0.2), page, items)
    np.testing.assert_allclose(scores, mixed(expected, 0.2), rtol=1e-4, atol=1e-5)


def test_naive_bayes_adds_log_ratios(page):
    n, together = X.sum(0), X.T @ X
    expected = np.log1p(n)
    for s in (0, 2):
        ratio = np.log((together[s] + 2 * n[s] / 6) / ((n + 2) * n[s] / 6))
        ratio[s] = 0
        expected = expected + 0.5 * ratio
    scores = answer(NaiveBayes(strength=2.0, trust=0.5), page, [0, 2])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_ease_of_a_large_catalogue_keeps_neighbours_and_ranks_as_well(tmp_path, monkeypatch):
    data = prepare(simulate_users(users=240, items=60, events=4800, seed=1).tables, tmp_path)
    index, train, test = EventIndex.of(data), np.arange(120), np.arange(120, 240)

    def curve(predictor: Ease) -> ColdStartCurve:
        return cold_start(predictor, predictor.fit(data, train), data, index, test, shots=(1, 5, 10))

    dense = curve(Ease(ridge=20.0))
    monkeypatch.setattr(ease, "MAX_DENSE_ITEMS", 0)
    fitted = Ease(ridge=20.0).fit(data, train)
    assert "weights" not in fitted and fitted["neighbour"].shape[1] >= 58
    lists, few = curve(Ease(ridge=20.0)), curve(Ease(ridge=20.0, neighbours=1))
    for shots in (1, 5, 10):  # they differ by the pairs that never occur together, which are no neighbours
        assert abs(lists.against(dense, shots, "ndcg@10").difference) < 5e-3
        assert abs(few.against(dense, shots, "ndcg@10").difference) > 1e-2


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_itemknn_is_the_shrunk_similarity(page, monkeypatch, power):
    n, together = X.sum(0), X.T @ X * (1 - np.eye(5))
    similar = together / (n[:, None] ** (1 - power) * n[None, :] ** power + 3)
    expected = mixed(similar[[0, 3]].sum(0), 0.3)
    predictor = ItemKNN(shrink=3.0, power=power, popularity=0.3)
    np.testing.assert_allclose(answer(predictor, page, [0, 3]), expected, rtol=1e-4)
    # A large catalogue keeps neighbours: with room for all of them nothing changes.
    monkeypatch.setattr(interaction_matrix, "MAX_DENSE_ITEMS", 0)
    np.testing.assert_allclose(answer(predictor, page, [0, 3]), expected, rtol=1e-4)
    few = predictor.model_copy(update={"neighbours": 1})
    assert not np.allclose(answer(few, page, [0, 3]), expected)


@pytest.mark.parametrize("items", [[0], [1, 3], [0, 2, 4]])
def test_naive_bayes_of_a_large_catalogue_is_the_same_as_long_as_no_pair_is_cut(page, monkeypatch, items):
    predictor = NaiveBayes(strength=2.0, trust=0.7)
    unmet = [i for i in range(5) if i not in items]  # a dense matrix leaves the support's own items as they are
    expected = answer(predictor, page, items)[unmet]
    monkeypatch.setattr(interaction_matrix, "MAX_DENSE_ITEMS", 0)
    np.testing.assert_allclose(answer(predictor, page, items)[unmet], expected, rtol=1e-4)
    few = predictor.model_copy(update={"neighbours": 1})
    assert not np.allclose(answer(few, page, items)[unmet], expected)


def test_baselines_of_a_large_catalogue_share_one_search_for_neighbours(monkeypatch):
    data, searches = simulated_dataset(items=30, entities=80), []

    def search(*arguments):
        searches.append(arguments)
        return cooccurring_items(*arguments)

    monkeypatch.setattr(interaction_matrix, "MAX_DENSE_ITEMS", 12)
    monkeypatch.setattr(interaction_matrix, "cooccurring_items", search)
    for predictor in (ItemKNN(neighbours=2), NaiveBayes(neighbours=2), ItemKNN(neighbours=2, shrink=1.0)):
        fitted = predictor.fit(data, np.arange(60))
    met = int((fitted["counts"] > 0).sum())
    assert len(searches) == 1 and fitted["neighbour"].shape[1] == max(2, 144 // met)
    assert ItemKNN(neighbours=20).fit(data, np.arange(60))["neighbour"].shape[1] == 20


@pytest.mark.parametrize("name", BY_POPULARITY)
@pytest.mark.parametrize("unknown", [False, True])
def test_an_empty_or_unknown_support_ranks_by_popularity(name, unknown):
    data = simulated_dataset(items=30, entities=80)
    train = np.arange(60)
    body = ItemPopularity().fit(data, train)
    popular = body["scores"][FIRST:]
    support = supports(data, sizes=(0, 0))
    if unknown:
        support = Support(support.features, rows([[1], [1, 1]]))
    for setting in make_small_baseline(name, "ranking").grid()[::5]:
        shared = setting.body(setting.fit(data, train))
        scores = setting.rank(shared, setting.adapt(shared, support))[:, FIRST:]
        for own in scores:
            # Every pair that popularity orders is ordered alike.
            gap = popular[:, None] - popular[None, :] > 1e-4
            assert ((own[:, None] - own[None, :]) > 0)[gap].all()


def test_repetitions_in_a_support_count_once(page):
    weight = distinct_weights(rows([[2, 3, 2, 1, 2], [4, 4, 0, 0, 0]]))
    assert weight.sum(1).tolist() == [2.0, 1.0]
    for predictor in (
        ItemKNN(),
        Ease(),
        GaussianPosterior(),
        NaiveBayes(),
        IalsPrior(dims=3),
        BayesianLinearRegression(dims=3),
    ):
        np.testing.assert_allclose(
            answer(predictor, page, [0, 2, 0]), answer(predictor, page, [0, 2]), rtol=1e-4, atol=1e-5
        )


def test_flat_evidence_leaves_popularity_alone():
    popular = torch.tensor([0.0, 0.0, 1.0, 3.0, 2.0])
    evidence = torch.tensor([[0.0, 0, 0, 0, 0], [0, 0, 7, 7, 7], [0, 0, 1, 0, 0]])
    scores = mix_with_popularity(evidence, popular, 0.0)
    assert scores[0, FIRST:].argsort().tolist() == [0, 2, 1]
    assert scores[1, FIRST:].argsort().tolist() == [0, 2, 1]
    assert scores[2, FIRST:].argmax() == 0


def test_popular_item_columns_are_the_most_popular_items():
    part, where = popular_item_columns(sp.csr_matrix(X), limit=2)
    assert where["kept"].tolist() == [0, 1]
    assert where["place"].tolist() == [0, 1, -1, -1, -1]
    assert part.shape == (6, 2)


@pytest.mark.parametrize("name", ["itemknn", "ease", "naive-bayes", "gaussian"])
def test_scores_are_finite_when_the_matrix_covers_some_items(name, monkeypatch):
    data = simulated_dataset(items=24, entities=80)
    monkeypatch.setattr("recsys_meta.models.baselines.interaction_matrix.popular_item_columns.__defaults__", (8,))
    predictor = make_small_baseline(name, "ranking")
    body = predictor.body(predictor.fit(data, np.arange(60)))
    assert len(body["kept"]) == 8
    support = supports(data, sizes=(4, 0, 24))
    assert torch.isfinite(predictor.rank(body, predictor.adapt(body, support))).all()


def test_em_recovers_the_prior_of_simulated_data():
    rng = np.random.default_rng(0)
    entities, items = 400, 30
    features = torch.from_numpy(rng.normal(size=(items, 2)).astype(np.float32))
    weight = rng.multivariate_normal([1.0, -0.5], [[0.5, 0.2], [0.2, 0.3]], entities)
    task, item = np.repeat(np.arange(entities), items), np.tile(np.arange(items), entities)
    label = (weight @ features.numpy().T).reshape(-1) + 0.4 * rng.normal(size=entities * items)
    training_rows = TrainingRows(task, item, torch.from_numpy(label.astype(np.float32)), entities, items)
    prior = learn_prior(training_rows, training_rows.label, features)
    np.testing.assert_allclose(prior["mean"], [1.0, -0.5], atol=0.08)
    np.testing.assert_allclose(np.linalg.inv(prior["precision"].numpy()), [[0.5, 0.2], [0.2, 0.3]], atol=0.07)
    assert float(prior["variance"]) == pytest.approx(0.16, rel=0.05)


def test_residual_factors_span_the_simulated_factors():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(50, 2)), rng.normal(size=(20, 2))
    task, item = (a.reshape(-1) for a in np.meshgrid(np.arange(50), np.arange(20), indexing="ij"))
    label = torch.from_numpy((left @ right.T).reshape(-1).astype(np.float32))
    factors = residual_factors(TrainingRows(task, item, label, 50, 20), label, 2, seed=0, ridge=0.1).double().numpy()
    projected = factors @ np.linalg.lstsq(factors, right, rcond=None)[0]
    np.testing.assert_allclose(projected, right, atol=0.05)


def test_item_mean_shrinks_the_newcomers_bias():
    data = dataset("three", "rating", [[0, 1], [0, 1], [0, 1]], [[3.0, 5.0], [2.0, 4.0], [4.0, 6.0]])
    predictor = ItemMean(item_shrink=0.0, user_shrink=2.0)
    base = answer(predictor, data, [])
    np.testing.assert_allclose(base, [3.0, 5.0], atol=0.05)
    adapted_scores = answer(predictor, data, [0], [base[0] + 1.5])
    np.testing.assert_allclose(adapted_scores - base, 1.5 / 3, atol=1e-4)


@pytest.mark.parametrize("name", ["blr", "item-mean"])
def test_ratings_adapt_towards_the_support(name):
    data = simulated_dataset("rating", entities=120)
    predictor = make_small_baseline(name, "rating")
    body = predictor.body(predictor.fit(data, np.arange(120)))
    support = Support(supports(data, sizes=(3, 3)).features, rows([[2, 3, 4]] * 2, [[5.0] * 3, [1.0] * 3]))
    state = predictor.adapt(body, support)
    generous, strict = predictor.rank(body, state)
    assert (generous - strict)[FIRST:].mean() > 0.3
    empty = predictor.adapt(body, support.empty())
    assert (predictor.support_loss(body, state, support) < predictor.support_loss(body, empty, support)).all()


def test_content_ranks_for_the_features_and_popularity_without():
    data = simulated_dataset(entities=200, seed=3)
    train = np.arange(200)
    predictor = ContentOnly(strength=5.0, trust=1.0)
    body = predictor.fit(data, train)
    group = data.entities["group"].values
    support = supports(data, sizes=(0,) * 200)
    scores = predictor.rank(body, predictor.adapt(body, support))
    a, b = int(np.flatnonzero(group == FIRST)[0]), int(np.flatnonzero(group == FIRST + 1)[0])
    genre = torch.from_numpy(np.asarray(data.items["genre"].values))
    lean = (scores[a] - scores[b])[FIRST:]
    means = [lean[genre == FIRST].mean(), lean[genre == FIRST + 1].mean()]
    # A group leans towards the genre it likes, and the other one away from it.
    assert means[0] * means[1] < 0
    assert abs(means[0] - means[1]) > 1
    plain = simulated_dataset(entities=50, features=False)
    own, popular = ContentOnly().fit(plain, np.arange(50)), ItemPopularity().fit(plain, np.arange(50))
    ranked = ContentOnly().rank(own, ContentOnly().adapt(own, supports(plain, sizes=(0,))))[0, FIRST:]
    assert torch.equal(ranked.argsort(stable=True), popular["scores"][FIRST:].argsort(stable=True))


def test_objectives_are_checked():
    with pytest.raises(ConfigError, match="serves click, rating"):
        ItemMean().fit(simulated_dataset("ranking"), np.arange(5))
    with pytest.raises(ConfigError, match="configured for 'ranking'"):
        ItemPopularity().fit(simulated_dataset("rating"), np.arange(5))
    with pytest.raises(NotFoundError, match="known: chance"):
        make_baseline("nothing")
    rating = [name for name, kind in BASELINES.items() if "rating" in kind.objectives]
    assert rating == ["chance", "popularity", "item-mean", "blr", "content"]
    assert "ranking" not in BASELINES["item-mean"].objectives


def test_recent_popularity_counts_those_who_came_at_about_the_same_time():
    # The first half of the entities came early and met item 0, the others late and met item 1.
    item = [[0]] * 20 + [[1]] * 20
    when = [np.array([t]) for t in range(40)]
    data = dataset("drift", "ranking", item, [np.ones(1)] * 40, time=when)
    data = replace(data, entities=add_arrival(data.entities, data.events))
    recent = RecentPopularity(width=1.0)
    params = recent.fit(data, np.arange(40))
    nobody = Interactions(torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool))
    early, late, unknown = recent.rank(
        params, recent.adapt(params, Support({"arrival": torch.tensor([1.0, 38.0, torch.nan])}, nobody))
    )
    assert early[2] > early[3] and late[3] > late[2] and unknown[3] > unknown[2]
    backwards = recent.fit(data, np.arange(40)[::-1].copy())
    assert torch.equal(backwards["counts"], params["counts"]), "whoever is named first, rows keep their arrivals"
    wide = RecentPopularity(width=1e9)
    even = wide.rank(params, wide.adapt(params, Support({"arrival": torch.tensor([1.0, 38.0, 20.0])}, nobody)))
    assert (even[:, 2] - even[:, 3]).abs().max() < 1e-4, "a wide kernel is popularity"
