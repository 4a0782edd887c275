"""Entity intercepts: a random intercept for each new entity, on top of a frozen model's scores of its rows.

    logit = score + u,    u ~ N(0, variance)

A step on an ID embedding has the same length whatever the support; an intercept has an exact posterior
(`laplace_posterior`, in one dimension): one click among five rows moves it far, none among five hardly. The share of
the steps on the embedding and the prior variance are chosen together on meta-validation: the pair of least error over
all support sizes, since a prior does not depend on the size of the support, and each size alone has too few entities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions, Params
from recsys_meta.models.functional.laplace_posterior import laplace_posterior

STEP_SHARES = (0.0, 0.3, 1.0)
"""Candidates for the share of the steps on the embedding."""
VARIANCES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Candidates for the prior variance of an intercept."""
STEPS = 6
"""Steps of the posterior's solver."""


def init_intercepts() -> Params:
    """Parameters before calibration: all of the steps, no intercept."""
    return {"own.kept": torch.tensor(1.0), "own.variance": torch.tensor(0.0)}


def entity_intercepts(score: Tensor, rows: Interactions, variance: Tensor) -> Tensor:
    """Posterior mode u [T] of each entity's intercept, given the scores [T, S] of its support rows."""
    if not score.shape[1]:
        return score.new_zeros(len(score))
    x = variance.sqrt().expand(*score.shape, 1)
    offset, label = (v.masked_fill(~rows.mask, 0.0) for v in (score, rows.label))
    mode, _ = laplace_posterior(x, offset, label, rows.mask.to(score.dtype), STEPS)
    return variance.sqrt() * mode[:, 0]


def choose_shrinkage(errors: Sequence[Tensor]) -> Params:
    """Choose share and variance of least error, from errors [STEP_SHARES, VARIANCES] summed over the rows of
    episodes."""
    best = int(torch.stack(list(errors)).sum(0).argmin())
    step_share, variance = STEP_SHARES[best // len(VARIANCES)], VARIANCES[best % len(VARIANCES)]
    return {"own.kept": torch.tensor(step_share), "own.variance": torch.tensor(variance)}
