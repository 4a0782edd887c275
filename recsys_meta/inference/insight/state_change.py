"""Change of an entity's state by its events, part by part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_meta.inference.insight.explanations import without_rows
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity


@dataclass(frozen=True)
class StateChange:
    """One part of an entity's state: its shape, its norm before the first event and after the last, and the norm of the
    difference; both but `after` are NaN where the part has another shape before the first event."""

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    difference: float


def state_changes(recommender: Recommender, entity: EncodedEntity) -> list[StateChange]:
    """Adapt with an entity's events and without them, and compare. Raises what the model raises."""
    nothing = without_rows(entity, range(entity.support_size))
    before, after = (recommender.adapt([one]) for one in (nothing, entity))
    return [_change(name, before.get(name), leaf) for name, leaf in after.items()]


def _change(name: str, before: Tensor | None, after: Tensor) -> StateChange:
    shape = tuple(after.shape[1:])
    if before is None or before.shape != after.shape:
        return StateChange(name, shape, float("nan"), _norm(after), float("nan"))
    return StateChange(name, shape, _norm(before), _norm(after), _norm(after.double() - before.double()))


def _norm(leaf: Tensor) -> float:
    return float(torch.linalg.vector_norm(leaf.double()))
