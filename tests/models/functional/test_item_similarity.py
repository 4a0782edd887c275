"""Item-item similarities from the same co-occurrences, whichever way they are counted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recsys_meta.models.functional import item_similarity
from recsys_meta.models.functional.item_similarity import (
    binary_matrix,
    cooccurrence_counts,
    ease_weights,
    most_frequent_items,
    normalize_cooccurrence,
)


def random_matrix(rows: int, items: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, items)) < 0.3).astype(np.float32)


def test_a_repeated_pair_counts_once():
    row, column = np.array([0, 0, 1, 0]), np.array([2, 2, 0, 1])
    assert binary_matrix(row, column, (2, 3)).toarray().tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("cost", [0, 1e9], ids=["sparse", "dense"])
def test_cooccurrences_are_exact_either_way_across_blocks(cost, monkeypatch):
    monkeypatch.setattr(item_similarity, "SPARSE_COST", cost)
    monkeypatch.setattr(item_similarity, "BLOCK", 4)
    x = random_matrix(11, 9)
    assert np.array_equal(cooccurrence_counts(sp.csr_matrix(x)).numpy(), x.T @ x)


@pytest.mark.parametrize("rows", [5, 30], ids=["rows' side", "items' side"])
def test_ease_equals_its_definition(rows):
    x = random_matrix(rows, 12).astype(np.float64)
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(12))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease_weights(sp.csr_matrix(x.astype(np.float32)), 3.0), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [200, 2000], ids=["rows' side", "items' side"])
def test_ease_is_exact_with_a_small_ridge_and_equal_columns(rows):
    x = random_matrix(rows, 500)
    x[:, 1] = x[:, 0]
    exact = np.linalg.inv(x.T.astype(float) @ x + 1e-3 * np.eye(500))
    expected = -exact / np.diag(exact)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease_weights(sp.csr_matrix(x), 1e-3), expected, atol=1e-5)


def test_similarity_runs_from_cosine_to_conditional_probability():
    counts = torch.tensor([4.0, 9.0])
    together = torch.full((2, 2), 3.0)
    cosine = normalize_cooccurrence(together, counts[:, None], counts)
    assert cosine[0, 1] == pytest.approx(0.5) and torch.equal(cosine, cosine.T)
    given_source = normalize_cooccurrence(together, counts[:, None], counts, power=0.0)
    assert given_source[0, 1] == pytest.approx(0.75) and given_source[1, 0] == pytest.approx(1 / 3)
    assert normalize_cooccurrence(together, counts[:, None], counts, shrink=6.0)[0, 1] == pytest.approx(0.25)


def test_the_most_frequent_items_keep_the_order_of_their_ids():
    ids, position = most_frequent_items(np.array([0, 0, 5, 1, 9, 5, 0]), limit=3)
    assert ids.tolist() == [2, 4, 5]
    assert position.tolist() == [-1, -1, 0, -1, 1, 2, -1]
    assert most_frequent_items(np.array([0, 0, 5, 1]), limit=9)[0].tolist() == [2, 3]


def test_nothing_has_no_weights():
    assert ease_weights(sp.csr_matrix((3, 0), dtype=np.float32), 1.0).shape == (0, 0)
    assert not ease_weights(sp.csr_matrix((0, 3), dtype=np.float32), 1.0).any()
