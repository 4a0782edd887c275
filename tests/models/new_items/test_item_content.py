"""Similarity of items by content: values, links either way, numbers."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from recsys_meta.core.dataset import Dataset, Events, FeatureColumn, Vocabulary
from recsys_meta.core.schema import FeatureField, Schema
from recsys_meta.models.functional.item_content import ItemContent, content_kernel
from recsys_meta.models.new_items.item_task import ItemTask
from recsys_meta.models.new_items.signals import nearest_entries, smoothed


def column(name, cells):
    """An id feature from lists of values (from 0), below the two reserved rows."""
    flat = [v + 2 for cell in cells for v in cell]
    indptr = np.concatenate([[0, 0, 0], np.cumsum([len(c) for c in cells])])
    return FeatureColumn(name, np.array(flat, np.int32), indptr, max(flat) + 1)


def data_with(items, spaces, count):
    names = pd.Index([f"i{n}" for n in range(count)], dtype="str")
    schema = Schema(name="content", item_features=tuple(FeatureField(name=n, kind="multi") for n in items))
    events = Events(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return Dataset(schema, events, {}, items, Vocabulary({"item": names, "entity": names, **spaces}))


def kernel(data, known, new, least=1):
    content = ItemContent.of(data, np.array(known))
    return content_kernel(content.rows(content.names, least), np.array(new), np.array(known), 100).toarray()


def test_items_that_share_rare_values_are_most_alike():
    tags = column("tags", [[0, 1], [0], [0], [2], [0, 1]])
    data = data_with({"tags": tags}, {"item.tags": pd.Index(list("abc"), dtype="str")}, 5)
    similar = kernel(data, [2, 3, 4, 5], [6])[:, 0]
    assert similar[0] == pytest.approx(1, abs=1e-5)
    assert similar[0] > similar[1] == similar[2] > similar[3] == 0
    assert not kernel(data, [2, 3, 4, 5], [6], least=6).any()


def test_links_work_either_way():
    links = column("links", [[1], [], [3], [1], []])  # i0 to i1, i2 to i3, i3 to i1
    names = pd.Index([f"i{n}" for n in range(4)], dtype="str")
    data = data_with({"links": links}, {"item.links": names}, 5)
    similar = kernel(data, [2, 4, 5, 6], [3])[:, 0]  # of i0, i2, i3, i4 to i1
    assert similar[0] > 0 and similar[2] > 0  # both link to it
    assert similar[3] == 0


def test_near_numbers_are_alike():
    values = np.array([np.nan, np.nan, *np.arange(40), 10.5, np.nan], np.float32)
    data = data_with({"year": FeatureColumn("year", values)}, {}, 42)
    similar = kernel(data, list(range(2, 42)), [42, 43])
    assert similar[[10, 11], 0].min() > 0.5 > 0 == similar[[0, 20, 39], 0].max()
    assert not similar[:, 1].any()


def test_only_the_nearest_are_held():
    tags = column("tags", [[0], [0, 1], [0, 1, 2], [3], [0, 1, 2]])
    data = data_with({"tags": tags}, {"item.tags": pd.Index(list("abcd"), dtype="str")}, 5)
    content = ItemContent.of(data, np.array([2, 3, 4, 5]))
    rows = content.rows(["tags"])
    whole = content_kernel(rows, np.array([6]), np.array([2, 3, 4, 5]), 100)
    two = content_kernel(rows, np.array([6]), np.array([2, 3, 4, 5]), 2).toarray()[:, 0]
    assert np.flatnonzero(two).tolist() == [1, 2]
    assert np.array_equal(nearest_entries(whole, 2).toarray()[:, 0], two)


def test_alignment_is_the_ridge_regression_that_it_says():
    """Against the dense closed form, with all dimensions of the histories."""
    rng = np.random.default_rng(0)
    history = sp.csr_matrix((rng.random((30, 8)) < 0.4).astype(np.float32))
    content = ItemContent({}, np.arange(8))
    task = ItemTask(history, content, np.arange(8), np.arange(8, 11), sp.csr_matrix((30, 3), dtype=np.float32))
    similar = sp.csr_matrix(rng.random((8, 3)).astype(np.float32))
    x, penalty = history.toarray(), 0.3 * task.space.strength.mean()
    wanted = x @ np.linalg.solve(x.T @ x + penalty * np.eye(8), x.T @ x @ similar.toarray())
    assert np.allclose(smoothed(task, similar, 0.3)(np.arange(30)), wanted, atol=1e-3)
