"""Scores of query rows in parts that fit in a cache."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys_meta.core.types import Interactions, Params, State
from recsys_meta.models.protocols import Predictor

MOST_ROWS = 4096
"""Rows, with their padding, that are scored at once: what learners make of more no longer fits in a cache, and the
system takes and clears memory for each of their products."""


def row_scores(predictor: Predictor, body: Params, state: State, rows: Interactions) -> Tensor:
    """Score rows [T, Q] under states of T tasks, some columns at a time."""
    tasks, width = rows.item.shape
    columns = max(1, MOST_ROWS // max(tasks, 1))
    if width <= columns:
        return predictor.score(body, state, rows)
    parts = [predictor.score(body, state, rows.columns(i, i + columns)) for i in range(0, width, columns)]
    return torch.cat(parts, 1)
