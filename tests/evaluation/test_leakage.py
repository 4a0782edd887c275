"""Leak canaries: what must not be known changes nothing, bit for bit (protocol L1 of docs/evaluation.md)."""

import numpy as np
import pytest
import torch

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.episodes.warm_cold_scenarios import warm_cold_grid
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, cold_start, episodes_at
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import data_of, recipe, same, tiny


@pytest.fixture(scope="module")
def world():
    return ranking_world(entities=40, items=20, rows=6)


@pytest.mark.parametrize("objective", ["ranking", "rating"])
def test_query_rows_change_no_state(objective):
    """Leak canary: other items and labels in the query, the same support: states are equal bit for bit."""
    rng = np.random.default_rng(0)
    item, label = rng.integers(0, 30, (40, 9)), rng.normal(size=(40, 9))
    other_item, other_label = item.copy(), label.copy()
    other_item[:, 4:], other_label[:, 4:] = rng.integers(0, 30, (40, 5)), rng.normal(size=(40, 5)) * 100
    item[:, -1] = other_item[:, -1] = 29  # one catalogue
    learner = tiny(objective=objective, rate=0.5)
    made = []
    for i, y in ((item, label), (other_item, other_label)):
        data = data_of(list(i), list(y), objective=objective, time=[np.arange(9)] * 40)
        made.append((data, EventIndex.of(data)))
    params = learner.init(made[0][0], np.arange(20), torch.Generator().manual_seed(0))
    states = [
        learner.adapt(learner.body(params), episodes_at(data, index, np.arange(20, 40), 4).support)
        for data, index in made
    ]
    assert same(*states)
    queries = [episodes_at(data, index, np.arange(20, 40), 4).query for data, index in made]
    assert not torch.equal(queries[0].item, queries[1].item), "the worlds do differ in the query"
    moved = learner.adapt(learner.body(params), episodes_at(*made[0], np.arange(20, 40), 3).support)
    assert not same(states[0], moved), "and the support does move the state"


def altered(data, entities):
    """The data set with other events (as many, of the same catalogue) for some entities."""
    rng = np.random.default_rng(9)
    item = np.array(data.events.item)
    for e in entities:
        own = slice(data.events.indptr[e], data.events.indptr[e + 1])
        item[own] = rng.permutation(np.arange(2, data.catalogue))[: own.stop - own.start]
    events = type(data.events)(data.events.indptr, item, data.events.label, data.events.time)
    return type(data)(data.schema, events, data.entities, data.items, data.vocab, data.digest)


def test_events_of_meta_test_entities_move_no_parameter(world):
    """Leak canary: their rows are altered, the weights are the same bit for bit; a training entity's do move them."""
    split = split_by_seed(np.arange(40), 0)
    ends = []
    for touched in ([], np.concatenate([split.test, split.valid]), split.train[:1]):
        data = altered(world, touched)
        run = start_training(tiny(negatives=8), recipe(), data, EventIndex.of(data), split.train, 0)
        list(fit(run, lambda _: 0.0))
        ends.append(run.best_params_or_last())
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_rows_held_out_of_the_index_move_no_parameter(world):
    """The four corners train on an index without held-out rows: these may not reach any statistic either."""
    split = split_by_seed(np.arange(40), 0)
    index = EventIndex.of(world)
    corners = warm_cold_grid(world, index, split, seed=0)
    new = corners.cells["new-new"].item_mask
    run = start_training(tiny(), recipe(), world, corners.training, split.train, 0)
    bias = run.params["bias"].detach()
    assert torch.equal(bias[new], bias[new][:1].expand(int(new.sum()))), "no popularity of items never trained on"
    kept = set(corners.training.of_entities(split.train)[1].tolist())
    assert len({round(float(bias[i]), 5) for i in kept}) > 1


@pytest.mark.slow
def test_shuffled_labels_fall_to_the_prior():
    """Leak canary: when items are dealt out anew, a support says nothing, and adapting gains nothing with it."""
    gains = []
    for shuffle in (False, True):
        data = ranking_world(entities=400, items=40, rows=8, features=False)
        if shuffle:
            data = _dealt(data)
        index = EventIndex.of(data)
        split = split_by_seed(np.arange(400), 0)
        made = recipe(epochs=30, tasks=70, max_shots=5, patience=99, schedule="cosine")
        learner = tiny(dims=8, dropout=0.1)
        run = start_training(learner, made, data, index, split.train, 0)
        list(fit(run, lambda _: 0.0))
        curves = [
            cold_start(p, run.best_params_or_last(), data, index, split.test, shots=(5,))
            for p in (learner, UnadaptedPredictor(learner))
        ]
        gains.append(curves[0].against(curves[1], 5, "ndcg@10"))
    assert gains[0].low > 0 and gains[0].p < 0.01
    assert gains[1].high < gains[0].low and gains[1].difference < 0.25 * gains[0].difference, gains


def _dealt(data):
    """Each entity gets items drawn by popularity alone."""
    rng = np.random.default_rng(3)
    count = np.bincount(data.events.item, minlength=data.catalogue)[2:]
    keys = np.log(np.maximum(count, 0.5)) + rng.gumbel(size=(data.events.entity_count, len(count)))
    item = np.argsort(-keys, 1)[:, :8]
    made = data_of(list(item))
    return type(data)(data.schema, made.events, data.entities, data.items, data.vocab, "dealt")


def test_training_by_time_takes_the_earliest_and_at_random_does_not(monkeypatch):
    data = data_of([list(range(8))] * 20, time=[list(range(8))] * 20)
    for exact in (True, False):
        schema = data.schema.model_copy(update={"exact_time": exact})
        own = type(data)(schema, data.events, data.entities, data.items, data.vocab, "x")
        met = []
        real = tiny().meta_loss
        monkeypatch.setattr(
            "recsys_meta.models.learners.maml.maml.Maml.meta_loss",
            lambda self, params, batch, *rest, real=real, met=met: (met.append(batch), real(params, batch, *rest))[1],
        )
        index = EventIndex.of(own)
        list(fit(start_training(tiny(), recipe(max_shots=6), own, index, np.arange(20), 0), lambda _: 0.0))
        monkeypatch.undo()
        early = [
            bool(b.support.rows.item[t][b.support.rows.mask[t]].max() < b.query.item[t][b.query.mask[t]].min())
            for b in met
            for t in range(len(b.entity))
            if b.support.rows.mask[t].any()
        ]
        assert len(early) > 20
        assert all(early) if exact else not all(early)
        for b in met:
            for t in range(len(b.entity)):
                own_rows = [r.item[t][r.mask[t]].tolist() for r in (b.support.rows, b.query)]
                assert not set(own_rows[0]) & set(own_rows[1]) and len(own_rows[0] + own_rows[1]) == 8
