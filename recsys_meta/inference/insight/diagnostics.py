"""Diagnostics of an adaptation: the loss of the support before and after it, and the gradient it started from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.core.types import Support
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity


@dataclass(frozen=True)
class AdaptationDiagnostics:
    """Loss of the support before and after one adaptation, and the norm of its gradient at the start.

    Before is the state of the same entity without a row, but with its features and its own catalogue if it has one;
    after is the adapted state. The two also differ where `steps` is 0: then they are the losses without what the
    support's rows were counted for, and with it. A model that judges each row by the others alone may have the greater
    loss after adapting; of one that has counted the row too some of the gain is that it knew the answer.
    """

    support_size: int
    steps: int
    loss_before: float
    loss_after: float
    gradient_norm: float


def diagnose(recommender: Recommender, entities: Sequence[EncodedEntity]) -> list[AdaptationDiagnostics]:
    """Diagnose the adaptations to T entities. Costs more than adapting, so serving calls it after the answer."""
    predictor, support = recommender.bundle.predictor, recommender.encoder.support(entities)
    with torch.no_grad():
        state = predictor.adapt(recommender.body, support)
        after = predictor.support_loss(recommender.body, state, support)
    before, norm = _loss_and_gradient_norm(recommender, support.empty(), support)
    steps = int(getattr(predictor.config, "steps", 1))
    values = zip(before.tolist(), after.tolist(), norm.tolist(), strict=True)
    return [
        AdaptationDiagnostics(entity.support_size, steps if entity.support_size else 0, *losses)
        for entity, losses in zip(entities, values, strict=True)
    ]


def gradient_norms(recommender: Recommender, entity: EncodedEntity, cases: Sequence[EncodedEntity]) -> Tensor:
    """Return the norms [T] of the gradients that the supports of T cases have at the state of one entity."""
    start = recommender.encoder.support([entity])
    start = start.of(torch.zeros(len(cases), dtype=torch.int64))
    return _loss_and_gradient_norm(recommender, start, recommender.encoder.support(cases))[1]


def _loss_and_gradient_norm(recommender: Recommender, start: Support, support: Support) -> tuple[Tensor, Tensor]:
    """Compute the losses [T] of supports at the states of other supports, and the norms [T] of their gradients."""
    predictor, body = recommender.bundle.predictor, recommender.body
    with torch.no_grad():
        state = {name: leaf.clone() for name, leaf in predictor.adapt(body, start).items()}
    leaves = [leaf.requires_grad_(True) for leaf in state.values() if leaf.is_floating_point()]
    with torch.enable_grad():
        loss = predictor.support_loss(body, state, support)
    square = torch.zeros(support.size)
    if loss.requires_grad:
        # No task touches another's state, so the gradient of the sum holds each task's own.
        for gradient in torch.autograd.grad(loss.sum(), leaves, allow_unused=True):
            square += 0.0 if gradient is None else gradient.reshape(support.size, -1).square().sum(1)
    return loss.detach(), square.sqrt()


def finite_or_none(value: float) -> float | None:
    """Return a value, or None where it is infinite or not a number."""
    return value if math.isfinite(value) else None
