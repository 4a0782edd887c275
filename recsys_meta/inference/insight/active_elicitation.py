"""Which items are worth asking a newcomer about.

*information*: the answers that the model itself expects are tried out, all in one batch of tasks, and an item is worth
what they would change. Of rankings and clicks that is the expected Kullback-Leibler divergence of what is predicted
after the answer from what was predicted before (the mutual information of answer and prediction, in nats; by its
quadratic form in square roots of probabilities), of ratings the expected reduction of variance (the variance of the
prediction over the answers). Items are chosen one after another, each for what it adds to those before: a pivoted
Cholesky decomposition of their changes.

*evidence*: MeLU's evidence candidates (Lee et al. 2019): the norm of the gradient that an answer would give, times
popularity, each scaled to at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recsys_meta.core.errors import DataError
from recsys_meta.core.types import FIRST
from recsys_meta.inference.insight.diagnostics import gradient_norms
from recsys_meta.inference.insight.explanations import FLOATS
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity

Strategy = Literal["information", "evidence"]

ASKED = 300
"""Items that are looked at, the most popular ones: nobody can answer about what he never heard of."""

SEEN = 5000
"""Items on which a change of predictions is measured, the most popular ones."""


@dataclass(frozen=True)
class ElicitationItem:
    """An item worth asking about. `value`: what it adds (see the module); `chance` that the answer is yes, or for
    ratings that the newcomer knows the item."""

    item: str
    title: str | None
    value: float
    chance: float


def most_informative_items(
    recommender: Recommender, known: EncodedEntity, n: int, strategy: Strategy = "information"
) -> list[ElicitationItem]:
    """The n items most worth asking about next, best first; none that the newcomer has met.

    Raises DataError where every entity has items of its own: there is nothing to ask about before they are met.
    """
    if recommender.bundle.schema.home is not None:
        raise DataError("every entity has items of its own, so there is none to ask about before the first event")
    items = _candidates(recommender, known)
    if not len(items) or n < 1:
        return []
    now = recommender.scores(recommender.adapt([known]))[0]
    chance = _chance(recommender, now, items)
    if strategy == "evidence":
        order, value = _evidence(recommender, known, now, items, n)
    else:
        changes = _changes(recommender, known, now, items, chance)
        order, value = _greedy(changes, n)
    titles = recommender.bundle.titles
    names = [recommender.catalog.item_name(int(items[i])) for i in order]
    return [
        ElicitationItem(name, titles.get(name), v, float(chance[i]))
        for name, i, v in zip(names, order, value, strict=True)
    ]


def _candidates(recommender: Recommender, known: EncodedEntity) -> Tensor:
    """The most popular items that were not met, [P], ties by id."""
    popularity = recommender.bundle.popularity.clone()
    popularity[:FIRST] = -1
    popularity[list(known.seen)] = -1
    order = torch.argsort(popularity, descending=True, stable=True)[:ASKED]
    return order[popularity[order] >= 0]


def _chance(recommender: Recommender, now: Tensor, items: Tensor) -> Tensor:
    """How likely a yes is, or, of a rating, that there is an answer at all, [P]."""
    match recommender.bundle.schema.objective:
        case "click":
            return now[items].sigmoid()
        case "rating":
            popularity = recommender.bundle.popularity
            return popularity[items] / popularity.max().clamp(min=1)
        case _:
            return _softmax(now[None])[0, items]


def _softmax(scores: Tensor) -> Tensor:
    scores = scores.double()
    scores[:, :FIRST] = -torch.inf
    return scores.softmax(1).float()


def _answers(
    recommender: Recommender, known: EncodedEntity, now: Tensor, items: Tensor
) -> list[tuple[list[float], Tensor]]:
    """The answers that are tried out: labels of all items and, beside how likely the item is known, their chance."""
    own = now[items]
    match recommender.bundle.schema.objective:
        case "click":
            return [([1.0] * len(items), own.sigmoid()), ([0.0] * len(items), (-own).sigmoid())]
        case "rating":
            spread = _spread(recommender, known, items)
            low, high = recommender.bundle.schema.label_range or (-torch.inf, torch.inf)
            even = torch.full_like(own, 0.5)
            return [((own + side * spread).clamp(low, high).tolist(), even) for side in (1, -1)]
        case _:
            return [([1.0] * len(items), torch.ones_like(own))]


def _spread(recommender: Recommender, known: EncodedEntity, items: Tensor) -> Tensor:
    """How far a rating is expected from its prediction, [P]; where the model does not know, a quarter of the scale."""
    rows = recommender.queries.rows(known, [(recommender.catalog.item_name(int(i)), {}) for i in items])
    spread = recommender.score_std(recommender.adapt([known]), rows)
    if spread is not None:
        return spread[0]
    low, high = recommender.bundle.schema.label_range or (0.0, 4.0)
    return torch.full((len(items),), (high - low) / 4)


def simulated_answers(known: EncodedEntity, item: int, label: float) -> EncodedEntity:
    """The newcomer with one row more."""
    more = replace(known, items=(*known.items, item), labels=(*known.labels, label))
    if known.context:
        more = replace(more, context=(*known.context, {}))
    return replace(more, history=(*known.history, ())) if known.history else more


def _cases(known: EncodedEntity, items: Tensor, labels: Sequence[float]) -> list[EncodedEntity]:
    return [simulated_answers(known, item, label) for item, label in zip(items.tolist(), labels, strict=True)]


def _changes(recommender: Recommender, known: EncodedEntity, now: Tensor, items: Tensor, chance: Tensor) -> Tensor:
    """What the answers about each item would change, [P, X]: the square of a row's length is its information."""
    seen = _measured(recommender)
    objective = recommender.bundle.schema.objective
    weight = torch.ones_like(chance) if objective == "click" else chance
    columns = []
    for labels, likely in _answers(recommender, known, now, items):
        moved = _moved(recommender, _cases(known, items, labels), now, seen)
        columns.append(moved * (weight * likely).sqrt()[:, None])
    return torch.cat(columns, 1)


