"""Ranking, rating and choice metrics for a batch of tasks at once.

Ranking is over the full catalogue (Krichene & Rendle 2020 on why not over sampled candidates) with binary gains; a
score that is not a number ranks below every number. Ties are broken at random, because a constant model would otherwise
inherit the order of the items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.metrics.metric_names import CHOICE as CHOICE  # noqa: PLC0414 they are to be had here too
from recsys_meta.metrics.metric_names import CLICK as CLICK  # noqa: PLC0414
from recsys_meta.metrics.metric_names import LOWER_IS_BETTER as LOWER_IS_BETTER  # noqa: PLC0414
from recsys_meta.metrics.metric_names import METRICS as METRICS  # noqa: PLC0414
from recsys_meta.metrics.metric_names import NEW_ITEMS as NEW_ITEMS  # noqa: PLC0414
from recsys_meta.metrics.metric_names import RANKING as RANKING  # noqa: PLC0414
from recsys_meta.metrics.metric_names import RATING as RATING  # noqa: PLC0414
from recsys_meta.metrics.metric_names import require_metric as require_metric  # noqa: PLC0414


def ranking_metrics(
    scores: Tensor, relevant: Tensor, candidates: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """nDCG@10, Recall@20, MRR and hit rate@10 of T tasks, each [T], NaN where no candidate is relevant.

    scores [T, C]; relevant [T, C] bool; candidates [T, C] bool: items that are ranked. Recall@20 is divided by the
    number of relevant candidates; MRR looks at the whole ranking.
    """
    permutation = torch.randperm(scores.shape[1], generator=generator, device=generator.device).to(scores.device)
    scores = torch.where(candidates, _nan_as_lowest(scores), -torch.inf)
    hits = relevant & candidates
    total = _count(hits).float()
    depth = min(20, scores.shape[1])
    top_hits = _top_hits(scores, hits, permutation, depth)
    ten = min(10, depth)
    rank = _rank_of_best_hit(scores, hits, permutation)
    no_hit = total == 0
    values = {
        "ndcg@10": _binary_ndcg(top_hits[:, :ten], total),
        "recall@20": top_hits.sum(1) / total.clamp(min=1),
        "mrr": 1 / rank,
        "hit@10": top_hits[:, :ten].amax(1),
    }
    return {name: value.masked_fill(no_hit, torch.nan) for name, value in values.items()}


def _top_hits(scores: Tensor, hits: Tensor, permutation: Tensor, depth: int) -> Tensor:
    """Hits [T, depth] among the best by scores [T, C], best first; a tie goes to what a random order puts first.

    Only rows with a tie among the best are put in that order: to move every column takes ten times as long as the rest.
    """
    best = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    top_hits = hits.gather(1, best.indices[:, :depth]).float()
    is_tied = (best.values[:, 1:] == best.values[:, :-1]).any(1)
    if is_tied.any():
        shuffled, shuffled_hits = scores[is_tied][:, permutation], hits[is_tied][:, permutation]
        top_hits[is_tied] = shuffled_hits.gather(1, shuffled.topk(depth, dim=1).indices).float()
    return top_hits


def _rank_of_best_hit(scores: Tensor, hits: Tensor, permutation: Tensor) -> Tensor:
    """Rank [T] of the best hit by scores [T, C], from 1; of its ties those count that a random order puts before it."""
    best_hit = torch.where(hits, scores, -torch.inf).amax(1, keepdim=True)
    above, level = _count(scores > best_hit), _count(scores >= best_hit)
    is_tied = level - above > 1
    if is_tied.any():
        tie = scores[is_tied] == best_hit[is_tied]
        place = torch.empty_like(permutation)
        place[permutation] = torch.arange(len(permutation), device=permutation.device)
        place = place.expand_as(tie)
        first = place.masked_fill(~(tie & hits[is_tied]), scores.shape[1]).amin(1, keepdim=True)
        above[is_tied] += _count(tie & (place < first))
    return 1 + above.float()


def _count(mask: Tensor) -> Tensor:
    """Number [T] of true cells of a mask [T, C]; as bytes, which add up in a tenth of the time that booleans take."""
    return mask.view(torch.uint8).sum(1, dtype=torch.int32)


def new_item_metrics(
    scores: Tensor, relevant: Tensor, candidates: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """nDCG@20, Recall@20, nDCG@10 and share@10 of T entities, each [T], NaN where no candidate is relevant.

    Arguments as in `ranking_metrics`. Recall@20 is divided by all relevant candidates, share@10 by at most ten of them.
    """
    permutation = torch.randperm(scores.shape[1], generator=generator)
    scores = _nan_as_lowest(scores).masked_fill(~candidates, -torch.inf)[:, permutation]
    hits = (relevant & candidates)[:, permutation]
    total = hits.sum(1).float()
    return metrics_of_lists(hits.gather(1, scores.topk(min(20, scores.shape[1]), dim=1).indices), total)


def metrics_of_lists(hits: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Metrics of `new_item_metrics` [T] of lists that are cut already: hits [T, 20] bool in their order, or of fewer
    items where there are no more; total [T]: relevant candidates."""
    listed, total = hits.float(), total.float()
    ten = listed[:, :10]
    values = {
        "ndcg@20": _binary_ndcg(listed, total),
        "recall@20": listed.sum(1) / total.clamp(min=1),
        "ndcg@10": _binary_ndcg(ten, total),
        "share@10": ten.sum(1) / total.clamp(min=1, max=10),
    }
    return {name: value.masked_fill(total == 0, torch.nan) for name, value in values.items()}


