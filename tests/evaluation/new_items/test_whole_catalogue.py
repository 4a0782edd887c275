"""New items among known ones: they are put where the known ones lose little, however their scores lie."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from recsys_meta.evaluation.new_items.whole_catalogue import MOST_LOSS, WholeCatalogue
from recsys_meta.models.new_items.item_content import ItemContent
from recsys_meta.models.new_items.item_task import ItemTask

USERS, KNOWN, NEW = 400, 300, 200


@pytest.fixture(scope="module")
def catalogue():
    """Users of two tastes, each with some known items of its own."""
    rng = np.random.default_rng(0)
    chance = np.where(np.arange(USERS)[:, None] % 2 == np.arange(KNOWN) % 2, 0.2, 0.02)
    history = sp.csr_matrix((rng.random((USERS, KNOWN)) < chance).astype(np.float32))
    nothing = sp.csr_matrix((USERS, NEW), dtype=np.float32)
    return WholeCatalogue(
        ItemTask(history, ItemContent({}, np.arange(KNOWN)), np.arange(KNOWN), np.arange(KNOWN, KNOWN + NEW), nothing)
    )


@pytest.fixture(scope="module")
def rows(catalogue):
    """Held-out rows of known items by taste, and of new ones by chance."""
    rng = np.random.default_rng(1)
    likely = np.where(np.arange(USERS)[:, None] % 2 == np.arange(KNOWN) % 2, 0.05, 0.0)
    known = (rng.random((USERS, KNOWN)) < likely) & (catalogue.task.history.toarray() == 0)
    return sp.csr_matrix(known.astype(np.float32)), sp.csr_matrix((rng.random((USERS, NEW)) < 0.02).astype(np.float32))


def placed(catalogue, rows, scores):
    """Known items' nDCG@10 without and beside new ones, and the new ones' nDCG@20 among all."""
    users, open_new = np.arange(USERS), np.ones((USERS, NEW), np.float32)
    placement = catalogue.choose_placement(scores, rows, open_new, users)
    nothing = [sp.csr_matrix(one.shape) for one in rows]

    def mean(of, candidates, name):
        return float(np.nanmean(catalogue.metrics(scores, placement, of, candidates, users)[name]))

    alone = mean((rows[0], nothing[1]), np.zeros_like(open_new), "ndcg@10")
    beside = mean((rows[0], nothing[1]), open_new, "ndcg@10")
    return alone, beside, mean((nothing[0], rows[1]), open_new, "ndcg@20")


def test_known_items_keep_their_places_beside_scores_with_a_long_tail(catalogue, rows):
    """A few new items of each user stand seven deviations above the rest, by chance."""

    def scores(users):
        rng = np.random.default_rng(2)
        return (rng.random((USERS, NEW)) + 50 * (rng.random((USERS, NEW)) < 0.02))[users].astype(np.float32)

    alone, beside, _ = placed(catalogue, rows, scores)
    assert alone > 0 and beside >= (1 - MOST_LOSS) * alone - 1e-4


def test_good_scores_are_not_buried(catalogue, rows):
    """Scores that hold what users take come before known items that are less likely."""
    right = rows[1].toarray() * 5

    alone, beside, among = placed(catalogue, rows, lambda users: right[users])
    assert beside >= (1 - MOST_LOSS) * alone - 1e-4 and among > 0.05


def test_a_small_scale_is_chosen_where_scores_tell_nothing_above_their_threshold(catalogue, rows):
    """That a new item is above the mean is all that its score tells; a long tail of it is chance."""
    rng = np.random.default_rng(3)
    tail = (1 + rng.pareto(1.5, (USERS, NEW))) * (rng.random((USERS, NEW)) < np.where(rows[1].toarray() > 0, 0.8, 0.05))
    users, open_new = np.arange(USERS), np.ones((USERS, NEW), np.float32)
    placement = catalogue.choose_placement(lambda some: tail[some].astype(np.float32), rows, open_new, users)
    assert placement.scale < 1
