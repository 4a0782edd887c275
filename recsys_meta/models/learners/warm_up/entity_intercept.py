"""A level of its own for each newcomer, on top of what a frozen model says of its rows.

    logit = score + u,    u ~ N(0, variance)

A step on an ID embedding is as long whatever the support says; a level has an exact posterior (`newton`, in one
dimension): one click among five rows moves it far, none among five hardly. How much is kept of the steps on the
embedding, and the prior variance, are chosen together on meta-validation: the pair of least error over all sizes of
the support, since a prior does not depend on how much was seen, and every size alone has too few newcomers to tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions, Params
from recsys_meta.models.functional.laplace_posterior import laplace_posterior

STEP_SHARES = (0.0, 0.3, 1.0)
"""Shares of the steps on the embedding that are tried."""
VARIANCES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Prior variances of a level that are tried."""
STEPS = 6
"""Of Newton."""


def init_intercepts() -> Params:
    """Before anything is chosen: all of the steps, no level."""
    return {"own.kept": torch.tensor(1.0), "own.variance": torch.tensor(0.0)}


def entity_intercepts(score: Tensor, rows: Interactions, variance: Tensor) -> Tensor:
    """The mode u [T] of each newcomer's level, given the scores [T, S] of its support."""
    if not score.shape[1]:
        return score.new_zeros(len(score))
    x = variance.sqrt().expand(*score.shape, 1)
    offset, label = (v.masked_fill(~rows.mask, 0.0) for v in (score, rows.label))
    mode, _ = laplace_posterior(x, offset, label, rows.mask.to(score.dtype), STEPS)
    return variance.sqrt() * mode[:, 0]


def choose_shrinkage(errors: Sequence[Tensor]) -> Params:
    """The share and the variance of least error, from errors [KEPT, VARIANCES] summed over the rows of episodes."""
    best = int(torch.stack(list(errors)).sum(0).argmin())
    step_share, variance = STEP_SHARES[best // len(VARIANCES)], VARIANCES[best % len(VARIANCES)]
    return {"own.kept": torch.tensor(step_share), "own.variance": torch.tensor(variance)}
