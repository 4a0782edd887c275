import numpy as np
import pytest
import torch

from recsys_meta.core.dataset import Dataset, Events, Vocabulary
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.list_mrr import list_reciprocal_ranks
from recsys_meta.metrics.pooled_metrics import compute_metric

SCHEMA = Schema(
    name="shown",
    kind="ad",
    objective="click",
    entity="ad",
    item="who",
    label="click",
    label_range=(0, 1),
    time="time",
    group="list",
    context=(FeatureField(name="place", kind="numeric"),),
    shots=(0, 2),
)
LISTS, LONG = 40, 3


def shown():
    """Lists of three: entity 0 is in all, 1 to 4 take turns beside it; the middle place is always taken."""
    entity, group, place = [], [], []
    for g in range(LISTS):
        for p, e in enumerate((0, 1 + g % 4, 5 + g % 8)):
            entity.append(e), group.append(g), place.append(p)
    entity, group, place = map(np.array, (entity, group, place))
    order = np.lexsort((group, entity))
    rows = len(entity)
    events = Events(
        np.concatenate([[0], np.cumsum(np.bincount(entity))]),
        np.full(rows, 2, np.int32),
        (place == 1)[order].astype(np.float32),
        group[order].astype(np.int64),
        {"place": place[order].astype(np.float32)},
        group=group[order].astype(np.int32),
    )
    import pandas as pd

    names = Vocabulary({"entity": pd.Index([str(e) for e in range(13)]), "item": pd.Index(["x"])})
    return Dataset(SCHEMA, events, {}, {}, names, digest="shown")


DATA = shown()
INDEX = EventIndex.of(DATA)


class Places:
    """Scores a row by its place; of those whose support is smaller than `least` it says the worst."""

    name = "places"

    def __init__(self, values, least=0):
        self.values, self.least = torch.tensor(values), least

    def body(self, params):
        return params

    def adapt(self, body, support):
        return {"size": support.rows.counts}

    def score(self, body, state, rows):
        known = (state["size"] >= self.least)[:, None]
        return torch.where(known, self.values[rows.context["place"].long()], torch.tensor(-9.0))


class Sizes(Places):
    """Scores a row by how large its entity's support is, and the taken one as if it had two rows."""

    def __init__(self):
        super().__init__([0.0, 2.0, 0.0])

    def score(self, body, state, rows):
        return torch.where(rows.context["place"] == 1, 2.0, state["size"][:, None].float())


def ranks(predictor, entities=(1, 2), shots=(0, 2)):
    return list_reciprocal_ranks(predictor, {}, DATA, INDEX, np.array(entities), shots, 1)


@pytest.mark.parametrize(
    ("values", "wanted"), [([0.0, 1.0, 0.5], 1.0), ([1.0, 0.9, 0.5], 0.5), ([1.0, 0.0, 0.5], 1 / 3)]
)
def test_the_place_of_the_taken_row(values, wanted):
    found = ranks(Places(values))
    assert compute_metric("mrr", found[0]) == pytest.approx(wanted)
    assert len(found[0]) == 20  # lists in which 1 or 2 are shown
    assert len(found[2]) == 16  # less the first two of each
    assert set(found[2].entity.tolist()) == {1, 2}


def test_ties_count_their_mean_rank():
    assert compute_metric("mrr", ranks(Places([0.0, 0.0, 0.0]))[0]) == pytest.approx(1 / 2)


def test_everybody_in_a_list_has_at_most_the_support_asked_for():
    """Entity 0 has long been there when a list is shown; at two shots it is known by two rows, at none by none."""
    found = ranks(Places([0.0, 1.0, 0.5], least=2), shots=(0, 2))
    assert compute_metric("mrr", found[0]) == pytest.approx(1 / 2)  # nobody is known: all tie
    # The newcomer and entity 0 are known from their third row on; the third of the list comes seldom.
    assert compute_metric("mrr", found[2]) == pytest.approx(1.0)


@pytest.mark.parametrize("shots", [(2,), (3,), (2, 3), (0, 1, 3)])
def test_chance_is_chance_whichever_points_are_asked_for(shots):
    """Entities 5 to 12 have five rows each, so many a list shows one that has fewer earlier rows than the newcomer."""
    for sample in ranks(Places([0.0, 0.0, 0.0]), shots=shots).values():
        assert len(sample) > 10
        assert set(sample.value.tolist()) == {0.5}


@pytest.mark.parametrize("others", [(), (0,), (1,), (0, 1, 2, 4)])
def test_a_figure_does_not_depend_on_the_other_points(others):
    predictor = Sizes()
    alone = ranks(predictor, shots=(3,))[3]
    beside = ranks(predictor, shots=(3, *others))[3]
    assert alone.value.tolist() == beside.value.tolist()
    assert len(set(alone.value.tolist())) > 1


def test_a_score_that_is_no_number_is_the_last_of_its_list():
    nan = float("nan")
    assert compute_metric("mrr", ranks(Places([0.0, nan, 0.5]))[0]) == pytest.approx(1 / 3)
    assert compute_metric("mrr", ranks(Places([nan, nan, nan]))[0]) == pytest.approx(1 / 2)


def test_lists_are_part_of_the_curve():
    curve = cold_start(Places([0.0, 1.0, 0.5]), {}, DATA, INDEX, np.array([1, 2]), shots=(0, 2))
    assert curve.interval(2, "mrr").value == pytest.approx(1.0)
    assert curve.interval(0, "logloss").n == 2
    without = cold_start(Places([0.0, 1.0, 0.5]), {}, DATA, INDEX, np.array([1, 2]), shots=(0, 2), lists=False)
    assert "mrr" not in without.values[0]


@pytest.mark.parametrize("most", [1, 5, 30])
def test_entities_may_be_scored_in_any_parts(monkeypatch, most):
    whole = ranks(Sizes(), (0, 1, 2, 6))
    monkeypatch.setattr("recsys_meta.evaluation.list_mrr.MOST_ROWS", most)
    parts = ranks(Sizes(), (0, 1, 2, 6))
    for k, sample in whole.items():
        assert np.array_equal(sample.entity, parts[k].entity) and np.array_equal(sample.value, parts[k].value)
