"""Failure of a check, and the comparisons that raise it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-5
"""Tolerance of two results that are equal up to rounding."""


class CheckFailure(AssertionError):
    """Failure of a check; the message says what was expected and what was seen."""


def require(is_met: bool | Tensor, expectation: str) -> None:
    """Raise CheckFailure with what was expected unless it is met, by every element of a tensor."""
    if not bool(is_met.all() if isinstance(is_met, Tensor) else is_met):
        raise CheckFailure(expectation)


def require_close(
    values: Tensor, expected: Tensor, expectation: str, rtol: float = RTOL, atol: float = ATOL, nan: bool = False
) -> None:
    """Raise CheckFailure unless two tensors are equal up to rounding; with `nan` missing numbers equal each other."""

    def explain(text: str) -> str:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "; ".join([expectation, *(lines[1:2] or lines[:1]), *lines[2:3]])

    try:
        torch.testing.assert_close(values, expected, rtol=rtol, atol=atol, equal_nan=nan, msg=explain)
    except AssertionError as error:
        raise CheckFailure(str(error)) from None


def require_all_close(values: Iterable[Tensor], expected: Iterable[Tensor], expectation: str) -> None:
    """Raise CheckFailure unless tensors are equal in pairs, up to rounding."""
    for one, other in zip(values, expected, strict=True):
        require_close(one, other, expectation)


def are_identical(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal bit for bit, where a missing number equals itself."""
    return torch.equal(torch.isnan(one), torch.isnan(other)) and torch.equal(one.nan_to_num(), other.nan_to_num())
