"""Sampled softmax with logQ correction (Bengio & Senecal 2008): negatives by popularity to the power 3/4.

Subtracting the log of how often an item is expected among the negatives makes the sampled loss estimate the full one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import FIRST, Interactions, Params
from recsys_meta.models.functional.losses import mean_over_rows
from recsys_meta.models.functional.masking import MASKED_LOGIT

POWER = 0.75
"""Of popularity (Mikolov et al. 2013)."""


def log_expected_counts(counts: Tensor, negatives: int) -> Tensor:
    """Log of how often each item is expected among so many negatives, [C], from item counts [C]."""
    weight = (counts + 1) ** POWER
    weight[:FIRST] = 0
    return torch.log(negatives * weight / weight.sum()).clamp(min=MASKED_LOGIT)


def init_negatives(counts: Tensor, negatives: int, generator: torch.Generator) -> Params:
    """Parameters of a sampled softmax, none of which is trained: log expected counts [C] and the first negatives [N];
    nothing for 0 negatives, as where the softmax is over the whole catalogue."""
    if not negatives:
        return {}
    log_q = log_expected_counts(counts, negatives)
    return {"log_q": log_q, "negatives": draw_negatives(log_q, negatives, generator)}


def draw_negatives(log_q: Tensor, negatives: int, generator: torch.Generator) -> Tensor:
    """Items [N] drawn with replacement in proportion to exp(log_q) [C]."""
    return torch.multinomial((log_q - log_q.max()).exp(), negatives, replacement=True, generator=generator)


def sampled_softmax_loss(
    positive: Tensor, negative: Tensor, rows: Interactions, log_q: Tensor, positive_log_q: Tensor
) -> Tensor:
    """Softmax loss [T] of each row's item against shared sampled negatives, corrected by their log expected counts.

    positive [T, R], negative [T, N], log_q [N], positive_log_q [T, R].
    """
    others = torch.logsumexp(negative - log_q, 1)[:, None]
    margin = positive - positive_log_q
    return mean_over_rows(F.softplus(others - margin), rows.mask)
