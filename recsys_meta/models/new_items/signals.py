"""Signals about new items: each scores them for users by one thing that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
from scipy.optimize import nnls

from recsys_meta.core.types import FloatArray
from recsys_meta.models.functional.item_content import content_kernel, mean_square, unit_rows
from recsys_meta.models.functional.linear_algebra import truncated_svd
from recsys_meta.models.new_items.content_form import PLAIN_FORM, ContentForm
from recsys_meta.models.new_items.item_task import ItemTask, Scores, standardize

MOST_ENTRIES = 50_000_000
"""Similarities that a kernel holds, at most."""

MOST_SOLVED = 6000
"""Users or items for whom a regression is solved exactly."""

CONTENT_DIMS = 128
"""Dimensions that content is reduced to for regressions."""

SAMPLED_ITEMS = 500
"""Known items that weights of features are fitted on."""


def kernel_of(
    task: ItemTask,
    names: Sequence[str],
    power: float = 1.0,
    least: int = 1,
    form: ContentForm = PLAIN_FORM,
) -> sp.csr_matrix:
    """Similarity [M, N] of known to new items by the content of some features, to a power."""
    most = max(20, min(2000, MOST_ENTRIES // max(len(task.new), 1)))

    def make() -> sp.csr_matrix:
        return content_kernel(
            task.content.rows(names, least, form.rarity), task.new, task.known, most, form.length, form.smooth
        )

    plain = task.remember(("kernel", tuple(names), least, form), make)
    return sp.csr_matrix((plain.data**power, plain.indices, plain.indptr), shape=plain.shape)


def profile_scores(
    task: ItemTask,
    names: Sequence[str],
    least: int = 1,
    form: ContentForm = PLAIN_FORM,
) -> Scores:
    """Scores by the mean content of a history, which those by `kernel_of` to the power 1 are, without a kernel."""

    def make() -> tuple[sp.csr_matrix, sp.csr_matrix]:
        rows = task.content.rows(names, least, form.rarity)
        added = form.smooth * mean_square(rows[task.known])
        return unit_rows(rows[task.known], 1.0, added), unit_rows(rows[task.new], form.length, added)

    return task.by_profile(*task.remember(("profile", tuple(names), least, form), make))


def nearest_entries(kernel: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """Keep the `most` known items [M, N] that are nearest to each new one."""
    by_item = kernel.T.tocsr()
    count = np.diff(by_item.indptr)
    row = np.repeat(np.arange(len(count)), count)
    order = np.lexsort((-by_item.data, row))
    keep = order[np.arange(len(order)) - by_item.indptr[row[order]] < most]
    return sp.csr_matrix((by_item.data[keep], (by_item.indices[keep], row[keep])), shape=kernel.shape)


def shared_users(task: ItemTask) -> sp.csr_matrix:
    """Cosines [M, N] of the users of known items and the first users of new ones."""
    counts = np.bincount(task.history.indices, minlength=len(task.known))
    scale = [sp.diags((1 / np.sqrt(np.maximum(n, 1))).astype(np.float32)) for n in (counts, task.shots)]
    return (scale[0] @ (task.history.T @ task.support) @ scale[1]).tocsr()


def aligned(task: ItemTask, power: float, penalty: float, support: float = 0.0) -> Scores:
    """Scores by `metadata_kernel` [M, N] and the first rows (times `support`), as a ridge regression on histories
    predicts them.

    X (X'X + penalty)^-1 X' (X kernel + support): for a column of the click matrix without clicks the minimum of MARec's
    objective (Monteil et al. 2024) with EASE, whose zero diagonal then binds nothing. The penalty is in units of the
    mean square of a column. Where users and items are many it is solved in the leading space of histories.
    """
    history, kernel = task.history, partial(metadata_kernel, task, power)
    penalty *= history.nnz / max(len(task.known), 1)
    if min(history.shape) > MOST_SOLVED:
        return smoothed(task, kernel(), penalty / (float(task.space.strength.mean()) + 1e-9), support)
    solved = task.remember(("aligned", power, penalty), lambda: _solve_gram(task, history @ kernel(), penalty))
    if support:
        rows = task.support
        key = "aligned support", penalty, hash((rows.indptr.tobytes(), rows.indices.tobytes()))
        solved = solved + np.float32(support) * task.remember(key, lambda: _solve_gram(task, rows, penalty))
    weights = np.asarray(history.T @ solved if history.shape[0] < history.shape[1] else solved, np.float32)
    return lambda users: np.asarray(history[users] @ weights, np.float32)


def _solve_gram(task: ItemTask, target: sp.csr_matrix, penalty: float) -> FloatArray:
    """Solve for targets [U, N] with the products of users, (XX' + penalty)^-1 [U, U], or where items are fewer with
    those of items, (X'X + penalty)^-1 X' [M, U]."""
    history = task.history
    by_user = history.shape[0] < history.shape[1]
    root = task.remember(("history gram", penalty), lambda: _gram_root(history, penalty, by_user))
    right = np.asarray((target if by_user else history.T @ target).todense(), np.float32)
    solved: FloatArray = sla.cho_solve((root, True), right, overwrite_b=True, check_finite=False)
    return solved


def _gram_root(history: sp.csr_matrix, penalty: float, by_user: bool) -> FloatArray:
    """Cholesky factor of the histories' products of users [U, U] or items [M, M], and a penalty."""
    gram = np.asarray((history @ history.T if by_user else history.T @ history).todense(), np.float32)
    gram[np.diag_indices(len(gram))] += penalty
    root: FloatArray = sla.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    return root


def smoothed(task: ItemTask, kernel: sp.csr_matrix, penalty: float, support: float = 0.0) -> Scores:
    """Scores of `aligned` in the leading space of histories, with a penalty in units of its mean strength."""
    space = task.space
    scores = np.asarray(kernel.T @ space.items, np.float32)
    if support:
        scores = scores + support * first_user_vectors(task)
    return task.by_factors(space.users, scores * space.shrink(penalty).astype(np.float32))


def feature_weights(task: ItemTask, kernels: Mapping[str, sp.csr_matrix]) -> dict[str, float]:
    """Non-negative weights with which similarities by features predict who took a known item, each item without
    itself (least squares on a sample of items). `kernels` [M, S]: known items to those of `sampled_items`."""
    columns = {
        name: np.asarray((task.history @ kernel).todense(), np.float32).ravel() for name, kernel in kernels.items()
    }
    target = np.asarray(task.history[:, sampled_items(task)].todense(), np.float32).ravel()
    matrix = np.stack(list(columns.values()), 1)
    gram, right = matrix.T @ matrix, matrix.T @ target
    root = np.linalg.cholesky(gram + 1e-6 * np.trace(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram)))
    weight, _ = nnls(root.T, np.linalg.solve(root, right))
    return dict(zip(columns, (weight if weight.any() else np.ones(len(gram))).tolist(), strict=True))


def sampled_items(task: ItemTask) -> np.ndarray:
    """Positions of some known items."""
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(len(task.known), min(SAMPLED_ITEMS, len(task.known)), replace=False))


def metadata_kernel(task: ItemTask, power: float = 1.0) -> sp.csr_matrix:
    """Similarity [M, N] by all features, weighted as they predict who takes known items."""
    names = task.content.names
    weights = task.remember("feature weights", lambda: _sampled_weights(task))
    parts = [kernel_of(task, [name], power) * weights[name] for name in names if weights[name]]
    return reduce(lambda a, b: a + b, parts).tocsr()


def _sampled_weights(task: ItemTask) -> dict[str, float]:
    sample = sampled_items(task)
    among: dict[str, sp.csr_matrix] = {}
    for name in task.content.names:
        kernel = content_kernel(task.content.rows([name]), task.known[sample], task.known, len(task.known)).tolil()
        kernel[sample, np.arange(len(sample))] = 0
        among[name] = kernel.tocsr()
    return feature_weights(task, among)


def content_columns(task: ItemTask, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Content of known [M, K] and new items [N, K] in its leading space."""
    columns: tuple[FloatArray, FloatArray] = task.remember(("columns", tuple(names)), lambda: _columns(task, names))
    return columns


def _columns(task: ItemTask, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    rows = unit_rows(task.content.rows(names, 2))
    known = rows[task.known]
    basis = truncated_svd(known, min(CONTENT_DIMS, *known.shape), seed=0, sweeps=2).numpy()
    return np.asarray(known @ basis), np.asarray(rows[task.new] @ basis)


def regressed_factors(task: ItemTask, columns: tuple[FloatArray, FloatArray], penalty: float) -> FloatArray:
    """Vectors of new items [N, D] by ridge regression of those of known items on content."""
    known, new = columns
    mean = known.mean(0)
    x, q = known - mean, task.space.items
    gram = x.T @ x
    matrix = gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=gram.dtype)
    vectors: FloatArray = (new - mean) @ np.linalg.solve(matrix, x.T @ (q - q.mean(0))) + q.mean(0)
    return vectors.astype(np.float32)


def first_user_vectors(task: ItemTask) -> FloatArray:
    """Vectors of new items [N, D] by their first users, as those of known items follow from theirs."""
    space = task.space
    vectors: FloatArray = np.asarray(task.support.T @ (space.users / (space.strength + 1e-9)), np.float32)
    return vectors


def add_standardized(parts: Sequence[Scores]) -> Scores:
    """Sum of standardized scores."""
    return lambda users: sum((standardize(part(users)) for part in parts[1:]), standardize(parts[0](users)))