def ndcg(scores: Tensor, relevant: Tensor, candidates: Tensor, depth: int = 10) -> Tensor:
    """nDCG at one depth, [T], with ties in the order of the items: for searches over many scores of the same tasks."""
    top = _nan_as_lowest(scores).masked_fill(~candidates, -torch.inf).topk(min(depth, scores.shape[1]), dim=1).indices
    hits = relevant & candidates
    return ndcg_of_hits(hits.gather(1, top), hits.sum(1))


def ndcg_of_hits(hits: Tensor, total: Tensor) -> Tensor:
    """nDCG [T] of lists that are cut already: hits [T, N] bool in their order, `total` [T] relevant candidates; NaN
    where there is none."""
    return _binary_ndcg(hits.float(), total.float()).masked_fill(total == 0, torch.nan)


def _nan_as_lowest(scores: Tensor) -> Tensor:
    """Scores with the lowest number in place of NaN, which topk would put first and no comparison finds above."""
    if not scores.sum().isnan():  # one pass over the scores, where the two below are three
        return scores
    return scores.masked_fill(scores.isnan(), torch.finfo(scores.dtype).min)


def _binary_ndcg(hits: Tensor, total: Tensor) -> Tensor:
    """Discounted gain of hits [T, N] over the best possible one with `total` [T] relevant items."""
    depth = hits.shape[1]
    discount = 1 / torch.log2(torch.arange(2, depth + 2, device=hits.device, dtype=torch.float32))
    ideal = torch.cat([torch.zeros(1, device=hits.device), discount.cumsum(0)])
    return (hits * discount).sum(1) / ideal[total.clamp(max=depth).long()].clamp(min=1e-9)


def rating_metrics(prediction: Tensor, label: Tensor, mask: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Squared error, absolute error and nDCG@5 within the query (gain 2^r - 1) of T tasks, each [T].

    prediction, label, mask [T, Q]. Predictions are clipped to the scale `low` to `high` for the errors, and one that is
    not a number has an infinite error; nDCG@5 is the expected one if rows of equal prediction were put in random order.
    "rmse" holds the *mean squared error* of each task: its root is taken after averaging (see `summarise`). NaN for a
    task without query rows.
    """
    count = mask.sum(1).float()
    error = prediction.clamp(low, high) - label
    error = error.masked_fill(error.isnan(), torch.inf).masked_fill(~mask, 0.0)
    gain = (2.0**label - 1).masked_fill(~mask, 0.0)
    depth = min(5, label.shape[1])
    discount = 1 / torch.log2(torch.arange(2, depth + 2, device=label.device, dtype=torch.float32))
    value, order = _nan_as_lowest(prediction).masked_fill(~mask, -torch.inf).sort(1, descending=True)
    dcg = (_mean_gain_of_ties(value, gain.gather(1, order))[:, :depth] * discount).sum(1)
    highest = gain.masked_fill(~mask, -torch.inf).topk(depth, dim=1).values
    ideal = (highest.masked_fill(highest == -torch.inf, 0.0) * discount).sum(1)
    values = {
        "rmse": error.square().sum(1) / count,
        "mae": error.abs().sum(1) / count,
        "ndcg@5": torch.where(ideal > 0, dcg / ideal.clamp(min=1e-9), torch.ones_like(ideal)),
    }
    return {name: value.masked_fill(count == 0, torch.nan) for name, value in values.items()}


def _mean_gain_of_ties(value: Tensor, gain: Tensor) -> Tensor:
    """Gains [T, Q] in descending order of value, each replaced by the mean gain of the rows of equal value."""
    changes = torch.zeros_like(value, dtype=torch.bool)
    changes[:, 1:] = value[:, 1:] != value[:, :-1]
    group = changes.cumsum(1)
    total = torch.zeros_like(gain).scatter_add(1, group, gain)
    rows = torch.zeros_like(gain).scatter_add(1, group, torch.ones_like(gain))
    return (total / rows.clamp(min=1)).gather(1, group)


def choice_metrics(scores: Tensor, target: Tensor, candidates: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Hit rate and nDCG at 5 and 10, and MRR, of one relevant candidate in each of R rows, [R] each.

    scores [R, K]; target [R] int64: column of the relevant one; candidates [R, K] bool. Ties are broken at random.
    """
    scores = _nan_as_lowest(scores)
    target_score = scores.gather(1, target[:, None])
    others = candidates.scatter(1, target[:, None], False)
    above = ((scores > target_score) & others).sum(1)
    ties = ((scores == target_score) & others).sum(1)
    uniform = torch.rand(len(scores), generator=generator, device=generator.device).to(scores.device)
    rank = 1 + above + (uniform * (ties + 1)).floor().long()
    gain = 1 / torch.log2(rank.float() + 1)
    values = {f"hit@{k}": (rank <= k).float() for k in (5, 10)}
    values |= {f"ndcg@{k}": gain * (rank <= k) for k in (5, 10)}
    return values | {"mrr": 1 / rank.float()}
