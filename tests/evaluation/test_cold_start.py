import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, cold_start, episodes_at
from recsys_meta.evaluation.evaluate_batch import EvalOptions, evaluate_batch, metric_names
from recsys_meta.metrics.ranking_metrics import RANKING, RATING
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import ByRow, data_of, same, tiny

SHOTS = (0, 1, 3, 5)


def world(entities=80, items=60, low=4, high=12, seed=0, time=False):
    """Entities with `low` to `high` distinct items."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(items)[: rng.integers(low, high + 1)] for _ in range(entities)]
    times = [np.arange(len(r)) for r in rows] if time else None
    data = data_of(rows, time=times)
    return data, EventIndex.of(data)


def oracle(data, index):
    table = torch.zeros(len(index.counts), data.catalogue)
    task, item, _ = index.of_entities(np.arange(len(index.counts)))
    table[task, item] = 1.0
    return ByRow(table)


def scores(data, seed=0):
    """Distinct scores of every entity and item, unrelated to the truth."""
    g = torch.Generator().manual_seed(seed)
    return ByRow(torch.randn(data.events.entity_count, data.catalogue, generator=g))


def curve(predictor, data, index, **more):
    return cold_start(predictor, {}, data, index, np.arange(data.events.entity_count), **{"shots": SHOTS, **more})


@pytest.mark.parametrize("time", [True, False])
def test_a_perfect_oracle_scores_one_everywhere(time):
    data, index = world(time=time)
    got = curve(oracle(data, index), data, index)
    for k in SHOTS:
        for metric in RANKING:
            values = got.values[k][metric]
            assert np.nanmin(values) > 1 - 1e-6 and np.nanmax(values) < 1 + 1e-6, (k, metric)


def test_a_perfect_oracle_of_ratings_has_no_error():
    rng = np.random.default_rng(0)
    rows = [rng.permutation(40)[:9] for _ in range(30)]
    data = data_of(rows, [rng.integers(1, 6, 9) for _ in range(30)], objective="rating", label_range=(1, 5))
    index = EventIndex.of(data)
    task, item, label = index.of_entities(np.arange(30))
    table = torch.zeros(30, data.catalogue)
    table[task, item] = label
    assert metric_names(data) == RATING
    got = curve(ByRow(table), data, index)
    worse = curve(ByRow(-table), data, index)
    for k in SHOTS:
        assert got.values[k]["rmse"].max() == got.values[k]["mae"].max() == 0
        assert got.values[k]["ndcg@5"].min() == pytest.approx(1.0, abs=1e-6)
        assert worse.values[k]["mae"].min() > 0.5 and worse.values[k]["ndcg@5"].mean() < 0.8


@pytest.mark.parametrize("k", [0, 5])
def test_chance_scores_its_expectation(k):
    """Recall@20 of n shown items is 20/n; at k shots the k support items are not shown."""
    data, index = world(entities=600, items=60, low=8, high=8)
    got = curve(scores(data), data, index, shots=(k,)).values[k]
    n, m = 60 - k, 8 - k
    gains = 1 / np.log2(np.arange(2, 12))
    assert got["recall@20"].mean() == pytest.approx(20 / n, abs=0.03)
    assert got["ndcg@10"].mean() == pytest.approx(gains.sum() * m / n / gains[:m].sum(), abs=0.025)


@dataclass
class Recorder:
    """A predictor that remembers the supports it was given."""

    inner: ByRow
    seen: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def adapt(self, body, support):
        self.seen.append(support)
        return self.inner.adapt(body, support)


def supports(recorder):
    return [(s.features["row"].tolist(), s.rows.item.tolist(), s.rows.mask.tolist()) for s in recorder.seen]


def test_every_method_meets_the_same_episodes_for_a_seed_and_others_for_another():
    data, index = world()
    met = []
    for predictor, seed in ((oracle(data, index), 5), (scores(data), 5), (scores(data), 6)):
        recorder = Recorder(predictor)
        curve(recorder, data, index, seed=seed)
        met.append(supports(recorder))
    assert met[0] == met[1] != met[2]


def test_supports_of_fewer_shots_are_the_beginnings_of_those_of_more():
    data, index = world()
    recorder = Recorder(scores(data))
    curve(recorder, data, index, chunk=10_000)
    by_entity = [{int(e): s.rows.item[t] for t, e in enumerate(s.features["row"])} for s in recorder.seen]
    for fewer, more in itertools.pairwise(by_entity):
        for e in more:
            assert torch.equal(more[e][: len(fewer[e])], fewer[e])


def test_by_time_the_support_is_the_earliest():
    data, index = world(time=True)
    batch = episodes_at(data, index, np.array([3, 1]), 2)
    for t, e in enumerate((3, 1)):
        rows = data.events.item[data.events.indptr[e] : data.events.indptr[e + 1]]
        assert batch.support.rows.item[t].tolist() == rows[:2].tolist()
        assert batch.query.item[t][batch.query.mask[t]].tolist() == rows[2:].tolist()


@pytest.mark.parametrize("least", [1, 3])
def test_newcomers_leave_a_point_as_min_query_says(least):
    data, index = world()
    counts = index.counts.numpy()
    for got in (curve(scores(data), data, index, min_query=least), curve(scores(data), *_with(data, index, least))):
        for k in SHOTS:
            for metric in RANKING:
                assert np.array_equal(~np.isnan(got.values[k][metric]), counts >= k + least)
            assert got.interval(k, "mrr").n == (counts >= k + least).sum()


def _with(data, index, least):
    changed = data.schema.model_copy(update={"min_query": least})
    return type(data)(changed, data.events, data.entities, data.items, data.vocab), index


def test_support_items_are_not_ranked_and_reserved_ids_never():
    """A predictor that puts the support and the reserved ids first loses nothing by it."""
    data, index = world(time=True)
    table = oracle(data, index).table.clone()
    table[:, :2] = 99
    batch = episodes_at(data, index, np.arange(80), 3)
    table.scatter_(1, batch.support.rows.item, 50.0)
    got = evaluate_batch(ByRow(table), {}, data, batch, torch.Generator())
    assert all(float(v.nan_to_num(1.0).min()) > 1 - 1e-6 for v in got.values())


def test_an_item_of_the_support_is_not_relevant_again():
    data = data_of([[4, 4, 4], [4, 4, 5]], time=[[0, 1, 2]] * 2)
    got = evaluate_batch(
        scores(data), {}, data, episodes_at(data, EventIndex.of(data), np.arange(2), 1), torch.Generator()
    )
    assert bool(got["mrr"][0].isnan()) and not bool(got["mrr"][1].isnan())


def test_only_shown_items_are_ranked():
    data, index = world()
    shown = torch.zeros(data.catalogue, dtype=torch.bool)
    shown[2:22] = True  # 20 items: Recall@20 is 1 for every predictor
    got = curve(scores(data), data, index, options=EvalOptions(shown)).values[0]
    assert np.nanmin(got["recall@20"]) == 1.0
    few = [e for e in range(80) if not shown[index.item[index.indptr[e] : index.indptr[e + 1]].long()].any()]
    assert np.isnan(got["recall@20"][few]).all()
    shown[:] = False
    assert np.isnan(curve(scores(data), data, index, options=EvalOptions(shown)).values[0]["mrr"]).all()


def test_the_size_of_chunks_and_the_order_of_entities_change_nothing():
    data, index = world()
    got = [curve(scores(data), data, index, chunk=c) for c in (1, 7, 1000)]
    mixed = cold_start(scores(data), {}, data, index, np.random.default_rng(0).permutation(80), shots=SHOTS)
    for other in (*got[1:], mixed):
        assert np.array_equal(other.entities, got[0].entities)
        for k in SHOTS:
            for metric in RANKING:
                np.testing.assert_array_equal(other.values[k][metric], got[0].values[k][metric])


def test_progress_is_told_to_the_end():
    data, index = world()
    told = []
    curve(scores(data), data, index, chunk=30, progress=lambda done, all_: told.append((done, all_)))
    assert told == [(30, 80), (60, 80), (80, 80)]


@pytest.mark.parametrize("shots", [(), (1, 1), (-1, 2)])
def test_wrong_shots_are_refused(shots):
    data, index = world()
    with pytest.raises(ConfigError, match="shots must be distinct"):
        curve(scores(data), data, index, shots=shots)


def test_a_query_of_no_row_is_refused():
    data, index = world()
    with pytest.raises(ConfigError, match="min_query must be at least 1"):
        curve(scores(data), data, index, min_query=0)


def test_the_unadapted_is_the_same_predictor_without_its_support():
    data = ranking_world(entities=60, items=30, rows=10)
    index, learner = EventIndex.of(data), tiny(rate=3.0)
    params = learner.init(data, np.arange(60), torch.Generator().manual_seed(0))
    batch = episodes_at(data, index, np.arange(20), 4)
    plain = UnadaptedPredictor(learner)
    body = plain.body(params)
    at_zero = learner.adapt(body, episodes_at(data, index, np.arange(20), 0).support)
    assert same(plain.adapt(body, batch.support), at_zero)
    assert not same(learner.adapt(body, batch.support), at_zero)
    assert plain.name == "maml-unadapted"
    curves = [cold_start(p, params, data, index, np.arange(60), shots=(0, 4), chunk=64) for p in (learner, plain)]
    np.testing.assert_array_equal(curves[0].values[0]["ndcg@10"], curves[1].values[0]["ndcg@10"])
    assert not np.array_equal(curves[0].values[4]["ndcg@10"], curves[1].values[4]["ndcg@10"])


def test_evaluating_changes_neither_parameters_nor_data():
    data = ranking_world(entities=60, items=30, rows=10)
    index, learner = EventIndex.of(data), tiny()
    params = learner.init(data, np.arange(60), torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in params.items()}
    rows = index.item.clone()
    cold_start(learner, params, data, index, np.arange(60), shots=(0, 3))
    assert same(params, before) and torch.equal(index.item, rows)
    assert not any(v.requires_grad for v in params.values())


def test_a_prediction_that_is_no_number_makes_the_metric_none(caplog):
    """The entity with it must not leave: its method would be evaluated on the entities it can predict."""
    rng = np.random.default_rng(0)
    items = [rng.permutation(40)[:9] for _ in range(30)]
    data = data_of(items, [rng.integers(1, 6, 9) for _ in range(30)], objective="rating", label_range=(1, 5))
    index = EventIndex.of(data)
    table = torch.full((30, data.catalogue), 3.0)
    good = curve(ByRow(table), data, index)
    assert not caplog.records and np.isfinite(good.mean("rmse"))
    table[4, :] = torch.nan
    got = curve(ByRow(table), data, index)
    assert "at 0 shots: 1 of its values" in caplog.text
    for k in SHOTS:
        assert np.isnan(got.interval(k, "rmse").value) and got.interval(k, "rmse").n == 30
        assert np.isnan(got.against(good, k, "mae").difference)
    assert np.isnan(got.mean("rmse"))


def test_a_click_that_is_not_predicted_makes_the_metrics_none(caplog):
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 12, 9) for _ in range(30)]
    data = data_of(items, [rng.integers(0, 2, 9) for _ in range(30)], objective="click")
    index = EventIndex.of(data)
    table = torch.zeros(30, data.catalogue)
    good = curve(ByRow(table), data, index)
    assert np.isfinite(good.mean("logloss"))
    table[4, 5] = torch.nan
    got = curve(ByRow(table), data, index)
    points = [k for k in SHOTS if np.isnan(got.interval(k, "logloss").value)]
    assert points and points == [k for k in SHOTS if np.isnan(got.interval(k, "auc").value)]
    assert f"at {points[0]} shots" in caplog.text and np.isnan(got.mean("logloss"))
    batch = episodes_at(data, index, np.array([4]), 0)
    loss = evaluate_batch(ByRow(table), {}, data, batch, torch.Generator())["logloss"]
    assert torch.isinf(loss[batch.query.mask]).sum() == (batch.query.item == 5).sum() > 0
