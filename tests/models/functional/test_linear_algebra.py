"""Batched linear algebra and the leading subspace."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recsys_meta.models.functional.linear_algebra import truncated_svd


def test_subspace_spans_the_leading_singular_vectors():
    rng = np.random.default_rng(0)
    matrix = (rng.random((40, 30)) < 0.3).astype(np.float32)
    basis = truncated_svd(sp.csr_matrix(matrix), 4, seed=0, sweeps=30).double().numpy()
    right = np.linalg.svd(matrix.astype(float))[2][:4].T
    np.testing.assert_allclose(basis @ basis.T, right @ right.T, atol=1e-3)
    assert truncated_svd(sp.csr_matrix(matrix[:6, :5]), 9, seed=0).shape == (5, 9)
