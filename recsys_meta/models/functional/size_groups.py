"""Groups of tasks of similar size, so that padding to the largest of a group wastes less than half of the work."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.models.functional.host_reads import is_readable

SMALL = 64
"""Size up to which tasks are alike: padding them costs less than another pass."""


def size_groups(sizes: Tensor) -> list[Tensor]:
    """Positions of the tasks whose sizes [T] are between the same two powers of two, ascending: at most log2 of the
    largest size many groups. One group of all on an accelerator, where sizes cannot be read without waiting."""
    every = torch.arange(len(sizes), device=sizes.device)
    if len(sizes) < 2 or not is_readable(sizes):
        return [every]
    power = sizes.clamp(min=SMALL).double().log2().ceil()
    return [every[power == value] for value in sorted(set(power.tolist()))]
