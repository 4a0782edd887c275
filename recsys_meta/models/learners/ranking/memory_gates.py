"""Gates: the weight of each memory's logits at each support size, chosen on meta-validation episodes.

A gate is (w, h). For a support of n rows the weight is g(n) = w n / (n + h), which grows with every row; for the memory
that depends on the entity's time of arrival alone ("recent") it is w h / (n + h), which falls. (0, 0) is closed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, TaskBatch
from recsys_meta.metrics.ranking_metrics import ndcg

MemoryKind = Literal["posterior", "ease", "cosine", "recent"]
Gate = tuple[float, float]
CLOSED_GATE: Gate = (0.0, 0.0)
WEIGHTS: Mapping[MemoryKind, tuple[float, ...]] = {
    "posterior": (0.1, 0.2, 0.4, 0.7, 1.0, 1.4),
    "ease": (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    "cosine": (0.1, 0.2, 0.4, 0.7, 1.2),
    "recent": (0.25, 0.5, 1.0, 2.0, 4.0),
}
"""Candidates for w."""
HALVES = (0.0, 2.0, 6.0, 15.0, 40.0)
"""Candidates for h: the support size at which a gate is half open."""
LEAST_GAIN = 1e-5
"""Gain in mean nDCG below which a search step counts as none."""


def gate_weight(kind: MemoryKind, gate: Gate | Tensor, size: Tensor) -> Tensor:
    """Weight g(n) of a memory for supports of `size` rows (any shape, float)."""
    grown = growing_weight(gate, size)
    value: Tensor = gate[0] - grown if kind == "recent" else grown
    return value


def growing_weight(gate: Gate | Tensor, size: Tensor) -> Tensor:
    """Weight w n / (n + h) of a gate that opens with the number of rows n = size (any shape, float)."""
    weight, half = gate
    value: Tensor = weight * (size / (size + half).clamp(min=1e-9))
    return value


def score_scale_of(kind: MemoryKind, logits: Tensor) -> Tensor:
    """Standard deviation of a memory's logits [T, C] over items and tasks, before any logarithm."""
    plain = torch.expm1(logits) if kind == "cosine" else logits
    return plain[:, FIRST:].std().clamp(min=1e-6)


def search_gates(
    kinds: Sequence[MemoryKind],
    base: Sequence[Tensor],
    logits: Mapping[MemoryKind, Sequence[Tensor]],
    batches: Sequence[TaskBatch],
) -> dict[MemoryKind, Gate]:
    """Gates with the best mean nDCG@10 over the batches, one batch a support size; all closed without a clear gain.

    base[i] [T, C] are the scores without memories, logits[kind][i] [T, C] those of each memory. Coordinate search over
    a small grid, twice round.
    """
    gates: dict[MemoryKind, Gate] = dict.fromkeys(kinds, CLOSED_GATE)
    targets = [relevant_and_candidates(b, len(x[0])) for b, x in zip(batches, base, strict=True)]

    def task_ndcg(candidate: Mapping[MemoryKind, Gate]) -> Tensor:
        values = []
        for i, batch in enumerate(batches):
            size = batch.support.rows.counts[:, None]
            scores = base[i]
            for kind, gate in candidate.items():
                if gate[0]:
                    scores = scores + gate_weight(kind, gate, size) * logits[kind][i]
            values.append(ndcg(scores, *targets[i]))
        return torch.cat(values)

    without = best = task_ndcg(gates)
    for kind, gate in itertools.chain(*(_gate_grid(kinds) for _ in range(2))):
        candidate = gates | {kind: gate}
        value = task_ndcg(candidate)
        if float((value - best).nanmean()) > LEAST_GAIN:
            best, gates = value, candidate
    return gates if _is_clear(best - without, batches) else dict.fromkeys(kinds, CLOSED_GATE)


def _is_clear(gain: Tensor, batches: Sequence[TaskBatch]) -> bool:
    """True if the mean gain is above its standard error over entities: among few entities a search finds gains that
    are luck. The points of an entity's curve count as one."""
    entity = torch.cat([b.entity for b in batches])
    has_gain = ~gain.isnan()
    _, position = torch.unique(entity[has_gain], return_inverse=True)
    count = torch.bincount(position)
    mean = torch.bincount(position, gain[has_gain].double()) / count
    return len(mean) > 1 and float(mean.mean()) > float(mean.std() / len(mean) ** 0.5)


def _gate_grid(kinds: Sequence[MemoryKind]) -> list[tuple[MemoryKind, Gate]]:
    grid = [(k, (w, h)) for k in kinds for w in WEIGHTS[k] for h in HALVES if h or k != "recent"]
    return grid + [(k, CLOSED_GATE) for k in kinds]


def relevant_and_candidates(batch: TaskBatch, catalogue: int) -> tuple[Tensor, Tensor]:
    """Masks [T, C] of the items of the query, and of those that are ranked: all but the support's."""
    relevant = torch.zeros(batch.support.size, catalogue, dtype=torch.bool)
    relevant.scatter_(1, batch.query.item * batch.query.mask, True)
    candidates = torch.ones_like(relevant).scatter_(1, batch.support.seen_items, False)
    candidates[:, :FIRST] = False
    return relevant, candidates
