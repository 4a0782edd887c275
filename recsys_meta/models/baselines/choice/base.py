"""What the baselines of choices share: the entity's own catalogue, adapted by counting.

None of them learns an item: a newcomer's items are known by what its support says of them, by their place and by the
actor's history. Their states are what `moments.tallies` keeps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.functional.choice_features import support_statistics
from recsys_meta.models.functional.losses import mean_over_rows

CHOICE_OBJECTIVES: frozenset[Objective] = frozenset({"choice"})
LEXICOGRAPHIC_BASE = 1e4
"""Far above any difference that must not outweigh the column before it."""


class ChoiceBaseline(BaselineConfig):
    """Base of the baselines of choices; a subclass gives `name` and `choose`, and `fit` where it has parameters."""

    objectives: ClassVar[frozenset[Objective]] = CHOICE_OBJECTIVES
    objective: Objective = "choice"

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Nothing is taken from past entities."""
        self.check_objective(data)
        return {}

    def adapt(self, body: Params, support: Support) -> State:
        return support_statistics(support)

    @abstractmethod
    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """Scores [T, R, K] of the candidates [T, R, K] of each row."""

    def rank(self, body: Params, state: State) -> Tensor:
        tasks, items = state["count"].shape
        zeros = torch.zeros(tasks, 1, dtype=torch.int64, device=state["count"].device)
        rows = Interactions(zeros, zeros.float(), zeros == 0)
        candidates = torch.arange(items, device=zeros.device).expand(tasks, 1, items)
        return self.choose(body, state, rows, candidates)[:, 0]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.choose(body, state, rows, rows.item[:, :, None])[..., 0]

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Mean negative log-probability of the support's rows, were the scores logits of an actor without a history."""
        scores = self.rank(body, state).masked_fill(~state["listed"], -torch.inf)
        log_p = torch.log_softmax(scores, 1)
        rows = support.rows
        known = rows.mask & (rows.item >= FIRST)
        item = torch.where(known, rows.item, FIRST)
        return mean_over_rows(torch.where(known, -log_p.gather(1, item), 0.0), known)


def lexicographic_scores(columns: Sequence[Tensor]) -> Tensor:
    """Scores that order by the first column [T, R, K], ties by the next and so on; none may reach ABOVE."""
    score = columns[-1]
    for column in reversed(columns[:-1]):
        score = score / LEXICOGRAPHIC_BASE + column
    return score
