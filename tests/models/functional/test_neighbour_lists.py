"""Lists of neighbours say what a matrix of all items would."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recsys_meta.models.functional import neighbour_lists
from recsys_meta.models.functional.item_similarity import ease_weights
from recsys_meta.models.functional.neighbour_lists import (
    NeighbourLists,
    affordable_items,
    cooccurring_items,
    count_pairs,
    local_ease,
    neighbour_table,
    sum_neighbours,
)


def skewed_matrix(rows: int, items: int, most: float = 0.4) -> sp.csr_matrix:
    """Binary matrix whose items are met by up to `most` of the rows."""
    rng = np.random.default_rng(0)
    return sp.csr_matrix((rng.random((rows, items)) < rng.uniform(0.02, most, items)).astype(np.float32))


def dense_weights(lists: NeighbourLists) -> np.ndarray:
    """Weights [M, M] of lists."""
    items = len(lists.neighbour)
    return torch.zeros(items, items).scatter_add_(1, lists.neighbour, lists.value).numpy()


@pytest.mark.parametrize("counted", [False, True])
def test_neighbours_are_those_of_the_most_cooccurrences_per_root_of_popularity(counted):
    rng = np.random.default_rng(0)
    dense = (rng.random((300, 60)) < rng.uniform(0.0, 0.2, 60)).astype(np.float32)
    dense[:, 7] = 0
    counts = dense.sum(0)
    matrix = sp.csr_matrix(dense)
    found = cooccurring_items(matrix, counts, 5, count_pairs(matrix) if counted else None)
    cooccurrence = dense.T @ dense
    np.fill_diagonal(cooccurrence, 0)
    scores = cooccurrence / np.sqrt(np.maximum(counts, 1))
    for item in range(60):
        ids, together = found.neighbour[item].numpy(), found.value[item].numpy()
        real = together > 0
        assert item not in ids[real] and np.array_equal(together[real], cooccurrence[item, ids[real]])
        best = np.sort(scores[item])[::-1][:5]
        np.testing.assert_allclose(np.sort(together / np.sqrt(np.maximum(counts, 1))[ids])[::-1], best, rtol=1e-6)


@pytest.mark.parametrize("ridge", [0.5, 50.0])
@pytest.mark.parametrize("rows", [12, 300], ids=["few rows", "many rows"])
def test_with_all_items_as_neighbours_ease_is_the_dense_one(rows, ridge, monkeypatch):
    monkeypatch.setattr(neighbour_lists, "LOCAL_BLOCK", 7)
    matrix = skewed_matrix(rows, 40)
    others = torch.tensor([[j for j in range(40) if j != i] for i in range(40)])
    lists = local_ease(count_pairs(matrix), NeighbourLists(others.flip(1), torch.ones(40, 39)), ridge)
    np.testing.assert_allclose(dense_weights(lists), ease_weights(matrix, ridge), atol=1e-6)


def test_a_local_regression_is_that_of_an_item_and_its_neighbours_alone():
    matrix, ridge = skewed_matrix(300, 20), 5.0
    counts = np.asarray(matrix.sum(0))[0]
    lists = local_ease(count_pairs(matrix), cooccurring_items(matrix, counts, 6), ridge)

    def inverse(item: int) -> tuple[np.ndarray, list[int]]:
        members = [item, *lists.neighbour[item].tolist()]
        x = matrix[:, members].toarray().astype(np.float64)
        return np.linalg.inv(x.T @ x + ridge * np.eye(7)), members

    for item in range(20):
        own, members = inverse(item)
        diagonal = np.array([inverse(j)[0][0, 0] for j in members[1:]])
        np.testing.assert_allclose(lists.value[item], -own[0, 1:] / diagonal, rtol=1e-4)


def test_an_item_with_few_neighbours_has_no_weight_for_the_padding():
    matrix = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]], np.float32))
    lists = local_ease(count_pairs(matrix), cooccurring_items(matrix, np.asarray(matrix.sum(0))[0], 3), 1.0)
    weights = dense_weights(lists)
    assert weights[1, 0] > 0 and not weights[1, 2:].any(), "item 1 occurs with item 0 alone"
    x = matrix[:, [1, 0]].toarray().astype(np.float64)
    own = np.linalg.inv(x.T @ x + np.eye(2))
    assert lists.value[1].abs().sum() == pytest.approx(-own[0, 1] / _own_inverse(matrix, [0, 1, 3]), rel=1e-5)


def _own_inverse(matrix: sp.csr_matrix, members: list[int]) -> float:
    x = matrix[:, members].toarray().astype(np.float64)
    return float(np.linalg.inv(x.T @ x + np.eye(len(members)))[0, 0])


def test_as_many_items_are_covered_as_their_pairs_allow(monkeypatch):
    matrix = skewed_matrix(200, 90)
    assert affordable_items(matrix) == 90
    monkeypatch.setattr(neighbour_lists, "MOST_PAIRS", 2500)
    covered = affordable_items(matrix)
    order = np.argsort(-np.asarray(matrix.sum(0))[0])
    pairs = [count_pairs(matrix[:, order[:n]].tocsr()).nnz for n in (covered - 4, covered + 6)]
    assert pairs[0] <= 2500 < pairs[1]
    monkeypatch.setattr(neighbour_lists, "MOST_ITEMS", 20)
    assert affordable_items(matrix) == 20
    assert affordable_items(sp.csr_matrix((3, 5), dtype=np.float32)) == 0


def test_items_that_are_not_covered_add_nothing():
    lists = NeighbourLists(torch.tensor([[1], [0]]), torch.tensor([[0.5], [0.25]]))
    table = neighbour_table(torch.tensor([3, 6]), lists, 8)
    position, weight = (
        table["row"][torch.tensor([[3, 6, 4], [4, 5, 0]])],
        torch.tensor([[1.0, 2.0, 1.0], [1.0, 1.0, 0.0]]),
    )
    scores = sum_neighbours(table["neighbour"], table["weight"], position, weight, 8)
    assert scores[0].tolist() == [0, 0, 0, 0.5, 0, 0, 0.5, 0] and not scores[1].any()


def test_sums_of_many_tasks_are_those_of_each(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    neighbour = torch.randint(2, 30, (30, 6), generator=generator, dtype=torch.int32)
    value, weight = torch.rand(30, 6, generator=generator), torch.rand(7, 4, generator=generator)
    position = torch.randint(2, 30, (7, 4), generator=generator)
    expected = torch.cat([sum_neighbours(neighbour, value, position[[t]], weight[[t]], 30) for t in range(7)])
    for cells in (1, 50, 10_000):
        monkeypatch.setattr(neighbour_lists, "BLOCK_CELLS", cells)
        assert torch.equal(sum_neighbours(neighbour, value, position, weight, 30), expected)
    assert expected[:, 2:].any() and not expected[:, :2].any()
    assert sum_neighbours(neighbour, value, position[:, :0], weight[:, :0], 30).shape == (7, 30)
