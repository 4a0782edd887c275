"""The oracle and the Bayes-optimal prediction are what bounds should be: nothing that knows less does better."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST
from recsys_meta.data import prepare, simulate_ads, simulate_users
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import cold_start, episodes_at
from recsys_meta.evaluation.truth_predictors import (
    BayesConfig,
    BayesRankingPredictor,
    _expected_gain,
    truth_bounds,
    with_tastes,
)
from recsys_meta.metrics.pooled_metrics import compute_metric
from recsys_meta.models.baselines import BASELINES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    """A small world of choices: data, truth and the two bounds."""
    dataset = simulate_users(users=300, items=80, events=7000, seed=4)
    data = prepare(dataset.tables, tmp_path_factory.mktemp("choices") / "out")
    return data, dataset.truth, truth_bounds(data, dataset.truth)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    dataset = simulate_ads(ads=120, users=150, events=8000, seed=4)
    data = prepare(dataset.tables, tmp_path_factory.mktemp("clicks") / "out")
    return data, dataset.truth, truth_bounds(data, dataset.truth)


def scaled(bound, factor):
    """The same bound with a prior whose variance is wrong by a factor."""
    std = bound.params["std"] * torch.where(bound.params["is_uniform"], 1.0, factor**0.5)
    return replace(bound, params={**bound.params, "std": std})


def curve(bound, shots, **more):
    data = bound.data
    entities = np.arange(data.events.entity_count)
    return cold_start(bound.predictor, bound.params, data, EventIndex.of(data), entities, shots=shots, **more)


def next_log_probability(bound, shots):
    """Log-probability [E] that a Bayes bound gives the row after the support, over the items that are left."""
    data, index = bound.data, EventIndex.of(bound.data)
    entities = np.flatnonzero(data.events.counts > shots)
    batch = episodes_at(data, index, entities, shots)
    body, design, offset = bound.params, bound.params["design"], bound.params["offset"]
    state = bound.predictor.adapt(body, batch.support)
    is_left = bound.predictor.likelihood(body, batch.support.rows).is_left
    utility = (state["taste"] @ design.T + offset).masked_fill(~is_left[:, None], -torch.inf)
    item = body["item"][batch.query.item[:, :1]]
    chance = utility.log_softmax(-1).gather(2, item[:, None].expand(-1, utility.shape[1], -1))[..., 0]
    return (chance + state["log_weight"]).logsumexp(1).numpy()


@pytest.mark.parametrize("shots", [0, 3, 8])
def test_no_other_prior_predicts_the_next_item_better(choices, shots):
    bayes = choices[2][1]
    ours = next_log_probability(bayes, shots)
    for factor in (0.5, 2.0):
        gain = ours - next_log_probability(scaled(bayes, factor), shots)
        assert gain.mean() > -2 * gain.std() / np.sqrt(len(gain)), factor
    for factor in (0.1, 10.0) if shots else ():  # the first item hardly depends on how far tastes differ
        gain = ours - next_log_probability(scaled(bayes, factor), shots)
        assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain)), "the test sees a prior that is far off"


def test_features_and_support_are_both_used(choices):
    data, truth, (_, bayes) = choices
    blind = replace(bayes, data=with_tastes(data, np.zeros((len(truth.taste), truth.taste.shape[1] + 1))))
    assert next_log_probability(bayes, 0).mean() > next_log_probability(blind, 0).mean() + 0.1
    at = {k: next_log_probability(bayes, k)[data.events.counts[data.events.counts > k] > 20] for k in (0, 20)}
    shuffled = replace(bayes, params={**bayes.params, "design": bayes.params["design"].flip(0)})
    assert at[20].mean() > next_log_probability(shuffled, 20).mean() + 0.3


def test_the_bounds_are_in_order(choices):
    _, _, (oracle, bayes) = choices
    shots = (0, 10)
    ours, above = curve(bayes, shots), curve(oracle, shots)
    popular = replace(bayes, params={**bayes.params, "design": torch.zeros_like(bayes.params["design"])})
    below = curve(popular, shots)
    for k in shots:
        assert above.against(ours, k, "ndcg@10").low > 0
        assert ours.against(below, k, "ndcg@10").low > 0
    for factor in (0.5, 2.0):
        assert ours.against(curve(scaled(bayes, factor), (10,)), 10, "ndcg@10").high > 0, factor
    gap = [np.nanmean(above.at(k, "ndcg@10") - ours.at(k, "ndcg@10")) for k in shots]
    assert gap[0] > gap[1], "the support tells who it is"


def test_with_a_long_support_it_is_the_oracle(tmp_path):
    dataset = simulate_users(users=40, items=800, events=8000, seed=2)
    data = prepare(dataset.tables, tmp_path / "out")
    oracle, bayes = truth_bounds(data, dataset.truth)
    index, entities = EventIndex.of(data), np.flatnonzero(data.events.counts > 320)
    assert len(entities) >= 5

    def agreement(shots):
        """Share of the ten best items of the oracle that are among those of the other, of the items left."""
        best = []
        for bound in (oracle, bayes):
            batch = episodes_at(bound.data, index, entities, shots)
            scores = bound.predictor.rank(bound.params, bound.predictor.adapt(bound.params, batch.support))
            scores = scores.scatter(1, batch.support.rows.item, -torch.inf)
            scores[:, :FIRST] = -torch.inf
            best.append(scores.topk(10).indices.numpy())
        return np.mean([np.isin(a, b).mean() for a, b in zip(*best, strict=True)])

    assert agreement(300) > 0.75 > 0.6 > agreement(3)


def test_gains_are_the_probabilities_of_being_chosen():
    rng = np.random.default_rng(0)
    utility = rng.normal(size=60)
    order = np.argsort(-utility - rng.gumbel(size=(20_000, 60)), 1)
    rows = torch.full((1, 3), 15)
    rate = torch.from_numpy(np.exp(utility - utility.max())).float()[None, None]
    gain = _expected_gain(rate, rows)[0, 0].numpy()
    share = np.bincount(order[:, :15].ravel(), minlength=60) / 20_000
    ideal = (1 / np.log2(np.arange(2, 12))).sum()
    assert np.abs(gain * ideal - share).max() < 0.03
    assert gain.sum() * ideal == pytest.approx(15, abs=0.1)


def test_support_items_and_reserved_ids_have_no_gain(choices):
    data, _, (_, bayes) = choices
    batch = episodes_at(bayes.data, EventIndex.of(data), np.arange(20), 5)
    state = bayes.predictor.adapt(bayes.params, batch.support)
    scores = bayes.predictor.rank(bayes.params, state)
    assert (scores.gather(1, batch.support.rows.item) == 0).all() and (scores[:, :FIRST] == 0).all()
    assert torch.equal(bayes.predictor.score(bayes.params, state, batch.query), scores.gather(1, batch.query.item))
    weight = state["log_weight"].exp()
    assert (1 / weight.square().sum(1)).min() > 0.3 * weight.shape[1], "enough samples count"


def test_more_samples_change_little(choices):
    _, _, (_, bayes) = choices
    many = replace(bayes, predictor=BayesRankingPredictor(BayesConfig(samples=1024)))
    difference = curve(many, (3,)).against(curve(bayes, (3,)), 3, "ndcg@10")
    assert abs(difference.difference) < 0.005


def test_clicks_are_bounded_too(clicks):
    _, _, (oracle, bayes) = clicks
    shots = (0, 20)

    def losses(bound):
        points = curve(bound, shots, lists=False).values
        return {k: (points[k]["logloss"], compute_metric("logloss", points[k]["logloss"])) for k in shots}

    ours, above = losses(bayes), losses(oracle)
    unaware = losses(replace(bayes, data=with_tastes(bayes.data, np.zeros((120, 9)))))
    for k in shots:
        assert above[k][1] < ours[k][1] < unaware[k][1] + (0 if k < 20 else 0.003)
        for factor in (0.1, 10.0):
            assert ours[k][1] < losses(scaled(bayes, factor))[k][1] + 1e-4, (k, factor)
        assert compute_metric("ece", ours[k][0]) < 0.02, "its probabilities are right"
    assert ours[20][1] - above[20][1] < 0.7 * (ours[0][1] - above[0][1])


def test_the_truth_is_refused_where_rows_are_not_those_of_the_world(choices, clicks):
    data, truth, _ = choices
    for change in ({"objective": "rating"}, {"positive": 4.0}):
        other = replace(data, schema=data.schema.model_copy(update=change))
        with pytest.raises(ConfigError, match="not of ratings or a part"):
            truth_bounds(other, truth)
    with pytest.raises(ConfigError, match="order time"):
        truth_bounds(data, truth, "random")
    with pytest.raises(ConfigError, match="another entity"):
        truth_bounds(data, simulate_users(users=20, items=80, events=500, seed=4).truth)


def test_nobody_is_offered_them_as_baselines(choices):
    assert not {bound.name for bound in choices[2]} & set(BASELINES)
    assert not any("taste" in name for name in choices[0].entities), "no learner is given what they are given"
