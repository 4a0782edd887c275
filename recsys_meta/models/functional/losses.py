"""Objectives: masked losses of T tasks, each [T], the mean over a task's real rows.

A task with no rows has loss 0, so an empty support gives no gradient and no NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import Interactions


def mean_over_rows(loss: Tensor, mask: Tensor) -> Tensor:
    """Mean of loss [T, R] over real rows, [T]."""
    return (loss * mask).sum(1) / mask.sum(1).clamp(min=1)


def squared_error(predicted: Tensor, rows: Interactions) -> Tensor:
    """Mean squared error; predicted [T, R]."""
    return mean_over_rows((predicted - rows.label).square(), rows.mask)


def logistic_loss(logit: Tensor, rows: Interactions) -> Tensor:
    """Log-loss of labels in {0, 1}; logit [T, R]."""
    return mean_over_rows(F.binary_cross_entropy_with_logits(logit, rows.label, reduction="none"), rows.mask)


def softmax_loss(logits: Tensor, rows: Interactions) -> Tensor:
    """Mean negative log-probability of the rows' items under a softmax over the catalogue; logits [T, C]."""
    log_p = torch.log_softmax(logits, 1)
    return mean_over_rows(-log_p.gather(1, rows.item), rows.mask)


def sampled_softmax_loss(
    positive: Tensor, negative: Tensor, rows: Interactions, log_q: Tensor, positive_log_q: Tensor
) -> Tensor:
    """Softmax of each row's item against shared sampled negatives, corrected by their log expected counts.

    positive [T, R], negative [T, N], log_q [N], positive_log_q [T, R] (Bengio & Senecal 2008: subtracting log q
    makes the sampled loss estimate the full one).
    """
    others = torch.logsumexp(negative - log_q, 1)[:, None]
    own = positive - positive_log_q
    return mean_over_rows(F.softplus(others - own), rows.mask)
