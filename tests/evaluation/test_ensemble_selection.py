"""Choice of an ensemble's members and weights: the good are found, the useless go, luck is not believed."""

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, Support, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.evaluation.baseline_tuning import fit_tuned
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.ensemble import fit_ensemble
from recsys_meta.evaluation.ensemble.greedy_selection import prune_members, restrict_weights, select_weights
from recsys_meta.evaluation.ensemble.member_predictions import BaselinePredictions
from recsys_meta.evaluation.ensemble.stacking import RowScores, fit_stacking, prune_stacking
from recsys_meta.metrics.ranking_metrics import ndcg
from recsys_meta.models.functional.candidate_scores import NEAREST_TOP, candidate_scores, concatenate_candidates
from recsys_meta.models.functional.score_forms import standardize, top_heavy
from tests.models.baselines.cases import rows, simulated_dataset

SHOTS = (0, 1, 3)


def batch_of(support, query):
    return TaskBatch(torch.arange(len(query)), Support({}, rows(support)), rows(query))


def worlds(entities=120, items=80, seed=0, noise=(0.5, 0.5, 50.0)):
    """Scores of members that see the truth through noise of their own, and the query drawn from the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(entities, items + FIRST, generator=generator)
    query = [(truth[t, FIRST:].topk(8).indices + FIRST).tolist() for t in range(entities)]
    members = [truth + n * torch.randn(truth.shape, generator=generator) for n in noise]
    return candidate_scores(members, batch_of([[] for _ in query], query))


def test_candidates_have_the_ndcg_of_the_whole_catalogue():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(7, 300, generator=generator)
    members = [truth + torch.randn(truth.shape, generator=generator) / 3 for _ in range(2)]
    query = [[2 + t, 40 + t, 41 + t] for t in range(6)] + [[]]
    support = [[5], [], [6, 7], [], [], [40], []]
    batch = batch_of(support, query)
    scores = candidate_scores(members, batch)
    assert scores.entity.tolist() == list(range(6)), "an entity without a query is left out"
    assert scores.forms.shape[2] <= 2 * NEAREST_TOP
    weights = torch.tensor([0.4, 0.2, 0.0, 0.7])
    z = [standardize(m) for m in members]
    total = 0.4 * z[0] + 0.2 * z[1] + 0.7 * top_heavy(z[1])
    relevant = torch.zeros(7, 300, dtype=torch.bool)
    candidates = torch.ones_like(relevant)
    for t in range(7):
        relevant[t, query[t]] = True
        candidates[t, support[t]] = False
    candidates[:, :FIRST] = False
    exact = ndcg(total, relevant, candidates, depth=50)[:6]
    assert (scores.ndcg(weights) - exact).abs().max() < 0.02, "only what no member has near its top is missing"


def test_batches_of_different_width_are_put_together():
    small, large = worlds(entities=5, items=20), worlds(entities=6, items=80, seed=3)
    both = concatenate_candidates([small, large])
    weights = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(both.ndcg(weights), torch.cat([small.ndcg(weights), large.ndcg(weights)]))


def test_what_adds_to_one_another_is_weighed_and_noise_is_not():
    scores = {1: worlds(seed=1), 3: worlds(seed=2)}
    weights = select_weights(scores, 3, seed=0)
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    share = weights.reshape(2, 2, 3).sum(1)
    assert (share[:, :2] > 0.2).all() and (share[:, 2] < 0.1).all(), share
    alone = torch.eye(6)[0]
    for i, k in enumerate(scores):
        assert scores[k].ndcg(weights[i]).mean() > scores[k].ndcg(alone).mean() + 0.02
    assert torch.equal(weights, select_weights(scores, 3, seed=0)), "deterministic"


def test_members_that_add_nothing_go_and_those_that_do_stay():
    scores = {1: worlds(seed=1, noise=(0.5, 0.5, 50.0, 60.0)), 3: worlds(seed=2, noise=(0.5, 0.5, 50.0, 60.0))}
    weights = torch.full((2, 8), 1 / 8)
    weights[:, [2, 3, 6, 7]] = 0.005
    assert prune_members(scores, weights, 4) == [0, 1]


def test_weights_of_removed_members_go_to_the_others():
    weights = torch.tensor([[0.5, 0.1, 0.2, 0.2], [0.0, 0.6, 0.0, 0.4]])
    rest = restrict_weights(weights, [0], 2)
    torch.testing.assert_close(rest, torch.tensor([[0.5 / 0.7, 0, 0.2 / 0.7, 0], [0.5, 0, 0.5, 0]]))


def row_scores(click, seed=0, entities=200, rows_each=20, noise=(0.3, 0.3, 5.0)):
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=entities * rows_each)
    score = np.stack([truth + n * generator.normal(size=len(truth)) for n in noise], 1)
    label = (generator.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(float) if click else truth + 3
    entity = np.repeat(np.arange(entities), rows_each)
    return RowScores(score, label, entity, np.ones(len(truth)), click)


@pytest.mark.parametrize("click", [True, False])
def test_stacking_finds_the_least_loss_with_weights_that_are_not_negative(click):
    scores = {0: row_scores(click), 5: row_scores(click, seed=1)}
    fitted = fit_stacking(scores)
    assert (fitted.weights >= 0).all()
    for i, k in enumerate(scores):
        best = scores[k].losses(scores[k].score @ fitted.weights[i] + fitted.bias[i]).mean()
        for m in range(3):
            single = scores[k].score[:, m] + (0 if click else 3)
            assert best < scores[k].losses(single).mean()
    assert fitted.weights[:, 2].max() < 0.05
    assert prune_stacking(scores, fitted) == [0, 1]


@pytest.mark.parametrize("click", [True, False])
def test_stacking_arrives_at_the_same_minimum_from_another_start(click):
    scores = {5: row_scores(click)}
    expected, other = fit_stacking(scores), fit_stacking({5: row_scores(click, seed=1)}, [0, 2])
    fitted = fit_stacking(scores, start=other)
    np.testing.assert_allclose(fitted.weights, expected.weights, atol=2e-3)
    np.testing.assert_allclose(fitted.bias, expected.bias, atol=5e-3)


def test_a_sample_of_rows_is_bounded_and_keeps_rows_whole():
    scores = row_scores(True)
    part = scores.sample(500, 3)
    assert part.score.shape == (500, 3)
    assert len(np.unique(part.entity)) > 150
    position = [np.flatnonzero((scores.score == row).all(1)) for row in part.score]
    assert all(len(p) == 1 for p in position)
    rows_of_all = np.concatenate(position)
    np.testing.assert_array_equal(scores.label[rows_of_all], part.label)
    np.testing.assert_array_equal(scores.entity[rows_of_all], part.entity)
    np.testing.assert_array_equal(scores.sample(500, 3).score, part.score)
    assert scores.sample(len(scores.label), 0) is scores


def test_few_entities_leave_stacking_near_equal_weights():
    many, few = row_scores(False, entities=400), row_scores(False, entities=3, rows_each=2, seed=5)
    distance = [np.abs(fit_stacking({1: s}).weights - 1 / 3).max() for s in (many, few)]
    assert distance[0] > 0.1
    assert distance[1] < distance[0]


@pytest.fixture(scope="module")
def setting():
    data = simulated_dataset(entities=240, items=40)
    index = EventIndex.of(data)
    return data, index, split_by_seed(index.entities_with(2), 0, (0.5, 0.25))


def test_an_entity_is_predicted_by_the_setting_that_was_chosen_without_it(setting):
    data, index, split = setting
    tuned = fit_tuned("itemknn", data, index, split, shots=SHOTS)
    first, second = tuned.fold_predictors
    settings = [{**s, "popularity": 77.0} for s in second.settings]
    changed = type(second)(settings=settings, shots=second.shots, choice=second.choice)
    other = type(tuned)(tuned.predictor, tuned.report, (first, changed), tuned.fits, tuned.entities)
    batch = fit_batch(data, index, tuned.entities, 3)
    same = BaselinePredictions(tuned, True).predict(batch, 3)
    moved = BaselinePredictions(other, True).predict(batch, 3)
    differs = (same != moved).any(1).numpy()
    fold = np.searchsorted(tuned.entities, batch.entity.numpy()) % 2
    assert differs[fold == 1].any() and not differs[fold == 0].any()


def fit_batch(data, index, entities, shots):
    from recsys_meta.episodes.event_index import order_rows
    from recsys_meta.evaluation.cold_start import episodes_at

    ordered = order_rows(index, data.schema.order, 0)
    return episodes_at(data, ordered, entities[ordered.has_support(entities, shots, 1, 0)], shots)


def test_the_ensemble_is_as_good_as_its_best_member_on_new_entities(setting):
    data, index, split = setting
    names = ("popularity", "itemknn", "naive-bayes", "content")
    tuned = {n: fit_tuned(n, data, index, split, shots=SHOTS) for n in names}
    lead = tuned.pop("popularity")
    fitted = fit_ensemble(lead.predictor, lead.params, tuned, data, index, split.valid, shots=SHOTS, order="random")
    ours = cold_start(fitted.predictor, fitted.params, data, index, split.test, shots=SHOTS)
    best = max(
        cold_start(t.predictor, t.params, data, index, split.test, shots=SHOTS).mean("ndcg@10") for t in tuned.values()
    )
    assert ours.mean("ndcg@10") > best - 0.02
    assert [s.name for s in fitted.shares] == list(names)
    for k in SHOTS:
        assert sum(s.shares[k] for s in fitted.shares) == pytest.approx(1, abs=1e-4)
    used = sum(any(s.shares.values()) for s in fitted.shares)
    assert used == len(fitted.predictor.members), "a removed member is not in the ensemble"


def test_without_validation_entities_it_says_so(setting):
    data, index, split = setting
    tuned = fit_tuned("popularity", data, index, split, shots=SHOTS)
    with pytest.raises(ConfigError, match="no meta-validation entity has enough rows"):
        fit_ensemble(tuned.predictor, tuned.params, {}, data, index, split.valid[:0], shots=SHOTS)
