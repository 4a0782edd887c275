"""Gates: how much each memory is trusted at each support size, chosen on meta-validation episodes.

A gate is (w, h). For a support of n rows it trusts g(n) = w n / (n + h), more with every row; what speaks of the
newcomer's time alone ("recent") is trusted w h / (n + h), less with every row. (0, 0) is shut.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, TaskBatch
from recsys_meta.metrics.ranking_metrics import ndcg

Kind = Literal["posterior", "ease", "cosine", "recent"]
Gate = tuple[float, float]
CLOSED_GATE: Gate = (0.0, 0.0)
WEIGHTS: Mapping[Kind, tuple[float, ...]] = {
    "posterior": (0.1, 0.2, 0.4, 0.7, 1.0, 1.4),
    "ease": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    "cosine": (0.1, 0.2, 0.4, 0.7, 1.2),
    "recent": (0.25, 0.5, 1.0, 2.0, 4.0),
}
HALVES = (0.0, 2.0, 6.0, 15.0, 40.0)


def gate_weight(kind: Kind, gate: Gate, size: Tensor) -> Tensor:
    """g(n) for supports of `size` rows (any shape, float)."""
    weight, half = gate
    grows = size / (size + half).clamp(min=1e-9)
    return weight * (1 - grows if kind == "recent" else grows)


def score_scale_of(kind: Kind, said: Tensor) -> Tensor:
    """The spread of what a memory says, before any logarithm."""
    plain = torch.expm1(said) if kind == "cosine" else said
    return plain[:, FIRST:].std().clamp(min=1e-6)


def search_gates(
    kinds: Sequence[Kind],
    base: Sequence[Tensor],
    said: Mapping[Kind, Sequence[Tensor]],
    batches: Sequence[TaskBatch],
) -> dict[Kind, Gate]:
    """The gates with the best mean nDCG@10 over the batches, one batch a support size; all shut without a clear gain.

    base[i] [T, C] are the scores without memories, said[kind][i] [T, C] what each memory says. Coordinate search
    over a small grid, twice round.
    """
    gates: dict[Kind, Gate] = dict.fromkeys(kinds, CLOSED_GATE)
    targets = [_targets(b, len(x[0])) for b, x in zip(batches, base, strict=True)]

    def value(tried: Mapping[Kind, Gate]) -> Tensor:
        each = []
        for i, batch in enumerate(batches):
            size = batch.support.rows.counts[:, None]
            scores = base[i]
            for kind, (weight, half) in tried.items():
                if weight:
                    scores = scores + gate_weight(kind, (weight, half), size) * said[kind][i]
            each.append(ndcg(scores, *targets[i]))
        return torch.cat(each)

    closed = best = value(gates)
    for kind, weight, half in itertools.chain(*(_grid(kinds) for _ in range(2))):
        tried = gates | {kind: (weight, half)}
        found = value(tried)
        if float((found - best).nanmean()) > 1e-5:
            best, gates = found, tried
    return gates if _clear(best - closed, batches) else dict.fromkeys(kinds, CLOSED_GATE)


def _clear(gain: Tensor, batches: Sequence[TaskBatch]) -> bool:
    """Whether the mean gain is above its standard error over entities: with few of them a search finds gains that
    are luck. An entity's points of the curve count as one."""
    entity = torch.cat([b.entity for b in batches])
    known = ~gain.isnan()
    _, place = torch.unique(entity[known], return_inverse=True)
    count = torch.bincount(place)
    mean = torch.bincount(place, gain[known].double()) / count
    return len(mean) > 1 and float(mean.mean()) > float(mean.std() / len(mean) ** 0.5)


def _grid(kinds: Sequence[Kind]) -> list[tuple[Kind, float, float]]:
    open_gates = [(k, w, h) for k in kinds for w in WEIGHTS[k] for h in HALVES if h or k != "recent"]
    return open_gates + [(k, 0.0, 0.0) for k in kinds]


def _targets(batch: TaskBatch, catalogue: int) -> tuple[Tensor, Tensor]:
    """(relevant, shown), each [T, C] bool."""
    rows = batch.support.rows
    relevant = torch.zeros(batch.support.size, catalogue, dtype=torch.bool)
    relevant.scatter_(1, batch.query.item * batch.query.mask, True)
    shown = torch.ones_like(relevant).scatter_(1, rows.item * rows.mask, False)
    shown[:, :FIRST] = False
    return relevant, shown
