"""Entities with catalogues of their own, from rows to measured choices."""

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, UNKNOWN
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_of
from recsys_meta.evaluation.cold_start import cold_start, episodes_at
from recsys_meta.evaluation.evaluate_batch import EvalOptions, evaluate_batch
from recsys_meta.metrics.pooled_metrics import compute_metric
from tests.fixtures.city_datasets import towns

DATA = towns()
INDEX = EventIndex.of(DATA)


class Last:
    """Believes that actors stay where they are; or, told the truth, knows where they go."""

    name = "last"

    def body(self, params):
        return params

    def adapt(self, body, support):
        return {"size": support.rows.counts}

    def choose(self, body, state, rows, candidates):
        return (candidates == rows.history[:, :, :1]).float()

    def score(self, body, state, rows):
        return self.choose(body, state, rows, rows.item[:, :, None])[:, :, 0]

    def rank(self, body, state):
        return torch.zeros(len(state["size"]), 14)

    def support_loss(self, body, state, support):
        return torch.zeros(support.size)


class Oracle(Last):
    """Knows where they go."""

    def choose(self, body, state, rows, candidates):
        return (candidates == rows.item[:, :, None]).float()


def test_local_ids_point_at_the_own_catalogue():
    batch = episodes_at(DATA, INDEX, np.array([1, 4]), 8)
    own = batch.support.catalogue
    for rows in (batch.support.rows, batch.query):
        raw = INDEX.item[rows.position].long()
        assert torch.equal(own.item.gather(1, rows.item)[rows.mask], raw[rows.mask])
    assert own.mask.sum(1).tolist() == [12, 12]
    assert not own.mask[:, :FIRST].any()
    assert torch.isfinite(own.features["lat"][own.mask]).all()


def test_history_is_local_and_newest_first():
    batch = episodes_at(DATA, INDEX, np.array([2]), 8)
    query, own = batch.query, batch.support.catalogue
    before = INDEX.previous[query.position[0]]
    there = before >= 0
    met = own.item[0][query.history[0, :, 0]]
    assert torch.equal(met[there], INDEX.item[before[there]].long())


def test_an_item_that_is_at_home_elsewhere_is_unknown():
    from dataclasses import replace

    item = INDEX.item.clone()
    item[INDEX.indptr[1]] = item[INDEX.indptr[5]]  # a place of another town
    batch = episodes_at(DATA, replace(INDEX, item=item), np.array([1]), 8)
    assert batch.support.rows.item[0, 0] == UNKNOWN


def test_context_travels_with_the_rows():
    support, query = INDEX.draw(torch.tensor([0, 3]), torch.tensor([5, 9]))
    for rows in (support, query):
        assert torch.equal(rows.context["hour"][rows.mask], INDEX.context["hour"][rows.position[rows.mask]].long())


def test_a_window_is_a_stretch_of_rows_as_they_come():
    g = torch.Generator().manual_seed(0)
    begins = set()
    for _ in range(10):
        support, query = INDEX.draw(torch.tensor([1]), torch.tensor([6]), generator=g, max_query=10, window=True)
        positions = torch.cat([support.position[0], query.position[0]]).tolist()
        assert positions == list(range(positions[0], positions[0] + 16))
        begins.add(positions[0])
    assert len(begins) > 5


@pytest.mark.parametrize("ask", [EvalOptions(), EvalOptions(negatives=5)])
def test_measured_choices(ask):
    batch = episodes_at(DATA, INDEX, np.array([0, 1]), 8, max_rows=100)
    g = torch.Generator().manual_seed(0)
    best = evaluate_batch(Oracle(), {}, DATA, batch, g, ask)
    assert float(best["mrr"].nanmean()) == 1.0
    stay = evaluate_batch(Last(), {}, DATA, batch, g, ask)
    stayed = (batch.query.history[:, :, 0] == batch.query.item)[batch.query.mask].float().mean()
    assert float((stay["mrr"] == 1).float()[batch.query.mask].mean()) >= float(stayed)


