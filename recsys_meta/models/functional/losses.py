"""Masked losses of T tasks, each [T]: the mean over a task's real rows.

A task with no rows has loss 0, so that an empty support gives no gradient and no NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys_meta.core.types import Interactions, TaskShard


def mean_over_rows(loss: Tensor, mask: Tensor) -> Tensor:
    """Mean [T] of loss [T, R] over the rows of mask [T, R]."""
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


def mean_over_tasks(loss: Tensor, weight: Tensor, shard: TaskShard | None = None) -> Tensor:
    """Mean of loss [T] weighted by weight [T]; 0 where no task has a weight.

    For a part of a meta-batch loss is that of its own tasks, weight that of all tasks: the result is what these tasks
    contribute to the mean.
    """
    own = weight if shard is None else shard.own(weight)
    return (loss * own).sum() / weight.sum().clamp(min=1)
