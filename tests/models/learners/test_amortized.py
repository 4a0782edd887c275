"""What each learner that reads its support in one pass must compute: its paper's formula, in NumPy, task by task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.embeddings import embed_fields
from recsys_meta.models.learners import LEARNERS
from recsys_meta.models.learners.amortized import linear_head, matching, relation, siamese
from recsys_meta.models.learners.amortized.support_encoder import SupportEncoder
from tests.fixtures.simulated_datasets import linear_gaussian_world, ranking_world, rating_world
from tests.models.learners.cases import episodes, generator, learner_of, own, train
from tests.models.learners.linear_gaussian import LINEAR, errors_of, mixed_batch

NAMES = sorted(name for name, kind in LEARNERS.items() if issubclass(kind, SupportEncoder))
OBJECTIVES = ("ranking", "rating", "click")
SMALL: dict[str, dict[str, Any]] = {
    "relation": {"hidden": (7, 5)},
    "nlba": {"hidden": (7,)},
    "neural-process": {"hidden": 6, "pool": 3},
    "set-transformer": {"hidden": 8, "heads": 2, "layers": 2},
    "siamese": {"hidden": 6},
    "episodic-memory": {"slots": 3},
}
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@cache
def world(objective):
    if objective == "ranking":
        return ranking_world(entities=24, items=20, rows=10)
    return rating_world(entities=24, items=20, rows=10, objective=objective)


@dataclass(frozen=True)
class Setting:
    """A learner with parameters that are no special case, on supports of 0 to 6 rows."""

    learner: Any
    params: dict[str, torch.Tensor]
    body: dict[str, torch.Tensor]
    batch: Any

    @property
    def support(self):
        return self.batch.support

    @property
    def starts(self):
        """Vectors [T, V] of the entities before they have rows."""
        return self.learner.adapt(self.body, self.support.empty())["z"].numpy()

    def __getitem__(self, key):
        return self.params[key].numpy()

    @property
    def vectors(self):
        return self.body["vectors"].numpy()

    def rows(self, task):
        """Vectors [S, V] and residuals [S] of a task's real rows."""
        rows, objective = self.support.rows, self.learner.config.objective
        real = rows.mask[task] & (rows.item[task] >= FIRST) if objective == "ranking" else rows.mask[task]
        item = rows.item[task][real].numpy()
        vectors = self.vectors[item]
        if objective == "ranking":
            return vectors, np.ones(len(item))
        score = vectors @ self.starts[task] + self["bias"][item]
        return vectors, rows.label[task][real].numpy() - (1 / (1 + np.exp(-score)) if objective == "click" else score)

    def mean(self, task):
        """Mean of vectors times residuals."""
        vectors, residuals = self.rows(task)
        return residuals @ vectors / max(1, len(vectors))

    def adapted(self):
        return self.learner.adapt(self.body, self.support)

    def assert_vectors(self, expected):
        """`expected(task)` is the vector of a task after adapting; a task without rows has its start."""
        ours = self.adapted()["z"].numpy()
        for task in range(self.support.size):
            wanted = expected(task) if len(self.rows(task)[0]) else self.starts[task]
            np.testing.assert_allclose(ours[task], wanted, **CLOSE)
        assert np.abs(ours - self.starts).max() > 0.01, "a setting in which adapting does nothing shows nothing"

    def assert_scores(self, expected):
        """`expected(task)` [C - 2] are the scores of all items beyond the start's and the item biases."""
        ours = self.learner.rank(self.body, self.adapted()).numpy()[:, FIRST:]
        for task in range(self.support.size):
            base = self.vectors[FIRST:] @ self.starts[task] + self["bias"][FIRST:]
            np.testing.assert_allclose(ours[task] - base, expected(task), **CLOSE)
            assert not len(self.rows(task)[0]) or np.abs(ours[task] - base).max() > 0.005


@cache
def setting(name, objective="ranking", **config):
    data = world(objective)
    index = EventIndex.of(data)
    settings = {"dims": 5, "objective": objective, "scale": 0.5, **SMALL.get(name, {}), **config}
    learner = LEARNERS[name](LEARNERS[name].Config(**settings))
    entities = np.arange(20)
    params = own(learner.init(data, entities, generator(1)))
    draws = generator(7)
    for key in sorted(params):
        if key.startswith(("rate.", "log_")) or key in ("bias", "start"):
            params[key] = params[key] + 0.4 * torch.randn(params[key].shape, generator=draws)
        elif key.endswith(".bias"):
            params[key] = 0.3 * torch.randn(params[key].shape, generator=draws)
    batch = episodes(data, index, entities[:14])
    unknown = batch.support.rows.item.clone()
    unknown[-1, 0] = 1  # an item that nobody knows: no row of a ranking, a row with a label otherwise
    batch = replace(batch, support=replace(batch.support, rows=replace(batch.support.rows, item=unknown)))
    return Setting(learner, params, learner.body(params), batch)


