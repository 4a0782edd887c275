"""Why an item stands where it does: its score without each of the rows that the newcomer was adapted to.

All leave-one-out supports are adapted as one batch of tasks. Scores of rankings and choices compare items only, so
there it is an item's log-odds against all others that are looked at (of its share in a softmax). Each row is dropped
alone: two that say the same stand in for each other, and the figures need not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys_meta.core.types import FIRST
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, RawFeatures
from recsys_meta.inference.requests.query_context import EncodedQuery

MOST_CHOICES = 50
"""Rows that are looked at where every entity has its own catalogue: the newest. Elsewhere all are."""

FLOATS = 4_000_000
"""Numbers of tasks adapted at once, about."""

WIDTH = 64
"""Numbers that a row of a support becomes, about."""


@dataclass(frozen=True)
class EventAttribution:
    """A row of the support, and by how much the item's score (or log-odds) is higher for it."""

    item: str
    label: float
    context: RawFeatures
    moved: float


@dataclass(frozen=True)
class ItemExplanation:
    """An item's score (or log-odds) before the first event, and the rows that moved it most, the strongest first."""

    prior: float
    causes: tuple[EventAttribution, ...]


def explain_items(
    recommender: Recommender,
    known: EncodedEntity,
    items: Sequence[int],
    question: EncodedQuery | None = None,
    most: int = 5,
) -> list[ItemExplanation]:
    """Why each of some items (ids) has its score; at most so many causes each, none that moved nothing."""
    first = 0 if known.own is None else max(0, len(known.items) - MOST_CHOICES)
    rows = range(first, len(known.items))
    cases = [known, supports_without(known, range(len(known.items))), *(supports_without(known, [i]) for i in rows)]
    scores = _scores(recommender, cases, torch.tensor(items, dtype=torch.int64), question)
    full, prior, less = scores[0], scores[1], scores[2:]
    moved = full - less  # [S, N]
    # What is smaller than the arithmetic's own noise is no cause.
    noise = 1e-5 * (1 + full.abs())
    found = []
    for n in range(len(items)):
        best = torch.argsort(moved[:, n].abs(), descending=True, stable=True)[:most].tolist()
        causes = [
            _cause(recommender, known, rows[i], float(moved[i, n]))
            for i in best
            if float(moved[i, n].abs()) > float(noise[n])
        ]
        found.append(ItemExplanation(float(prior[n]), tuple(causes)))
    return found


def supports_without(known: EncodedEntity, places: Sequence[int]) -> EncodedEntity:
    """The newcomer without some rows of its support; what it met and its catalogue stay."""
    dropped = set(places)
    kept = [i for i in range(len(known.items)) if i not in dropped]
    return replace(
        known,
        items=tuple(known.items[i] for i in kept),
        labels=tuple(known.labels[i] for i in kept),
        context=tuple(known.context[i] for i in kept) if known.context else (),
        history=tuple(known.history[i] for i in kept) if known.history else (),
    )


def _scores(
    recommender: Recommender, cases: Sequence[EncodedEntity], items: Tensor, question: EncodedQuery | None
) -> Tensor:
    """Scores [N cases, N items]; the catalogue's are never all held."""
    catalogue, rows = recommender.catalog.size(cases[0].own), len(cases[0].items)
    # Rows may be compared with all items of an own catalogue: a task there is as large as both together.
    piece = max(1, FLOATS // (catalogue + WIDTH * rows if cases[0].own is None else catalogue * (1 + rows)))
    compares = recommender.bundle.schema.objective in ("ranking", "choice")
    found = []
    for start in range(0, len(cases), piece):
        scores = recommender.score_catalogs(recommender.adapt(cases[start : start + piece]), question)
        found.append(_log_odds(scores, items) if compares else scores[:, items])
    return torch.cat(found)


def _log_odds(scores: Tensor, items: Tensor) -> Tensor:
    """Log-odds [T, N] of some items' shares of a softmax over scores [T, C]."""
    shares = (scores[:, FIRST:].double().log_softmax(1))[:, items - FIRST]
    # An item that is all but alone still has finite odds.
    return (shares - torch.log(-torch.expm1(shares.clamp(max=-1e-12)))).float()


def _cause(recommender: Recommender, known: EncodedEntity, place: int, moved: float) -> EventAttribution:
    item = known.items[place]
    name = recommender.catalog.item_name(item, known.own) if item >= FIRST else ""
    return EventAttribution(name, known.labels[place], known.context[place] if known.context else {}, moved)
