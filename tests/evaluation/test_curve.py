"""What is read off cold-start curves."""

import numpy as np
import pytest
import torch

from recsys_meta.core.errors import NotFoundError
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import adaptation_effect
from recsys_meta.evaluation.curve import ColdStartCurve
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import tiny


def test_curves_pair_by_entity_and_refuse_others():
    values = {1: {"mrr": np.array([0.5, 0.7, np.nan])}}
    worse = {1: {"mrr": np.array([0.4, 0.6, 0.9])}}
    one, other = ColdStartCurve("a", np.arange(3), values), ColdStartCurve("b", np.arange(3), worse)
    assert one.against(other, 1, "mrr").difference == pytest.approx(0.1) and one.against(other, 1, "mrr").n == 2
    with pytest.raises(ValueError, match="different entities"):
        one.against(ColdStartCurve("c", np.arange(1, 4), worse), 1, "mrr")


def test_a_point_or_a_metric_that_a_curve_lacks_is_refused_with_those_it_has():
    curve = ColdStartCurve("a", np.arange(2), {k: {"mrr": np.zeros(2), "hit@10": np.zeros(2)} for k in (0, 5)})
    asked = (curve.interval, lambda k, m: curve.against(curve, k, m))
    for ask in asked:
        with pytest.raises(NotFoundError, match="no point 3; there are 0, 5"):
            ask(3, "mrr")
        with pytest.raises(NotFoundError, match="no metric 'auc'; there are mrr, hit@10"):
            ask(5, "auc")
    with pytest.raises(NotFoundError, match="no metric 'auc'"):
        curve.mean("auc")


def test_the_mean_of_a_curve_is_over_its_points_and_skips_empty_ones():
    values = {0: {"mrr": np.array([0.2, 0.4])}, 5: {"mrr": np.array([0.9, np.nan])}, 9: {"mrr": np.full(2, np.nan)}}
    assert ColdStartCurve("a", np.arange(2), values).mean("mrr") == pytest.approx((0.3 + 0.9) / 2)
    assert np.isnan(ColdStartCurve("a", np.arange(2), {9: values[9]}).mean("mrr"))


def test_change_made_is_zero_for_one_who_does_nothing_and_more_for_one_who_moves():
    data = ranking_world(entities=40, items=30, rows=10, features=False)
    index = EventIndex.of(data)
    support, query = index.draw(torch.arange(40), torch.full((40,), 4))
    batch = episode_batch(data, np.arange(40), support, query)
    still, some, much = (tiny(rate=r, steps=s) for r, s in ((1.0, 0), (0.5, 1), (2.0, 1)))
    params = some.init(data, np.arange(40), torch.Generator().manual_seed(0))
    changes = []
    for learner in (still, some, much):
        own = {**params, "rate.entity": torch.tensor(float(np.log(learner.config.rate)))}
        changes.append(adaptation_effect(learner, own, batch))
    assert (changes[0].state, changes[0].scores) == (0.0, 0.0)
    assert 0 < changes[1].state < changes[2].state and 0 < changes[1].scores < changes[2].scores
