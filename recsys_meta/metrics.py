"""Metrics, for a batch of tasks at once, and what may be concluded from them.

Ranking is over the full catalogue; gains are binary; ties are broken at random, because a constant model would
otherwise inherit the order of the items (papers.md, traps 5 and 12 in our notes; Krichene & Rendle 2020 on
sampled candidates).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys_meta.types import FloatArray

RANKING = ("ndcg@10", "recall@20", "mrr", "hit@10")
RATING = ("rmse", "mae", "ndcg@5")
LOWER_IS_BETTER = frozenset({"rmse", "mae", "logloss"})


def ranking_metrics(scores: Tensor, relevant: Tensor, shown: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """nDCG@10, Recall@20, MRR and hit rate@10 of T tasks, each [T] (NaN where nothing is relevant).

    scores [T, C]; relevant [T, C] bool; shown [T, C] bool: items that may be recommended at all.
    Recall@20 is divided by the number of relevant items; MRR looks at the whole ranking.
    """
    mix = torch.randperm(scores.shape[1], generator=generator, device=generator.device).to(scores.device)
    scores = scores.masked_fill(~shown, -torch.inf)[:, mix]
    hits = (relevant & shown)[:, mix]
    total = hits.sum(1).float()
    depth = min(20, scores.shape[1])
    top = scores.topk(depth, dim=1).indices
    found = hits.gather(1, top).float()
    ten = min(10, depth)
    best = scores.masked_fill(~hits, -torch.inf).max(1, keepdim=True).values
    # Ties with the first relevant item: those that the mixing put before it.
    tied = scores == best
    column = torch.arange(scores.shape[1], device=scores.device)
    first = column.expand_as(tied).masked_fill(~(tied & hits), scores.shape[1]).amin(1, keepdim=True)
    rank = 1 + ((scores > best) | (tied & (column < first))).sum(1).float()
    none = total == 0
    values = {
        "ndcg@10": _gain(found[:, :ten], total),
        "recall@20": found.sum(1) / total.clamp(min=1),
        "mrr": 1 / rank,
        "hit@10": found[:, :ten].amax(1),
    }
    return {name: value.masked_fill(none, torch.nan) for name, value in values.items()}


def ndcg(scores: Tensor, relevant: Tensor, shown: Tensor, depth: int = 10) -> Tensor:
    """nDCG at a depth alone, [T], ties as they come: for searches that compare many scores of the same tasks."""
    top = scores.masked_fill(~shown, -torch.inf).topk(min(depth, scores.shape[1]), dim=1).indices
    hits = relevant & shown
    total = hits.sum(1).float()
    return _gain(hits.gather(1, top).float(), total).masked_fill(total == 0, torch.nan)


def _gain(found: Tensor, total: Tensor) -> Tensor:
    """Discounted gain of found [T, N] over the best possible with `total` [T] relevant items."""
    depth = found.shape[1]
    discount = 1 / torch.log2(torch.arange(2, depth + 2, device=found.device, dtype=torch.float32))
    ideal = torch.cat([torch.zeros(1, device=found.device), discount.cumsum(0)])
    return (found * discount).sum(1) / ideal[total.clamp(max=depth).long()].clamp(min=1e-9)


def rating_metrics(predicted: Tensor, label: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Squared error, absolute error and nDCG@5 within the query (gain 2^r - 1) of T tasks, each [T].

    predicted, label, mask [T, Q]. Predictions are clipped to the scale for the errors; nDCG@5 is the expected one
    if rows of equal prediction were put in random order. 'rmse' holds the *mean squared error* of
    each task: its root is taken after averaging (see `summarise`).
    """
    count = mask.sum(1).float()
    error = (predicted.clamp(low, high) - label).masked_fill(~mask, 0.0)
    gain = (2.0**label - 1).masked_fill(~mask, 0.0)
    depth = min(5, label.shape[1])
    discount = 1 / torch.log2(torch.arange(2, depth + 2, device=label.device, dtype=torch.float32))
    value, order = predicted.masked_fill(~mask, -torch.inf).sort(1, descending=True)
    reached = (_tied_mean(value, gain.gather(1, order))[:, :depth] * discount).sum(1)
    highest = gain.masked_fill(~mask, -torch.inf).topk(depth, dim=1).values
    ideal = (highest.masked_fill(highest == -torch.inf, 0.0) * discount).sum(1)
    values = {
        "rmse": error.square().sum(1) / count,
        "mae": error.abs().sum(1) / count,
        "ndcg@5": torch.where(ideal > 0, reached / ideal.clamp(min=1e-9), torch.ones_like(ideal)),
    }
    return {name: value.masked_fill(count == 0, torch.nan) for name, value in values.items()}