def test_there_are_eleven():
    assert len(NAMES) == 11


CLOSE_TO_BAYES = {
    "bayesian-head": (40, 2e-2, {}, 1.02, 0.01),
    "ridge-head": (40, 3e-2, {"scale": 0.5}, 1.02, 0.01),
    "neural-process": (25, 1e-2, {"hidden": 32}, 2.2, 0.4),
    "set-transformer": (25, 1e-2, {"hidden": 16}, 2.2, 0.4),
    "lwa": (25, 2e-2, {}, 2.5, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSE_TO_BAYES)
def test_comes_close_to_the_best_predictor_of_a_linear_gaussian_world(name):
    """Squared error over that of the Bayes-optimal predictor, after 1 to 10 rows, and the share of their worth that
    is lost.

    A full Gaussian prior is the world's own form; ridge's has to be reached by the map of the items, and by the
    precision of the level, since entities of this world have none of their own.
    """
    epochs, rate, config, ratio, lost = CLOSE_TO_BAYES[name]
    linear = linear_gaussian_world(entities=1000)
    learner = learner_of(name, {k: v for k, v in LINEAR.items() if k not in ("rate", "item_bias")} | config)
    params, index, split, _ = train(learner, linear.data, epochs=epochs, tasks=64, rate=rate, max_shots=10, empty=0.1)
    best, worst, ours, _ = errors_of(linear, learner, params, mixed_batch(linear, index, split.test, 7))
    print(f"{name}: Bayes {best:.3f}, ours {ours:.3f}, over it {ours / best:.3f}, prior {worst:.3f}")
    assert best < ours < ratio * best and ours - best < lost * (worst - best)


# The common part


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_without_rows_the_prior_answers(name, objective):
    one = setting(name, objective)
    start = one.params["start"] + sum(embed_fields(one.params, "entity", one.support.features))
    state = one.learner.adapt(one.body, one.support.empty())
    torch.testing.assert_close(state["z"], start)
    expected = start @ one.body["vectors"].T + one.params["bias"]
    torch.testing.assert_close(one.learner.rank(one.body, state), expected)
    # Tasks without rows in a batch in which others have some, and rows that are all unknown.
    adapted = one.adapted()
    none = ~one.support.rows.mask.any(1)
    assert none.any() and not none.all()
    torch.testing.assert_close(one.learner.rank(one.body, adapted)[none], expected[none])
    if objective == "ranking":
        blank = replace(one.support, rows=replace(one.support.rows, item=torch.ones_like(one.support.rows.item)))
        torch.testing.assert_close(one.learner.rank(one.body, one.learner.adapt(one.body, blank)), expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_vectors_are_of_ids_and_features_and_end_in_one_where_labels_are_predicted(objective):
    one = setting("lwa", objective)
    catalogue = {k.removeprefix("catalogue."): v for k, v in one.params.items() if k.startswith("catalogue.")}
    assert set(catalogue) == {"genres", "length"}
    expected = one.params["item"] + sum(embed_fields(one.params, "items", catalogue))
    torch.testing.assert_close(one.body["vectors"][:, :5], expected)
    assert one.vectors.shape[1] == (5 if objective == "ranking" else 6)
    assert objective == "ranking" or (one.vectors[:, 5] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_logarithms_and_levels_do_not_decay_and_all_else_does(name):
    for objective in OBJECTIVES:
        one = setting(name, objective, decay=0.7)
        groups = {k: one.learner.param_group(k) for k in one.params if not one.learner.is_frozen(k)}
        kept = {k for k, group in groups.items() if group.decay == 0}
        assert kept == {k for k in groups if k.startswith(("rate.", "log_")) or k in ("bias", "start")}
        assert any(k.startswith("rate.") for k in kept)
        assert {group.decay for k, group in groups.items() if k not in kept} == {0.7}
        assert groups["bias"].rate == 0.1 and groups["item"].rate == 1.0
    frozen = {k for k in one.params if one.learner.is_frozen(k)}
    assert frozen == {k for k in one.params if k.startswith("catalogue.") or k.endswith(".knots")}


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_meta_loss_weighs_tasks_by_their_query_and_leaves_out_what_was_met(weight):
    one = setting("lwa", dropout=0.0, size_weight=weight)
    loss, figures = one.learner.meta_loss(one.params, one.batch, None, generator())
    state, query = one.adapted(), one.batch.query
    ranked, z = one.learner.rank(one.body, state).double().numpy(), state["z"].numpy()
    losses, weights = [], []
    for task in range(one.support.size):
        seen = set(one.support.seen_items[task].tolist())
        allowed = [i for i in range(FIRST, ranked.shape[1]) if i not in seen]
        items = [i for i in query.item[task][query.mask[task]].tolist() if i in allowed]
        log_sum = np.log(np.exp(ranked[task][allowed]).sum())
        losses.append(np.mean(log_sum - ranked[task][items]))
        weights.append(float(query.mask[task].sum()) ** weight)
    assert len(set(weights)) > 1 or weight == 0
    assert float(loss) == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    assert float(figures["length"]) == pytest.approx(np.linalg.norm(z, axis=1).mean(), rel=1e-4)


@pytest.mark.parametrize("objective", ["rating", "click"])
def test_losses_of_labels_are_those_of_the_rows(objective):
    one = setting("lwa", objective)
    state, rows = one.adapted(), one.support.rows
    score, label = one.learner.score(one.body, state, rows).double().numpy(), rows.label.numpy()
    error = (score - label) ** 2 if objective == "rating" else np.log1p(np.exp(score)) - label * score
    mask = rows.mask.numpy()
    expected = (error * mask).sum(1) / np.maximum(1, mask.sum(1))
    np.testing.assert_allclose(one.learner.support_loss(one.body, state, one.support), expected, **CLOSE)


def test_dropout_is_of_training_only_and_of_item_vectors():
    one, none = setting("lwa", dropout=0.9), setting("lwa", dropout=0.0)
    torch.testing.assert_close(one.learner.rank(one.body, one.adapted()), none.learner.rank(none.body, none.adapted()))
    losses = [s.learner.meta_loss(s.params, s.batch, None, generator(5))[0] for s in (one, none)]
    assert abs(float(losses[0] - losses[1])) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_another_objective_than_the_datas_is_refused(name):
    learner = LEARNERS[name](LEARNERS[name].Config(objective="rating"))
    with pytest.raises(ConfigError, match="is for objective 'rating', but 'ranking-world' has 'ranking'"):
        learner.init(world("ranking"), np.arange(20), generator())
    with pytest.raises(ValidationError, match="objective"):
        LEARNERS[name].Config(objective="choice")


# Each method


@pytest.mark.parametrize("prior", ["isotropic", "full"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_ridge_head_is_the_closed_form(objective, prior):
    one = setting("ridge-head", objective, prior=prior)
    size = one.vectors.shape[1]
    diagonal = np.full(size, one["log_precision"])
    if prior == "isotropic" and objective != "ranking":
        assert abs(one["log_level_precision"] - one["log_precision"]) > 0.1, "equal ones show nothing"
        diagonal[-1] = one["log_level_precision"]
    precision = np.diag(np.exp(diagonal))
    if prior == "full":
        precision = precision + one["precision"] @ one["precision"].T
    if objective == "ranking":  # every item is a weak zero
        items = one.vectors[FIRST:]
        precision = precision + np.exp(one["log_zeros"]) * items.T @ items / len(items)
    assert ("precision" in one.params) == (prior == "full") and ("log_zeros" in one.params) == (objective == "ranking")

    def expected(task):
        e, r = one.rows(task)
        return one.starts[task] + np.exp(one["rate.head"]) * np.linalg.solve(precision + e.T @ e, e.T @ r)

    one.assert_vectors(expected)


def test_a_ridge_head_that_an_earlier_version_trained_has_one_precision_for_all():
    one = setting("ridge-head", "rating")
    earlier = {k: v for k, v in one.params.items() if k != "log_level_precision"}
    assert len(earlier) == len(one.params) - 1
    expected = (one.params["log_precision"].exp() + linear_head.JITTER) * torch.eye(6)
    torch.testing.assert_close(one.learner.body(earlier)["prior"], expected)


@pytest.mark.parametrize("objective", ["rating", "click"])
def test_the_bayesian_head_is_the_posterior_mean_of_a_full_gaussian_prior(objective):
    """In the dual form: the prior's covariance K, conditioned on rows with noise of variance 1."""
    one = setting("bayesian-head", objective)
    size = one.vectors.shape[1]
    precision = np.exp(one["log_precision"]) * np.eye(size) + one["precision"] @ one["precision"].T
    covariance = np.linalg.inv(precision)

    def expected(task):
        e, r = one.rows(task)
        gain = covariance @ e.T @ np.linalg.inv(e @ covariance @ e.T + np.eye(len(e)))
        return one.starts[task] + np.exp(one["rate.head"]) * gain @ r

    one.assert_vectors(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prototypes_score_by_the_distance_to_the_mean(objective):
    one = setting("prototypical", objective)
    scale, items = np.exp(one["rate.prototype"]), one.vectors[FIRST:]

    def expected(task):
        e, _ = one.rows(task)
        if not len(e):
            return np.zeros(len(items))
        mean, level = one.mean(task)[:5], (one.mean(task)[5:] * scale).sum()
        distance = ((items[:, :5] - mean) ** 2).sum(1)
        return level - scale * (distance - mean @ mean) / 2

    one.assert_scores(expected)


@pytest.mark.parametrize("floats", [matching.SCORE_FLOATS, 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_matching_attends_to_the_rows_by_cosine(objective, floats, monkeypatch):
    monkeypatch.setattr(matching, "SCORE_FLOATS", floats)
    one = setting("matching", objective)

    def normalized(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    queries = normalized(one.vectors[FIRST:] @ one["query_map"])

    def expected(task):
        e, r = one.rows(task)
        if not len(e):
            return np.zeros(len(queries))
        kernel = np.exp(np.exp(one["log_sharpness"]) * queries @ normalized(e @ one["key_map"]).T)
        if objective == "ranking":
            return np.exp(one["rate.match"]) * np.log(kernel.mean(1))
        return np.exp(one["rate.match"]) * kernel @ r / kernel.sum(1)

    one.assert_scores(expected)


@pytest.mark.parametrize("floats", [siamese.SCORE_FLOATS, 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twins_are_compared_with_every_row(objective, floats, monkeypatch):
    monkeypatch.setattr(siamese, "SCORE_FLOATS", floats)
    one = setting("siamese", objective)

    def twins(e):
        mapped = e @ one["twin"]
        return mapped / (1 + np.abs(mapped))

    def expected(task):
        e, r = one.rows(task)
        apart = np.abs(twins(one.vectors[FIRST:])[:, None] - twins(e)[None]) @ np.exp(one["log_distance"])
        same = 1 / (1 + np.exp(apart - one["same"]))
        return np.exp(one["rate.pairs"]) * same @ r / max(1, len(r))

    one.assert_scores(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_memory_is_written_where_it_was_used_least_recently(objective):
    """Of three slots, so that supports of up to six rows overwrite what was written first."""
    one = setting("episodic-memory", objective)
    sharp, gate = np.exp(one["log_sharpness"]), 1 / (1 + np.exp(-one["rate.write"]))

    def normalized(x):
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)

    def attention(query, key, mass):
        kernel = np.where(mass > 0, np.exp(sharp * query @ normalized(key).T), 0)
        return kernel / max(kernel.sum(), 1e-12)

    def expected(task):
        e, r = one.rows(task)
        key, value, mass, usage, read = np.zeros((3, e.shape[1])), *np.zeros((4, 3))
        for k, label in zip(normalized(e @ one["key_map"]), r, strict=True):
            least = np.eye(3)[usage.argmin()]
            reads = attention(k, key, mass)
            write = gate * read + (1 - gate) * least if mass.any() else least
            key = key * (1 - least)[:, None] + np.outer(write, k)
            value, mass = value * (1 - least) + write * label, mass * (1 - least) + write
            usage, read = 0.95 * usage + reads + write, reads
        if not len(e):
            return np.zeros(one.vectors.shape[0] - FIRST)
        kernel = mass * np.exp(sharp * normalized(one.vectors[FIRST:] @ one["query_map"]) @ normalized(key).T)
        if objective == "ranking":
            return np.exp(one["rate.match"]) * np.log(kernel.sum(1) / mass.sum())
        return np.exp(one["rate.match"]) * kernel @ (value / np.maximum(mass, 1e-12)) / kernel.sum(1)

    one.assert_scores(expected)


def compared(one, vectors, mean, layers):
    """The perceptron of the relation network on vectors [N, V] beside a task's mean [V]."""
    x = vectors @ one["compare.0.weight"] + one["compare.0.bias"] + mean @ one["map"]
    for i in range(1, layers):
        x = np.maximum(x, 0) @ one[f"compare.{i}.weight"] + one[f"compare.{i}.bias"]
    return (np.maximum(x, 0) @ one[f"compare.{layers}.weight"])[:, 0]


@pytest.mark.parametrize("floats", [relation.SCORE_FLOATS, 1])
@pytest.mark.parametrize(("name", "layers"), [("relation", 2), ("nlba", 1)])
@pytest.mark.parametrize("objective", ["ranking", "rating"])
def test_relation_and_bias_adaptation_add_what_a_perceptron_says(objective, name, layers, floats, monkeypatch):
    monkeypatch.setattr(relation, "SCORE_FLOATS", floats)
    one = setting(name, objective)
    items, zero = one.vectors[FIRST:], np.zeros(one.vectors.shape[1])

    def expected(task):
        mean = one.mean(task)
        change = compared(one, items, mean, layers) - compared(one, items, zero, layers)
        return np.exp(one["rate.mean"]) * items @ mean + change

    one.assert_scores(expected)
    one.assert_vectors(lambda task: one.starts[task] + np.exp(one["rate.mean"]) * one.mean(task))
    assert f"compare.{layers}.bias" not in one.params


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_linear_weight_adaptation_maps_the_mean(objective):
    one = setting("lwa", objective)
    one.assert_vectors(lambda task: one.starts[task] + np.exp(one["rate.mean"]) * one.mean(task) @ one["map"])


@pytest.mark.parametrize("objective", ["ranking", "click"])
def test_the_neural_process_decodes_the_mean_of_its_encoded_rows_as_the_pool_modulates_it(objective):
    one = setting("neural-process", objective)
    length = one.learner.config.scale * np.sqrt(one.vectors.shape[1])

    def expected(task):
        e, r = one.rows(task)
        x = np.column_stack([e / length, r]) @ one["encoder.0.weight"] + one["encoder.0.bias"]
        h = (np.maximum(x, 0) @ one["encoder.1.weight"] + one["encoder.1.bias"]).mean(0)
        attention = np.exp(h @ one["pool.query"])
        c = attention / attention.sum() @ one["pool.value"]
        decoded = (1 + c @ one["modulation.scale"]) * (h @ one["decoder"]) + c @ one["modulation.shift"]
        return one.starts[task] + np.exp(one["rate.mean"]) * one.mean(task) + decoded

    one.assert_vectors(expected)


def transformed(one, start, e, r):
    """What the entity's token ends as, normalised."""
    config = one.learner.config
    length, width = config.scale * np.sqrt(e.shape[1]), config.hidden // config.heads

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = np.vstack(
        [start / length @ one["embed.entity"] + one["token"], np.column_stack([e / length, r]) @ one["embed.row"]]
    )
    for i in range(config.layers):
        parts = norm(x) @ one[f"layer.{i}.attend"]
        heads = []
        for h in range(config.heads):
            query, key, value = (parts[:, j * config.hidden + h * width :][:, :width] for j in range(3))
            weight = np.exp(query @ key.T / np.sqrt(width))
            heads.append(weight / weight.sum(1, keepdims=True) @ value)
        x = x + np.hstack(heads) @ one[f"layer.{i}.merge"]
        x = x + np.maximum(norm(x) @ one[f"layer.{i}.up"], 0) @ one[f"layer.{i}.down"]
    return norm(x[0])


@pytest.mark.parametrize("objective", ["ranking", "rating"])
def test_the_set_transformer_lets_rows_and_entity_attend_to_one_another(objective):
    one = setting("set-transformer", objective)

    def expected(task):
        change = transformed(one, one.starts[task], *one.rows(task)) @ one["output"]
        return one.starts[task] + np.exp(one["rate.mean"]) * one.mean(task) + change

    one.assert_vectors(expected)


def test_the_set_transformer_ignores_the_order_of_the_support_but_not_what_rows_stand_together():
    one = setting("set-transformer")
    rows = one.support.rows
    turned = replace(one.support, rows=rows.map(lambda t: t.flip(1)))
    z = one.adapted()["z"]
    torch.testing.assert_close(one.learner.adapt(one.body, turned)["z"], z)
    # A mean of rows alone would make the vector of a union the mean of the vectors of its halves.
    task = torch.tensor([int(rows.mask.sum(1).argmax())])
    whole = one.support.of(task)
    count = int(whole.rows.mask.sum())
    halves = [replace(whole, rows=whole.rows.map(lambda t, i=i: t[:, i : i + 1])) for i in range(count)]
    apart = torch.stack([one.learner.adapt(one.body, half)["z"] for half in halves]).mean(0)
    assert float((apart - z[task]).abs().max()) > 1e-4


def test_wrong_shapes_are_refused():
    with pytest.raises(ValidationError, match=r"heads \(3\) must divide hidden \(8\)"):
        LEARNERS["set-transformer"].Config(hidden=8, heads=3)
    with pytest.raises(ValidationError, match="hidden"):
        LEARNERS["nlba"].Config(hidden=(4, 4))
    with pytest.raises(ValidationError, match="hidden"):
        LEARNERS["relation"].Config(hidden=())
