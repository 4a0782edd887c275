"""Batched linear algebra and the leading subspace."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recsys_meta.models.functional.linear_algebra import MOST_ROWS, batch_invariant_product, truncated_svd


def test_subspace_spans_the_leading_singular_vectors():
    rng = np.random.default_rng(0)
    matrix = (rng.random((40, 30)) < 0.3).astype(np.float32)
    basis = truncated_svd(sp.csr_matrix(matrix), 4, seed=0, sweeps=30).double().numpy()
    right = np.linalg.svd(matrix.astype(float))[2][:4].T
    np.testing.assert_allclose(basis @ basis.T, right @ right.T, atol=1e-3)
    assert truncated_svd(sp.csr_matrix(matrix[:6, :5]), 9, seed=0).shape == (5, 9)


@pytest.mark.parametrize(("dims", "columns"), [(65, 301), (195, 3708)])
def test_a_row_of_a_product_is_the_same_whichever_rows_are_beside_it(one_thread, dims, columns):
    g = torch.Generator().manual_seed(0)
    rows, table = torch.randn(MOST_ROWS, dims, generator=g), torch.randn(dims, columns, generator=g)
    whole = batch_invariant_product(rows, table)
    for count in (1, 2, 3, 5, 16):
        assert torch.equal(batch_invariant_product(rows[-count:], table), whole[-count:])
    torch.testing.assert_close(whole, rows @ table, rtol=1e-4, atol=1e-4)


def test_a_product_of_many_rows_or_of_none_and_one_with_a_graph():
    g = torch.Generator().manual_seed(0)
    rows, table = torch.randn(MOST_ROWS + 1, 5, generator=g), torch.randn(5, 7, generator=g)
    torch.testing.assert_close(batch_invariant_product(rows, table), rows @ table)
    assert batch_invariant_product(rows[:0], table).shape == (0, 7)
    leaf = rows[:2].clone().requires_grad_()
    batch_invariant_product(leaf, table).sum().backward()
    torch.testing.assert_close(leaf.grad, table.sum(1).expand(2, -1))
