"""Metrics, for a batch of tasks at once; `intervals` says what may be concluded from them.

Ranking is over the full catalogue; gains are binary; a score that is not a number ranks below every number. Ties are
broken at random, because a constant model would otherwise inherit the order of the items (papers.md, traps 5 and 12 in
our notes; Krichene & Rendle 2020 on sampled candidates).
"""

from __future__ import annotations

import torch
from torch import Tensor

RANKING = ("ndcg@10", "recall@20", "mrr", "hit@10")
RATING = ("rmse", "mae", "ndcg@5")
CLICK = ("logloss", "auc", "ece")
CHOICE = (
    "hit@10", "hit@5", "ndcg@10", "ndcg@5", "mrr",
    "new_hit@10", "new_hit@5", "new_ndcg@10", "new_ndcg@5",
    "macro_hit@10", "macro_new_hit@10",
)  # fmt: skip
"""Means over query rows; `new_` over rows whose item their actor had not taken before; `macro_` over entities."""
LOWER_IS_BETTER = frozenset({"rmse", "mae", "logloss", "ece"})


def ranking_metrics(scores: Tensor, relevant: Tensor, shown: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """nDCG@10, Recall@20, MRR and hit rate@10 of T tasks, each [T] (NaN where nothing is relevant).

    scores [T, C]; relevant [T, C] bool; shown [T, C] bool: items that may be recommended at all.
    Recall@20 is divided by the number of relevant items; MRR looks at the whole ranking.
    """
    mix = torch.randperm(scores.shape[1], generator=generator, device=generator.device).to(scores.device)
    scores = _numbers(scores).masked_fill(~shown, -torch.inf)[:, mix]
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
    top = _numbers(scores).masked_fill(~shown, -torch.inf).topk(min(depth, scores.shape[1]), dim=1).indices
    hits = relevant & shown
    total = hits.sum(1).float()
    return _gain(hits.gather(1, top).float(), total).masked_fill(total == 0, torch.nan)


def _numbers(scores: Tensor) -> Tensor:
    """Scores with the lowest number in place of NaN: nothing compares above NaN, and topk puts it first."""
    return scores.masked_fill(scores.isnan(), torch.finfo(scores.dtype).min)


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
    value, order = _numbers(predicted).masked_fill(~mask, -torch.inf).sort(1, descending=True)
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


def choice_metrics(scores: Tensor, own: Tensor, shown: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Hit rate and nDCG at 5 and 10, and MRR, of one relevant candidate a row, [R] each.

    scores [R, K]; own [R]: the column of the candidate that was taken; shown [R, K] bool. Ties are broken at random.
    """
    scores = _numbers(scores)
    best = scores.gather(1, own[:, None])
    others = shown.scatter(1, own[:, None], False)
    above = ((scores > best) & others).sum(1)
    tied = ((scores == best) & others).sum(1)
    chance = torch.rand(len(scores), generator=generator, device=generator.device).to(scores.device)
    rank = 1 + above + (chance * (tied + 1)).floor().long()
    gain = 1 / torch.log2(rank.float() + 1)
    values = {f"hit@{k}": (rank <= k).float() for k in (5, 10)}
    values |= {f"ndcg@{k}": gain * (rank <= k) for k in (5, 10)}
    return values | {"mrr": 1 / rank.float()}
