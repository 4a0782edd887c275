"""Decisions that depend on the values of tensors: read where that costs nothing, assumed where it would stall.

Reading one number of an accelerator waits until all work before it is done. In host memory a number is at hand, so
that work which nobody needs is saved there; on an accelerator the work is done and masked.
"""

from __future__ import annotations

from torch import Tensor


def is_readable(tensor: Tensor) -> bool:
    """True if the values of a tensor are in host memory, where reading them waits for nothing."""
    return tensor.device.type == "cpu"


def may_hold(condition: Tensor) -> bool:
    """True if any element of a condition is True or, on an accelerator, may be."""
    return not is_readable(condition) or bool(condition.any())


def each_may_hold(condition: Tensor) -> list[bool]:
    """For each element [N] of a condition, True if it is or, on an accelerator, may be."""
    if not is_readable(condition):
        return [True] * len(condition)
    values: list[bool] = condition.tolist()
    return values


def most_needed(counts: Tensor, bound: int) -> int:
    """Largest of some counts, at most `bound`; on an accelerator the bound. 0 without any count."""
    if not is_readable(counts):
        return bound
    return min(bound, int(counts.max())) if counts.numel() else 0
