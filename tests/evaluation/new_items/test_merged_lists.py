"""New items among known ones: they are put where the known ones surely lose little, however their scores lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_meta.evaluation.new_items.merged_lists import MOST_LOSS, CataloguePlacement, LeadingItems, MergedLists

USERS, KNOWN, NEW = 600, 300, 200


def known_items(seed: int) -> LeadingItems:
    """Known items that users take the more, the higher their scores are."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(USERS, KNOWN))
    taken = rng.random((USERS, KNOWN)) < 0.3 / (1 + np.exp(-3 * (scores - 2)))
    return leading(scores, taken)


def leading(scores, taken) -> LeadingItems:
    everything = torch.ones(scores.shape, dtype=torch.bool)
    return LeadingItems.of(torch.from_numpy(np.asarray(scores, np.float32)), torch.from_numpy(taken), everything)


def new_items(seed: int, sharpness: float) -> LeadingItems:
    """New items, of scores with a long tail, that users take the more the higher these are, if sharpness is not 0."""
    rng = np.random.default_rng(seed)
    scores = np.where(rng.random((USERS, NEW)) < 0.05, 7, 0) + rng.normal(size=(USERS, NEW))
    taken = rng.random((USERS, NEW)) < np.where(scores > 4, 0.01 + 0.1 * sharpness, 0.01)
    return leading(scores, taken)


def loss(lists: MergedLists, placement: CataloguePlacement) -> float:
    alone, beside = (m["ndcg@10"] for m in (lists.known.metrics(), lists.known_metrics(placement)))
    return float(1 - np.nansum(beside) / np.nansum(alone))


@pytest.mark.parametrize("sharpness", [0.0, 1.0])
def test_known_items_keep_their_places_in_other_draws_too(sharpness):
    placement = MergedLists(known_items(0), new_items(0, sharpness)).choose_placement()
    losses = [loss(MergedLists(known_items(s), new_items(s, sharpness)), placement) for s in range(10)]
    assert losses[0] <= MOST_LOSS and max(losses) > 0
    assert sum(one <= MOST_LOSS for one in losses) >= 9


def test_good_scores_come_before_known_items_that_are_less_likely_and_poor_ones_do_not():
    among = []
    for sharpness in (0.0, 1.0):
        lists = MergedLists(known_items(0), new_items(0, sharpness))
        among.append(np.nanmean(lists.new_metrics(lists.choose_placement())["recall@20"]))
    assert among[1] > 0.25 and among[1] > 2 * among[0]


def test_lists_hold_the_best_of_both():
    known = leading(np.array([[3.0, 2.0, 1.0]]), np.array([[True, False, False]]))
    new = leading(np.array([[2.0, 1.0]]), np.array([[False, True]]))
    lists = MergedLists(known, new)
    above, below = CataloguePlacement(1.0, 9.0), CataloguePlacement(1.0, -9.0)
    assert lists.known_metrics(below)["ndcg@10"] == lists.known.metrics()["ndcg@10"] == 1
    assert lists.known_metrics(above)["ndcg@10"] == pytest.approx(1 / np.log2(4))  # the third place
    assert lists.new_metrics(above)["ndcg@10"] == pytest.approx(1 / np.log2(3))
    assert lists.new_metrics(below)["recall@20"] == 1


def test_without_rows_of_known_items_nothing_can_be_lost():
    known = leading(known_items(0).scores.numpy(), np.zeros((USERS, 20), bool))
    lists = MergedLists(known, new_items(0, 1.0))
    placement = lists.choose_placement()
    best = lists.new.metrics()["recall@20"]
    assert np.allclose(lists.new_metrics(placement)["recall@20"], best, equal_nan=True)
