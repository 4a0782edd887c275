"""Means of all fields in one pass are those of each field by itself, and so are their gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recsys_meta.models.functional.embeddings import stack_fields
from recsys_meta.models.functional.field_means import field_means, first_values


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fields(widths, rows=50):
    """Tables, and ids of which some are padding, some beyond the table, and some rows hold none."""
    tables = [torch.randn(6 + i, 4, generator=generator(i), dtype=torch.float64) for i in range(len(widths))]
    ids = [torch.randint(0, 9, (rows, w), generator=generator(9 + i)) for i, w in enumerate(widths)]
    for i, x in enumerate(ids):
        x[i :: len(ids) + 1] = 0
    return [t.requires_grad_() for t in tables], ids


def bag(table, ids):
    known = torch.where(ids < len(table), ids, 1)
    return functional.embedding_bag(known, table, mode="mean", padding_idx=0)


@pytest.mark.parametrize(
    ("means", "widths"), [(field_means, (3, 1, 5)), (field_means, (2,)), (first_values, (1, 1, 1))]
)
def test_means_and_gradients_are_those_of_each_field(means, widths):
    tables, ids = fields(widths)
    found = means(tables, ids)
    expected = torch.stack([bag(t, x) for t, x in zip(tables, ids, strict=True)], 1)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=generator(3), dtype=torch.float64)
    own = torch.autograd.grad((found * weight).sum(), tables)
    for gradient, right in zip(own, torch.autograd.grad((expected * weight).sum(), tables), strict=True):
        torch.testing.assert_close(gradient, right)


def test_rows_without_a_value_in_any_field_are_zero_and_have_no_gradient():
    table = torch.ones(5, 2, requires_grad=True)
    means = field_means([table, table], [torch.zeros(3, 2, dtype=torch.int64)] * 2)
    assert torch.equal(means, torch.zeros(3, 2, 2))
    means.sum().backward()
    assert torch.equal(table.grad, torch.zeros(5, 2))


def test_fields_are_stacked_by_name_however_they_were_made():
    """`b` is read by more rows than it has, `a` by fewer, and `c` is a number."""
    params = {"x.a": torch.randn(99, 3, generator=generator()), "x.b": torch.randn(4, 3, generator=generator(1))}
    params |= {"x.c.knots": torch.tensor([0.0, 1.0]), "x.c.weight": torch.randn(3, 3, generator=generator(2))}
    features = {"c": torch.tensor([0.0, 1.0]), "b": torch.tensor([[2, 3], [3, 0]]), "a": torch.tensor([[5], [0]])}
    (stacked,) = stack_fields(params, "x", features)
    expected = [bag(params["x.a"], features["a"]), bag(params["x.b"], features["b"]), params["x.c.weight"][:2]]
    torch.testing.assert_close(stacked, torch.stack(expected, 1))
    assert stack_fields(params, "x", {}) == []