def _tied_mean(value: Tensor, gain: Tensor) -> Tensor:
    """Gains [T, Q] in descending order of value, each replaced by the mean over the rows of equal value."""
    changes = torch.zeros_like(value, dtype=torch.bool)
    changes[:, 1:] = value[:, 1:] != value[:, :-1]
    group = changes.cumsum(1)
    total = torch.zeros_like(gain).scatter_add(1, group, gain)
    rows = torch.zeros_like(gain).scatter_add(1, group, torch.ones_like(gain))
    return (total / rows.clamp(min=1)).gather(1, group)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval over n entities."""

    value: float
    low: float
    high: float
    n: int


def summarise(metric: str, values: FloatArray, seed: int = 0, draws: int = 1000) -> Interval:
    """Mean over entities with a 95% bootstrap interval over entities; NaN entries leave. RMSE is the root."""
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    finish = np.sqrt if metric == "rmse" else np.asarray
    low, high = np.quantile(finish(_bootstrap(kept, seed, draws)), [0.025, 0.975])
    return Interval(float(finish(kept.mean())), float(low), float(high), len(kept))


def summarise_seeds(metric: str, seeds: Sequence[FloatArray], draws: int = 1000) -> Interval:
    """Mean over seeds of the mean over entities; the interval resamples entities within each seed."""
    kept = [v[~np.isnan(v)] for v in (np.asarray(s, np.float64) for s in seeds)]
    kept = [v for v in kept if len(v)]
    if not kept:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    finish = np.sqrt if metric == "rmse" else np.asarray
    drawn = np.mean([finish(_bootstrap(v, i, draws)) for i, v in enumerate(kept)], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(np.mean([finish(v.mean()) for v in kept])), float(low), float(high), sum(map(len, kept)))


@dataclass(frozen=True)
class Paired:
    """Mean difference of two methods on the same entities, its 95% interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    n: int


def paired(ours: FloatArray, theirs: FloatArray, seed: int = 0, draws: int = 2000) -> Paired:
    """Paired bootstrap over entities; the p-value is that of the sign-flip permutation test."""
    gap = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    gap = gap[~np.isnan(gap)]
    if not len(gap):
        return Paired(float("nan"), float("nan"), float("nan"), 1.0, 0)
    low, high = np.quantile(_bootstrap(gap, seed, draws), [0.025, 0.975])
    extreme = np.abs(_flipped(gap, seed + 1, draws)) >= abs(gap.sum()) - 1e-12
    return Paired(float(gap.mean()), float(low), float(high), float((extreme.sum() + 1) / (draws + 1)), len(gap))


def _flipped(gap: FloatArray, seed: int, draws: int) -> FloatArray:
    """Sums of the gaps under `draws` random signs each, in blocks so that memory stays small."""
    rng = np.random.default_rng(seed)
    n = len(gap)
    block = max(1, 4_000_000 // n)
    sums = [
        (rng.integers(0, 2, (min(block, draws - i), n), dtype=np.int8) * 2 - 1) @ gap for i in range(0, draws, block)
    ]
    return np.concatenate(sums)


def _bootstrap(values: FloatArray, seed: int, draws: int) -> FloatArray:
    """Means of `draws` resamples with replacement, in blocks so that memory stays small."""
    rng = np.random.default_rng(seed)
    n = len(values)
    block = max(1, 4_000_000 // n)
    means = [values[rng.integers(0, n, (min(block, draws - i), n))].mean(1) for i in range(0, draws, block)]
    return np.concatenate(means)
