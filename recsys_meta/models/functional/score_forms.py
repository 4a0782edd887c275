"""Forms in which scores of different predictors are added up: on one scale, entity by entity."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST

RANKING_FORMS = 2
"""Forms of a member of a ranking ensemble: standardized, and standardized with weight on the top of the list."""

SHARPNESS = 0.5
"""Square of the width of the bend between the two slopes of the top-heavy form."""


def standardize(scores: Tensor) -> Tensor:
    """Scale scores [T, C] to mean 0 and standard deviation 1 over each entity's catalogue without the reserved ids.

    Constant scores become 0: a member that does not distinguish the items has no influence.
    """
    catalog = scores[:, FIRST:]
    count = max(catalog.shape[1], 1)
    centred = scores - catalog.sum(1, keepdim=True) / count
    deviation = torch.linalg.vector_norm(centred[:, FIRST:], dim=1, keepdim=True) / count**0.5
    flat = deviation <= 1e-6 * (torch.linalg.vector_norm(catalog, dim=1, keepdim=True) / count**0.5)
    standardized: Tensor = (centred / deviation.clamp(min=1e-30)).masked_fill(flat, 0.0)
    return standardized


def top_heavy(standardized: Tensor) -> Tensor:
    """Soften differences below the mean, (z + sqrt(z^2 + 1/2)) / 2: far down a list little counts, however far.

    A softplus without exponential (squareplus, Barron 2021): its operations are rounded alike wherever a number stands
    in a tensor, so that an entity's scores do not depend on the entities beside it.
    """
    return (standardized.square() + SHARPNESS).sqrt_().add_(standardized).mul_(0.5)