def test_negatives_are_others_of_the_same_catalogue():
    from recsys_meta.evaluation.evaluate_batch import _candidates

    there = torch.zeros(2, 10, dtype=torch.bool)
    there[0, 2:10], there[1, 2:5] = True, True
    item = torch.tensor([[3, 4], [2, 3]])
    candidates, own = _candidates(there, item, 4, torch.Generator().manual_seed(0))
    assert torch.equal(candidates[:, :, 0], item)
    assert not own.any()
    for row in candidates[0]:
        assert len(set(row.tolist())) == 5
    for row in candidates[1]:  # three places in all: two others, the rest is padding
        assert sorted(row.tolist())[:2] == [0, 0]


def test_the_curve_of_choices_and_of_new_ones_only():
    curve = cold_start(Last(), {}, DATA, INDEX, np.arange(3), shots=(0, 8), max_rows=200)
    all_rows, new = curve.values[8]["hit@10"], curve.values[8]["new_hit@10"]
    assert len(all_rows) == 600
    assert 0 < len(new) < len(all_rows)
    fresh = INDEX.is_first_occurrence
    assert len(new) == int(fresh[np.isin(INDEX.entity, np.arange(3))].sum()) or len(new) <= int(fresh.sum())
    assert compute_metric("macro_hit@10", all_rows) == pytest.approx(
        compute_metric("hit@10", all_rows)
    )  # 200 rows of each
    again = cold_start(Last(), {}, DATA, INDEX, np.arange(3), shots=(0, 8), max_rows=200)
    assert np.array_equal(again.values[8]["mrr"].value, curve.values[8]["mrr"].value)


def test_first_occurrence_looks_at_the_whole_past():
    seen = set()
    for entity, actor, item, first in zip(
        INDEX.entity.tolist(),
        INDEX.actor.tolist(),
        INDEX.item.tolist(),
        INDEX.is_first_occurrence.tolist(),
        strict=True,
    ):
        assert first == ((entity, actor, item) not in seen)
        seen.add((entity, actor, item))


def test_a_predictor_that_cannot_choose_is_refused_in_words():
    class Blind:
        name = "blind"

        def adapt(self, body, support):
            return {}

    batch = episodes_at(DATA, INDEX, np.array([0]), 8)
    with pytest.raises(ConfigError, match="'blind' cannot choose"):
        evaluate_batch(Blind(), {}, DATA, batch, torch.Generator())


def test_folds_test_every_entity_once():
    from dataclasses import replace

    data = replace(DATA, schema=DATA.schema.model_copy(update={"folds": 3}))
    tested = np.concatenate([split_of(data, INDEX, "seed", seed).test for seed in range(3)])
    assert sorted(tested.tolist()) == list(range(6))
    split = split_of(data, INDEX, "seed", 4)
    assert sorted([*split.train, *split.valid, *split.test]) == list(range(6))


def test_past_entities_train_and_small_ones_are_newcomers():
    from dataclasses import replace

    counts = torch.tensor([5, 40, 50, 8, 60, 70])
    keep = torch.cat([torch.arange(int(n)) < c for n, c in zip(INDEX.counts, counts, strict=True)])
    data = replace(DATA, schema=DATA.schema.model_copy(update={"past_rows": 30, "least_rows": 6}))
    split = split_of(data, INDEX.select(keep), "seed", 0)
    assert split.test.tolist() == [3]  # the first has too few rows to be used at all
    assert sorted([*split.train, *split.valid]) == [1, 2, 4, 5]


def test_those_who_validate_are_the_past_entities_most_like_newcomers():
    from dataclasses import replace

    data = towns(entities=60, items=4, actors=2, rows=40)
    index = EventIndex.of(data)
    counts = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(20, 80)))
    keep = torch.cat([torch.arange(int(n)) < c for n, c in zip(index.counts, counts, strict=True)])
    index = index.select(keep)
    data = replace(data, schema=data.schema.model_copy(update={"past_rows": 30}))
    sizes = [split_of(data, index, "seed", seed) for seed in range(20)]
    small = np.mean([index.counts[torch.from_numpy(s.valid)].float().mean() for s in sizes])
    large = np.mean([index.counts[torch.from_numpy(s.train)].float().mean() for s in sizes])
    assert small < large - 8
    assert all(len(s.valid) == 5 and len(s.train) == 45 for s in sizes)
