"""Explanations of a score by leaving out each row of the support in turn.

All leave-one-out supports are adapted as one batch of tasks. Scores of rankings and choices compare items only, so
there it is an item's log-odds against all others that are looked at (of its share in a softmax). Each row is dropped
alone: two that say the same stand in for each other, and the changes need not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.inference.new_items.new_item_block import Basis
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, RawFeatures
from recsys_meta.inference.requests.query_context import EncodedQuery

MAX_CHOICES = 50
"""Rows that are left out, the newest, where every entity has its own catalogue. Elsewhere all are."""

MAX_BATCH_FLOATS = 4_000_000
"""Numbers of tasks adapted at once, about."""

ROW_FLOATS = 64
"""Numbers that a row of a support becomes, about."""


@dataclass(frozen=True)
class EventAttribution:
    """A row of the support, and how much higher the item's score (or log-odds) is for it."""

    item: str
    label: float
    context: RawFeatures
    score_change: float


@dataclass(frozen=True)
class ItemExplanation:
    """An item's score (or log-odds) before the first event, and the rows that change it most, the strongest first; of a
    new item also what it was placed by, and the number of its first likes."""

    prior: float
    attributions: tuple[EventAttribution, ...]
    placed_by: tuple[Basis, int] | None = None


def explain_items(
    recommender: Recommender,
    entity: EncodedEntity,
    items: Sequence[int],
    query: EncodedQuery | None = None,
    max_attributions: int = 5,
) -> list[ItemExplanation]:
    """Explain the score of each of some items (ids); rows that change nothing are not listed."""
    first = 0 if entity.catalog is None else max(0, len(entity.items) - MAX_CHOICES)
    rows = range(first, entity.support_size)
    nothing = without_rows(entity, range(entity.support_size))
    cases = [entity, nothing, *(without_rows(entity, [row]) for row in rows)]
    scores = _scores(recommender, cases, torch.tensor(items, dtype=torch.int64), query)
    full, prior, without = scores[0], scores[1], scores[2:]
    change = full - without  # [S, N]
    # A change below the arithmetic's own noise explains nothing.
    noise = 1e-5 * (1 + full.abs())
    explanations = []
    for n in range(len(items)):
        strongest = torch.argsort(change[:, n].abs(), descending=True, stable=True)[:max_attributions].tolist()
        attributions = [
            _attribution(recommender, entity, rows[i], float(change[i, n]))
            for i in strongest
            if float(change[i, n].abs()) > float(noise[n])
        ]
        placed_by = None if entity.catalog is not None else recommender.placed_by(items[n])
        explanations.append(ItemExplanation(float(prior[n]), tuple(attributions), placed_by))
    return explanations


def without_rows(entity: EncodedEntity, rows: Sequence[int]) -> EncodedEntity:
    """Drop some rows of an entity's support, by position, dislikes after likes; what it met and its catalogue stay."""
    dropped_rows, likes = set(rows), len(entity.items)
    rest = [i for i in range(len(entity.items)) if i not in dropped_rows]
    return replace(
        entity,
        items=tuple(entity.items[i] for i in rest),
        labels=tuple(entity.labels[i] for i in rest),
        context=tuple(entity.context[i] for i in rest) if entity.context else (),
        history=tuple(entity.history[i] for i in rest) if entity.history else (),
        dislikes=tuple(item for i, item in enumerate(entity.dislikes, likes) if i not in dropped_rows),
    )


def _scores(
    recommender: Recommender, cases: Sequence[EncodedEntity], items: Tensor, query: EncodedQuery | None
) -> Tensor:
    """Score some items for each case, [cases, N]; the scores of the whole catalogue are held for one chunk only."""
    catalog_size, rows = recommender.catalog.size(cases[0].catalog), cases[0].support_size
    # Rows may be compared with all items of an own catalogue: a task there is as large as both together.
    own_catalog = cases[0].catalog is not None
    task_floats = catalog_size * (1 + rows) if own_catalog else catalog_size + ROW_FLOATS * rows
    step = max(1, MAX_BATCH_FLOATS // task_floats)
    compares = recommender.bundle.schema.objective in ("ranking", "choice")
    chunks = []
    for start in range(0, len(cases), step):
        some = cases[start : start + step]
        scores = recommender.score_catalogs(recommender.adapt(some), query, some)
        chunks.append(_log_odds(scores, items) if compares else scores[:, items])
    return torch.cat(chunks)


def _log_odds(scores: Tensor, items: Tensor) -> Tensor:
    """Compute log-odds [T, N] of some items' shares of a softmax over scores [T, C]."""
    shares = (scores[:, FIRST:].double().log_softmax(1))[:, items - FIRST]
    # An item that is all but alone still has finite odds.
    return (shares - torch.log(-torch.expm1(shares.clamp(max=-1e-12)))).float()


def _attribution(recommender: Recommender, entity: EncodedEntity, row: int, score_change: float) -> EventAttribution:
    if row >= len(entity.items):
        disliked = entity.dislikes[row - len(entity.items)]
        return EventAttribution(recommender.catalog.item_name(disliked), 0.0, {}, score_change)
    item = entity.items[row]
    name = recommender.catalog.item_name(item, entity.catalog) if item >= FIRST else ""
    return EventAttribution(name, entity.labels[row], entity.context[row] if entity.context else {}, score_change)
