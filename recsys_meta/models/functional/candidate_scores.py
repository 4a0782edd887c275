"""Scores of an ensemble's members on meta-validation rankings, on the items that any member puts near the top.

Choosing weights evaluates thousands of sums. An item far down every member's list is near the top of none of them, so
that the sums are made of each entity's candidates alone: cost does not grow with the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST, IntArray, TaskBatch
from recsys_meta.models.functional.score_forms import standardize, top_heavy

NEAREST_TOP = 60
"""Items from the top of each member's list that are candidates."""
DEPTH = 50
"""Length of the lists that weights are chosen by. The first ten items of a few dozen newcomers hold little evidence:
lists five times as long choose weights that are better at ten, too, where meta-validation has few entities."""


@dataclass(frozen=True)
class CandidateScores:
    """Scores of V entities at one number of shots: forms [F, V, N] of N candidates, -inf where there is none.

    gain [V, N]: 1 for relevant candidates; relevant [V] int64: relevant items of the entity's query, candidates or not;
    entity [V] int64.
    F is twice the number of members: standardized forms first, then top-heavy ones.
    """

    forms: Tensor
    gain: Tensor
    relevant: Tensor
    entity: IntArray

    @cached_property
    def _ideal(self) -> Tensor:
        """Highest DCG [V] that the queries allow."""
        return torch.cat([torch.zeros(1), _discount(DEPTH).cumsum(0)])[self.relevant.clamp(max=DEPTH)]

    def ndcg(self, weights: Tensor) -> Tensor:
        """Compute nDCG@50 [V] of the sum of the forms with weights [F]."""
        used = torch.nonzero(weights).flatten()
        if not len(used):
            return torch.zeros(len(self.relevant))
        return self.ndcg_of(torch.einsum("f,fvn->vn", weights[used], self.forms[used]))

    def ndcg_of(self, scores: Tensor) -> Tensor:
        """Compute nDCG@50 [V] of scores [V, N] of the candidates, -inf where there is none."""
        top = scores.topk(min(DEPTH, scores.shape[1]), dim=1).indices
        return (self.gain.gather(1, top) * _discount(top.shape[1])).sum(1) / self._ideal


def candidate_scores(member_scores: Sequence[Tensor], batch: TaskBatch) -> CandidateScores:
    """Reduce the members' scores, each [T, C], of a batch of episodes to candidates.

    Entities without a relevant item are left out.
    """
    query = batch.query
    relevant = torch.zeros(member_scores[0].shape, dtype=torch.bool)
    relevant.scatter_(1, query.item * query.mask, True)
    excluded = torch.zeros_like(relevant).scatter_(1, batch.support.seen_items, True)
    excluded[:, :FIRST] = True
    relevant &= ~excluded
    plain = [standardize(scores) for scores in member_scores]
    columns, is_candidate = _candidates([z.masked_fill(excluded, -torch.inf) for z in plain])
    forms = torch.stack([z.gather(1, columns) for z in plain])
    forms = torch.cat([forms, top_heavy(forms)]).masked_fill(~is_candidate, -torch.inf)
    total = relevant.sum(1)
    keep = total > 0
    gain = (relevant.gather(1, columns) & is_candidate).float()
    return CandidateScores(forms[:, keep], gain[keep], total[keep], batch.entity[keep].numpy())


def concatenate_candidates(parts: Sequence[CandidateScores]) -> CandidateScores:
    """Put batches of one number of shots together."""
    width = max(p.gain.shape[1] for p in parts)

    def pad(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=fill)

    return CandidateScores(
        torch.cat([pad(p.forms, -torch.inf) for p in parts], 1),
        torch.cat([pad(p.gain, 0.0) for p in parts]),
        torch.cat([p.relevant for p in parts]),
        torch.cat([torch.from_numpy(p.entity) for p in parts]).numpy(),
    )


def _candidates(rankings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Columns [T, N] of the items that one of the rankings [T, C] has near its top, and [T, N] False for padding."""
    union = torch.zeros(rankings[0].shape, dtype=torch.bool)
    for scores in rankings:
        top = scores.topk(min(NEAREST_TOP, scores.shape[1]), dim=1)
        union.scatter_(1, top.indices, top.values > -torch.inf)
    width = max(1, int(union.sum(1).max()))
    is_candidate, columns = union.to(torch.uint8).topk(width, dim=1)
    return columns, is_candidate.bool()


def _discount(depth: int) -> Tensor:
    return 1 / torch.log2(torch.arange(2, depth + 2, dtype=torch.float32))
