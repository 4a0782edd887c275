"""Places for new items with few events: a share that holds, draws with the propensity they are said to have."""

from collections import Counter

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import DataError
from recsys_meta.inference.new_items.stored_items import ItemEvidence, StoredItem
from recsys_meta.inference.ranking.fresh_slots import (
    FreshPolicy,
    deviations,
    draw_slots,
    merge_slots,
    slot_chances,
    slot_counts,
)
from recsys_meta.inference.ranking.list_builder import ListRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from tests.fixtures import stub_predictors as choosing
from tests.fixtures import trained_recommenders

FEW = [(3.0, 5), (2.5, 6), (1.0, 7), (-2.0, 8)]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("n", [1, 7, 10])
def test_a_share_holds_within_one_percent_over_many_lists(share, n):
    counts = slot_counts(FreshPolicy(share=share), n, np.random.default_rng(0).random(100_000 // n))
    assert counts.sum() / (n * len(counts)) == pytest.approx(share, abs=0.01)
    assert counts.max() - counts.min() <= 1
    chances = slot_chances(FreshPolicy(share=share), n)
    assert chances.sum() == pytest.approx(share * n)
    for slot, chance in enumerate(chances):
        assert (counts > slot).mean() == pytest.approx(chance, abs=0.01)


def test_slots_are_the_most_that_there_are():
    assert slot_counts(FreshPolicy(slots=3), 10, np.zeros(2)).tolist() == [3, 3]
    assert slot_counts(FreshPolicy(slots=30), 10, np.zeros(1)).tolist() == [10]
    assert draw_slots(FreshPolicy(slots=0), 10, FEW, torch.ones(4)) == []
    assert len({one.item for one in draw_slots(FreshPolicy(slots=9), 10, FEW, torch.ones(4))}) == 4


def test_items_come_as_often_as_their_propensity_says():
    deviation = torch.tensor([0.5, 1.0, 2.0, 0.1])
    draws = [draw_slots(FreshPolicy(share=0.15, seed=31 * seed), 10, FEW, deviation) for seed in range(1500)]
    assert {len(one) for one in draws} == {1, 2}
    first = Counter(one[0].item for one in draws)
    said = {one[0].item: one[0].propensity for one in draws}
    for item, chance in said.items():
        assert first[item] / len(draws) == pytest.approx(chance, abs=0.04)
    assert said[5] > said[7] > 0 and 8 not in said
    second = [one[1] for one in draws if len(one) == 2]
    assert all(one.propensity <= 0.5 and one.candidates == 3 for one in second)


def test_the_more_events_the_surer():
    deviation = deviations(torch.tensor([0.0, 2.0, -torch.inf]), torch.tensor([0, 3]))
    assert deviation.tolist() == [1.0, 0.5]
    sure = draw_slots(FreshPolicy(slots=1), 10, FEW, torch.zeros(4))
    assert (sure[0].item, sure[0].propensity) == (5, pytest.approx(1))


def test_a_list_keeps_its_length_and_its_order():
    ranked = [(float(9 - i), 20 + i) for i in range(9)]
    drawn = draw_slots(FreshPolicy(slots=2), 5, FEW, torch.zeros(4))
    assert merge_slots(ranked, drawn, 5) == [(9.0, 20), (8.0, 21), (7.0, 22), (3.0, 5), (2.5, 6)]


@pytest.fixture(scope="module")
def model() -> Recommender:
    model = trained_recommenders.ranking()
    many = ItemEvidence(50, 1.0, torch.zeros(0, 1))
    stored = [StoredItem(f"new{n}") for n in range(6)] + [StoredItem("old"), StoredItem("gone", available=False)]
    return model.with_items(stored, {"old": many})


def build(model, n=10, **request):
    entity = model.read_support(EntityRequest(events=[Interaction("i1")]))
    scores = model.scores(model.adapt([entity]))[0]
    return scores, *model.lists.build_fresh(scores, entity, ListRequest(n, **request))


def test_a_list_has_new_items_in_its_slots_and_no_others(model):
    _, (items, _, end), drawn = build(model, fresh=FreshPolicy(slots=2, seed=4))
    new = [one.item for one in items if one.item.startswith("new")]
    assert len(items) == 10 and end is None
    assert sorted(new) == sorted(model.catalog.item_name(one.item) for one in drawn) and len(new) == 2
    assert [one.score for one in items] == sorted((one.score for one in items), reverse=True)
    _, (items, _, _), drawn = build(model, fresh=FreshPolicy(slots=0))
    assert not drawn and not any(one.item.startswith("new") for one in items)
    _, (items, _, _), drawn = build(model, exclude=["new1", "new2"], fresh=FreshPolicy(slots=9))
    assert {model.catalog.item_name(one.item) for one in drawn} == {"new0", "new3", "new4", "new5"}
    _, (items, unknown, _), drawn = build(model, candidates=["new1", "i3", "no"], fresh=FreshPolicy(share=1.0))
    assert (sorted(one.item for one in items), unknown) == (["i3", "new1"], ["no"])
    _, (items, _, _), drawn = build(model, 1000, fresh=FreshPolicy(slots=0))
    listed = {one.item for one in items}
    assert "old" in listed and "gone" not in listed  # fifty likes are not few


def test_a_catalogue_of_its_own_has_no_fresh_items():
    cities = Recommender(choosing.visits())
    entity = cities.read_support(EntityRequest(events=[Interaction("x", time=1.0, actor="a")]))
    with pytest.raises(DataError, match="have no fresh ones"):
        cities.lists.build_fresh(torch.zeros(9), entity, ListRequest(fresh=FreshPolicy(slots=1)))
