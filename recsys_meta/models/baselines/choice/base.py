"""Base class of the baselines of choices among the items of an entity's own catalogue.

The items of a new entity are new as well, so no baseline has item parameters. They score an item by its counts in the
support, its coordinates and the actor's history; the state is that of `choice_statistics.support_statistics`.
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
from recsys_meta.models.functional.choice_features import CANDIDATE_FEATURES, support_statistics
from recsys_meta.models.functional.losses import mean_over_rows

CHOICE_OBJECTIVES: frozenset[Objective] = frozenset({"choice"})
LEXICOGRAPHIC_BASE = 1e4
"""Divisor of a column against the one before it, far above every value of a column."""

LOG_COUNT, NEAR_LAST, LOG_OWN_VISITS = (
    CANDIDATE_FEATURES.index(name) for name in ("log_count", "near_last", "log_own_visits")
)
"""Columns of `basic_features`: log(1 + support rows of the item), log nearness to the actor's last item, and
log(1 + visits of the actor to the item)."""


class ChoiceBaseline(BaselineConfig):
    """Base class of the baselines of choices; a subclass defines `name`, `choose` and, with parameters, `fit`."""

    objectives: ClassVar[frozenset[Objective]] = CHOICE_OBJECTIVES
    objective: Objective = "choice"

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Return no parameters: past entities share no items with new ones.

        Raises ConfigError for another objective.
        """
        self.check_objective(data)
        return {}

    def adapt(self, body: Params, support: Support) -> State:
        return support_statistics(support)

    @abstractmethod
    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """Score the candidates [T, R, K] of each row, [T, R, K]."""

    def rank(self, body: Params, state: State) -> Tensor:
        tasks, items = state["count"].shape
        zeros = torch.zeros(tasks, 1, dtype=torch.int64, device=state["count"].device)
        rows = Interactions(zeros, zeros.float(), zeros == 0)
        candidates = torch.arange(items, device=zeros.device).expand(tasks, 1, items)
        return self.choose(body, state, rows, candidates)[:, 0]

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.choose(body, state, rows, rows.item[:, :, None])[..., 0]

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Return the mean negative log-probability of the support's rows, [T].

        The logits are the scores of `rank`, those of an actor without a history.
        """
        scores = self.rank(body, state).masked_fill(~state["listed"], -torch.inf)
        log_p = torch.log_softmax(scores, 1)
        rows = support.rows
        mask = rows.mask & (rows.item >= FIRST)
        item = torch.where(mask, rows.item, FIRST)
        return mean_over_rows(torch.where(mask, -log_p.gather(1, item), 0.0), mask)


def lexicographic_scores(columns: Sequence[Tensor]) -> Tensor:
    """Combine columns [T, R, K] into scores that order by the first, ties by the next, and so on.

    Values must stay below LEXICOGRAPHIC_BASE.
    """
    score = columns[-1]
    for column in reversed(columns[:-1]):
        score = score / LEXICOGRAPHIC_BASE + column
    return score
