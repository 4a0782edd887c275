"""Random masks for training: dropout of units, and values of features hidden as unknown."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys_meta.core.types import PAD, UNKNOWN


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Dropout (Srivastava et al. 2014): each element is 0 with probability `rate`, the others grow by 1 / (1 - rate).

    Unlike `torch.nn.functional.dropout` it draws from a generator, so that a run can be repeated; without one, or at
    rate 0, x is returned as it is.
    """
    if generator is None or not rate:
        return x
    mask = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device) >= rate
    return x * mask / (1 - rate)


def mask_features(features: Mapping[str, Tensor], share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Features with a share of their ids made unknown: new entities have values that no past entity had.

    Numbers and padding stay. Fields are masked in the order of their names.
    """
    values = dict(features)
    if not share:
        return values
    for name, value in sorted(features.items()):
        if not value.is_floating_point():
            mask = torch.rand(value.shape, generator=generator, device=value.device) < share
            values[name] = torch.where(mask & (value != PAD), UNKNOWN, value)
    return values
