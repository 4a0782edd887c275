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
        return torch.bmm(a, b.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (a, b) = gradients, ctx.saved_tensors
        needs_a, needs_b = ctx.needs_input_grad
        return (
            torch.bmm(gradient, b) if needs_a else None,
            torch.bmm(gradient.transpose(1, 2), a) if needs_b else None,
        )


class _ColumnProducts(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return torch.bmm(a.transpose(1, 2), b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (a, b) = gradients, ctx.saved_tensors
        needs_a, needs_b = ctx.needs_input_grad
        return (
            torch.bmm(b, gradient.transpose(1, 2)) if needs_a else None,
            torch.bmm(a, gradient) if needs_b else None,
        )


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Products a b' [T, M, N] of the rows of a [T, M, K] and b [T, N, K]. Its gradient has a gradient of its own."""
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        product: Tensor = _RowProducts.apply(a, b)  # type: ignore[no-untyped-call]
        return product
    return torch.bmm(a, b.transpose(1, 2))


def column_products(a: Tensor, b: Tensor) -> Tensor:
    """Products a' b [T, M, N] of the columns of a [T, K, M] and b [T, K, N]. Its gradient has a gradient of its own."""
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        product: Tensor = _ColumnProducts.apply(a, b)  # type: ignore[no-untyped-call]
        return product
    return torch.bmm(a.transpose(1, 2), b)