def _measured(recommender: Recommender) -> Tensor:
    popularity = recommender.bundle.popularity
    order = torch.argsort(popularity[FIRST:], descending=True, stable=True)[:SEEN] + FIRST
    return order.sort().values


def _moved(recommender: Recommender, cases: Sequence[EncodedEntity], now: Tensor, seen: Tensor) -> Tensor:
    """Change of what is predicted by each case, [P, X], in a measure whose squares add up to information."""
    piece = max(1, FLOATS // len(now))
    parts = []
    for start in range(0, len(cases), piece):
        after = recommender.scores(recommender.adapt(cases[start : start + piece]))
        parts.append(_coordinates(recommender, after, seen) - _coordinates(recommender, now[None], seen))
    return torch.cat(parts)


def _coordinates(recommender: Recommender, scores: Tensor, seen: Tensor) -> Tensor:
    """Predictions [T, C] as points whose squared distances are information: twice the square of the distance of
    square roots of probabilities is their divergence, to second order."""
    share = len(seen) ** -0.5
    match recommender.bundle.schema.objective:
        case "click":
            own = scores[:, seen]
            clicked: Tensor = torch.cat([own.sigmoid().sqrt(), (-own).sigmoid().sqrt()], 1) * (share * 2**0.5)
            return clicked
        case "rating":
            rated: Tensor = scores[:, seen] * share
            return rated
        case _:
            return _softmax(scores)[:, seen].sqrt() * 2**0.5


def _greedy(changes: Tensor, n: int) -> tuple[list[int], list[float]]:
    """Rows chosen one after another, each for the square of what is left of it beside those before."""
    left = changes.double()
    order: list[int] = []
    value: list[float] = []
    open_to = torch.ones(len(left), dtype=torch.bool)
    for _ in range(min(n, len(left))):
        gain = left.square().sum(1).masked_fill(~open_to, -1)
        best = int(torch.argmax(gain))
        order.append(best)
        value.append(float(gain[best]))
        open_to[best] = False
        length = gain[best].clamp(min=1e-30).sqrt()
        direction = left[best] / length
        left = left - (left @ direction)[:, None] * direction
    return order, value


def _evidence(
    recommender: Recommender, known: EncodedEntity, now: Tensor, items: Tensor, n: int
) -> tuple[list[int], list[float]]:
    """MeLU's evidence candidates: norms of gradients times popularity."""
    norms = torch.zeros(len(items))
    for labels, likely in _answers(recommender, known, now, items):
        norms += likely * gradient_norms(recommender, known, _cases(known, items, labels))
    popularity = recommender.bundle.popularity[items]
    value = (norms / norms.max().clamp(min=1e-30)) * (popularity / popularity.max().clamp(min=1e-30))
    order = torch.argsort(value, descending=True, stable=True)[:n]
    return order.tolist(), value[order].tolist()
