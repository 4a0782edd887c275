"""Products of matrices of T tasks whose gradients come out in the memory layout of their factors.

`torch.bmm` of a transposed factor returns that factor's gradient transposed in memory. Whatever is added to it next
walks through memory in strides, which for matrices of a few rows costs several times the product itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _RowProducts(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _row_products(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (a, b) = gradients, ctx.saved_tensors
        needs_a, needs_b = ctx.needs_input_grad
        return (
            products(gradient, b) if needs_a else None,
            products(gradient.transpose(1, 2), a) if needs_b else None,
        )


class _ColumnProducts(Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.is_shared = base.dim() == 2
        return _add_column_products(base, a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,), (a, b) = gradients, ctx.saved_tensors
        needs_base, needs_a, needs_b = ctx.needs_input_grad
        base = gradient.sum(0) if ctx.is_shared else gradient
        return (
            base if needs_base else None,
            _row_products(b, gradient) if needs_a else None,
            products(a, gradient) if needs_b else None,
        )


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Products a b' [T, M, N] of the rows of a [T, M, K] and b [T, N, K]."""
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        product: Tensor = _RowProducts.apply(a, b)  # type: ignore[no-untyped-call]
        return product
    return _row_products(a, b)


def add_column_products(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Base, [T, M, N] or [M, N], plus the products a' b [T, M, N] of the columns of a [T, K, M] and b [T, K, N]."""
    if torch.is_grad_enabled() and (base.requires_grad or a.requires_grad or b.requires_grad):
        total: Tensor = _ColumnProducts.apply(base, a, b)  # type: ignore[no-untyped-call]
        return total
    return _add_column_products(base, a, b)


def products(a: Tensor, b: Tensor) -> Tensor:
    """Products a b [T, M, N] of a [T, M, K] and b [T, K, N]."""
    # One column or one inner dimension, as in a layer with one output: no library of matrix products is quick at it.
    if b.shape[2] == 1:
        return (a * b.transpose(1, 2)).sum(2, keepdim=True)
    return a * b if a.shape[2] == 1 else torch.bmm(a, b)


def add_products(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Base [T, M, N] or [T, 1, N] plus the products a b of a [T, M, K] and b [T, K, N]."""
    return base + products(a, b) if 1 in (b.shape[2], a.shape[2]) else torch.baddbmm(base, a, b)


def _row_products(a: Tensor, b: Tensor) -> Tensor:
    return products(a, b.transpose(1, 2))


def _add_column_products(base: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if b.shape[2] == 1:
        return base + (a * b).sum(1)[:, :, None]
    return torch.baddbmm(base.expand(len(a), *base.shape[-2:]), a.transpose(1, 2), b)
