"""Shares of learners that are linear in the meta-features of a task: a softmax, or all to the one of highest logit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

LEAST_SHARE = 1e-4
"""Smaller shares are none, so that a learner without a say is not asked."""
CERTAIN = 30.0
"""Logit of the one learner that is always chosen."""


@dataclass(frozen=True)
class LinearShares:
    """Logits x @ weight + bias of standardized meta-features x; weight [D, M], bias [M]. `pick` [1]: 1 where the
    highest logit takes all, 0 for a softmax."""

    weight: Tensor
    bias: Tensor
    pick: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Shares [N, M] for meta-features [N, D]; each row sums to 1, up to LEAST_SHARE of every learner."""
        logits = features @ self.weight + self.bias
        soft = torch.softmax(logits, 1)
        soft = soft * (soft >= LEAST_SHARE)
        highest = functional.one_hot(logits.argmax(1), logits.shape[1]).to(soft.dtype)
        return torch.where(self.pick > 0, highest, soft)


def equal_shares(features: int, members: int) -> LinearShares:
    """Return equal shares of M members, whatever the D meta-features are."""
    return LinearShares(torch.zeros(features, members), torch.zeros(members), torch.zeros(1))


def single_share(features: int, members: int, member: int) -> LinearShares:
    """Return all to one member, whatever the D meta-features are."""
    bias = torch.zeros(members)
    bias[member] = CERTAIN
    return replace(equal_shares(features, members), bias=bias)
