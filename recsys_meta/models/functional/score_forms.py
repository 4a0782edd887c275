"""Forms in which scores of different predictors are added up: on one scale, entity by entity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import FIRST

RANKING_FORMS = 2
"""Forms of a member of a ranking ensemble: standardized, and standardized with weight on the top of the list."""


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
    """Soften differences below the mean, softplus(2 z) / 2: what is far down a list counts little, however far."""
    return functional.softplus(2 * standardized) / 2
