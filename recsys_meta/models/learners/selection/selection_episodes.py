"""Episodes that a choice of learners is fitted on: what every member scores, and what any mixture of them is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import IntArray, TaskBatch
from recsys_meta.models.functional.candidate_scores import CandidateScores, candidate_scores, concatenate_candidates


@dataclass(frozen=True)
class SelectionEpisodes(ABC):
    """N episodes of M members: meta-features [N, D], standardized, and entity [N] int64."""

    features: Tensor
    entity: IntArray

    @property
    @abstractmethod
    def members(self) -> int:
        """Number M of members."""

    @abstractmethod
    def values(self, shares: Tensor) -> Tensor:
        """Worth [N] of the mixtures with shares [N, M]; higher is better."""

    @abstractmethod
    def losses(self, shares: Tensor, sharpness: Tensor) -> Tensor:
        """Differentiable losses [N] of the mixtures with shares [N, M]; scores of a ranking count `sharpness` times."""

    @abstractmethod
    def of(self, rows: Tensor) -> Self:
        """Select episodes by index."""

    @cached_property
    def member_values(self) -> Tensor:
        """Worth [N, M] of every member alone."""
        shares = torch.eye(self.members)
        return torch.stack([self.values(share.expand(len(self.entity), -1)) for share in shares], 1)


@dataclass(frozen=True)
class RankingEpisodes(SelectionEpisodes):
    """Episodes of a ranking: worth is nDCG@50, the loss a softmax over the items that a member has near its top."""

    candidates: CandidateScores

    @property
    def members(self) -> int:
        return len(self._plain)

    @cached_property
    def _plain(self) -> Tensor:
        """Standardized scores [M, N, K] of the candidates, 0 where there is none."""
        forms = self.candidates.forms
        return forms[: len(forms) // 2].masked_fill(~self._is_candidate, 0.0)

    @cached_property
    def _is_candidate(self) -> Tensor:
        return self.candidates.forms[0] > -torch.inf

    def values(self, shares: Tensor) -> Tensor:
        return self.candidates.ndcg_of(self._sums(shares).masked_fill(~self._is_candidate, -torch.inf))

    def losses(self, shares: Tensor, sharpness: Tensor) -> Tensor:
        logits = (sharpness * self._sums(shares)).masked_fill(~self._is_candidate, -1e9)
        gain = self.candidates.gain
        return -(functional.log_softmax(logits, 1) * gain).sum(1) / gain.sum(1).clamp(min=1)

    def _sums(self, shares: Tensor) -> Tensor:
        return torch.einsum("vm,mvn->vn", shares, self._plain)

    def of(self, rows: Tensor) -> Self:
        own = self.candidates
        part = CandidateScores(own.forms[:, rows], own.gain[rows], own.relevant[rows], own.entity[rows.numpy()])
        return replace(self, features=self.features[rows], entity=part.entity, candidates=part)


@dataclass(frozen=True)
class RowEpisodes(SelectionEpisodes):
    """Episodes of ratings or clicks: worth is less the mean loss of the query rows, squared error or log-loss.

    scores [N, Q, M]; label and mask [N, Q].
    """

    scores: Tensor
    label: Tensor
    mask: Tensor
    is_click: bool

    @property
    def members(self) -> int:
        return int(self.scores.shape[2])

    def values(self, shares: Tensor) -> Tensor:
        return -self.losses(shares, torch.ones(()))

    def losses(self, shares: Tensor, sharpness: Tensor) -> Tensor:
        prediction = torch.einsum("nm,nqm->nq", shares, self.scores)
        if self.is_click:
            loss = functional.binary_cross_entropy_with_logits(prediction, self.label, reduction="none")
        else:
            loss = (prediction - self.label).square()
        return (loss * self.mask).sum(1) / self.mask.sum(1).clamp(min=1)

    def of(self, rows: Tensor) -> Self:
        parts = {k: getattr(self, k)[rows] for k in ("features", "scores", "label", "mask")}
        return replace(self, entity=self.entity[rows.numpy()], **parts)


def ranking_episodes(
    batches: Sequence[TaskBatch], features: Sequence[Tensor], scores: Sequence[Sequence[Tensor]]
) -> RankingEpisodes:
    """Collect batches, their meta-features [T, D] and their members' scores of the catalogue [T, C]. In a batch an
    entity has one episode; those without a relevant item are left out."""
    parts = [candidate_scores(own, batch) for own, batch in zip(scores, batches, strict=True)]
    kept = [
        x[torch.from_numpy(np.isin(batch.entity.numpy(), part.entity))]
        for x, part, batch in zip(features, parts, batches, strict=True)
    ]
    candidates = concatenate_candidates(parts)
    return RankingEpisodes(torch.cat(kept), candidates.entity, candidates)


def row_episodes(
    batches: Sequence[TaskBatch], features: Sequence[Tensor], scores: Sequence[Sequence[Tensor]], is_click: bool
) -> RowEpisodes:
    """Collect batches, their meta-features [T, D] and their members' scores of the query rows [T, Q]."""
    width = max(batch.query.mask.shape[1] for batch in batches)

    def collect(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([functional.pad(v, (0, width - v.shape[1])) for v in values])

    members = [collect(own) for own in zip(*scores, strict=True)]
    mask = collect([b.query.mask for b in batches])
    rows = torch.nonzero(mask.any(1)).flatten()
    episodes = RowEpisodes(
        torch.cat(list(features)),
        torch.cat([b.entity for b in batches]).numpy(),
        torch.stack(members, 2).masked_fill(~mask[:, :, None], 0.0),
        collect([b.query.label for b in batches]).masked_fill(~mask, 0.0),
        mask,
        is_click,
    )
    return episodes.of(rows)
