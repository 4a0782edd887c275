"""Active elicitation: which items are worth asking an entity about.

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
from recsys_meta.inference.insight.explanations import MAX_BATCH_FLOATS
from recsys_meta.inference.insight.meeting_chance import meeting_chances
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity

Strategy = Literal["information", "evidence"]

MAX_CANDIDATES = 300
"""Items that may be asked about, the most popular ones: nobody can answer about an item that he never heard of."""

MAX_PROBES = 5000
"""Items on which a change of predictions is measured, the most popular ones."""


@dataclass(frozen=True)
class ElicitationItem:
    """An item worth asking about. value: what its answer adds (see the module); probability: that the answer is yes, or
    for ratings that the entity knows the item."""

    item: str
    title: str | None
    value: float
    probability: float


def most_informative_items(
    recommender: Recommender, entity: EncodedEntity, n: int, strategy: Strategy = "information"
) -> list[ElicitationItem]:
    """Select the n items most worth asking about next, best first; none that the entity has met.

    Raises DataError where every entity has items of its own: there is nothing to ask about before they are met.
    """
    if recommender.bundle.schema.home is not None:
        raise DataError("every entity has items of its own, so there is none to ask about before the first event")
    items = _candidates(recommender, entity)
    if not len(items) or n < 1:
        return []
    scores = recommender.scores(recommender.adapt([entity]), [entity])[0]
    probability = _answer_probability(recommender, entity, scores, items)
    if strategy == "evidence":
        order, value = _evidence(recommender, entity, scores, items, n)
    else:
        changes = _changes(recommender, entity, scores, items, probability)
        order, value = _greedy(changes, n)
    titles = recommender.catalog.titles
    names = [recommender.catalog.item_name(int(items[i])) for i in order]
    return [
        ElicitationItem(name, titles.get(name), v, float(probability[i]))
        for name, i, v in zip(names, order, value, strict=True)
    ]


def _candidates(recommender: Recommender, entity: EncodedEntity) -> Tensor:
    """Select the most popular items that were not met, [P], ties by id."""
    popularity = recommender.bundle.popularity.clone()
    popularity[:FIRST] = -1
    popularity[[item for item in entity.seen_items if item < len(popularity)]] = -1
    popularity[recommender.catalog.hidden_ids] = -1
    order = torch.argsort(popularity, descending=True, stable=True)[:MAX_CANDIDATES]
    return order[popularity[order] >= 0]


def _answer_probability(recommender: Recommender, entity: EncodedEntity, scores: Tensor, items: Tensor) -> Tensor:
    """Estimate the probability of a yes, or, of a rating, that there is an answer at all, [P]."""
    if recommender.bundle.schema.objective == "click":
        return scores[items].sigmoid()
    return meeting_chances(recommender, entity, scores)[items]


def _softmax(scores: Tensor) -> Tensor:
    scores = scores.double()
    scores[:, :FIRST] = -torch.inf
    return scores.softmax(1).float()


def _answers(
    recommender: Recommender, entity: EncodedEntity, scores: Tensor, items: Tensor
) -> list[tuple[list[float], Tensor]]:
    """List the answers that are tried out: labels of all items and, given that the item is known, the probability of
    each, [P]."""
    predictions = scores[items]
    match recommender.bundle.schema.objective:
        case "click":
            return [
                ([1.0] * len(items), predictions.sigmoid()),
                ([0.0] * len(items), (-predictions).sigmoid()),
            ]
        case "rating":
            std = _rating_std(recommender, entity, items)
            low, high = recommender.bundle.schema.label_range or (-torch.inf, torch.inf)
            half = torch.full_like(predictions, 0.5)
            return [((predictions + side * std).clamp(low, high).tolist(), half) for side in (1, -1)]
        case _:
            return [([1.0] * len(items), torch.ones_like(predictions))]


def _rating_std(recommender: Recommender, entity: EncodedEntity, items: Tensor) -> Tensor:
    """Estimate the standard deviation of a rating from its prediction, [P]; a quarter of the scale where the model has
    none."""
    rows = recommender.queries.rows(entity, [(recommender.catalog.item_name(int(i)), {}) for i in items])
    std = recommender.score_std(recommender.adapt([entity]), rows)
    if std is not None:
        return std[0]
    low, high = recommender.bundle.schema.label_range or (0.0, 4.0)
    return torch.full((len(items),), (high - low) / 4)


def with_simulated_answer(entity: EncodedEntity, item: int, label: float) -> EncodedEntity:
    """Add a row to an entity's support: an item and its label."""
    more = replace(entity, items=(*entity.items, item), labels=(*entity.labels, label))
    if entity.context:
        more = replace(more, context=(*entity.context, {}))
    return replace(more, history=(*entity.history, ())) if entity.history else more


def _cases(entity: EncodedEntity, items: Tensor, labels: Sequence[float]) -> list[EncodedEntity]:
    return [with_simulated_answer(entity, item, label) for item, label in zip(items.tolist(), labels, strict=True)]


def _changes(
    recommender: Recommender, entity: EncodedEntity, scores: Tensor, items: Tensor, probability: Tensor
) -> Tensor:
    """Compute what the answers about each item would change, [P, X]: the square of a row's length is its
    information."""
    probes = _probes(recommender)
    objective = recommender.bundle.schema.objective
    weight = torch.ones_like(probability) if objective == "click" else probability
    columns = []
    for labels, likelihood in _answers(recommender, entity, scores, items):
        change = _prediction_changes(recommender, _cases(entity, items, labels), scores, probes)
        columns.append(change * (weight * likelihood).sqrt()[:, None])
    return torch.cat(columns, 1)


def _probes(recommender: Recommender) -> Tensor:
    """Select the most popular items, ascending by id."""
    popularity = recommender.bundle.popularity
    order = torch.argsort(popularity[FIRST:], descending=True, stable=True)[:MAX_PROBES] + FIRST
    return order.sort().values


def _prediction_changes(
    recommender: Recommender, cases: Sequence[EncodedEntity], scores: Tensor, probes: Tensor
) -> Tensor:
    """Compute how each case changes what is predicted, [P, X], in a measure whose squares add up to information."""
    step = max(1, MAX_BATCH_FLOATS // len(scores))
    chunks = []
    for start in range(0, len(cases), step):
        some = cases[start : start + step]
        after = recommender.scores(recommender.adapt(some), some)
        chunks.append(_coordinates(recommender, after, probes) - _coordinates(recommender, scores[None], probes))
    return torch.cat(chunks)


def _coordinates(recommender: Recommender, scores: Tensor, probes: Tensor) -> Tensor:
    """Map predictions [T, C] to points whose squared distances are information: twice the square of the distance of
    square roots of probabilities is their divergence, to second order."""
    share = len(probes) ** -0.5
    match recommender.bundle.schema.objective:
        case "click":
            logits = scores[:, probes]
            roots: Tensor = torch.cat([logits.sigmoid().sqrt(), (-logits).sigmoid().sqrt()], 1) * (share * 2**0.5)
            return roots
        case "rating":
            ratings: Tensor = scores[:, probes] * share
            return ratings
        case _:
            return _softmax(scores)[:, probes].sqrt() * 2**0.5


def _greedy(changes: Tensor, n: int) -> tuple[list[int], list[float]]:
    """Choose rows one after another, each for the square of its residual beside those before."""
    residual = changes.double()
    order: list[int] = []
    value: list[float] = []
    available = torch.ones(len(residual), dtype=torch.bool)
    for _ in range(min(n, len(residual))):
        gain = residual.square().sum(1).masked_fill(~available, -1)
        best = int(torch.argmax(gain))
        order.append(best)
        value.append(float(gain[best]))
        available[best] = False
        length = gain[best].clamp(min=1e-30).sqrt()
        direction = residual[best] / length
        residual = residual - (residual @ direction)[:, None] * direction
    return order, value


def _evidence(
    recommender: Recommender, entity: EncodedEntity, scores: Tensor, items: Tensor, n: int
) -> tuple[list[int], list[float]]:
    """Rank MeLU's evidence candidates: norms of gradients times popularity."""
    norms = torch.zeros(len(items))
    for labels, likelihood in _answers(recommender, entity, scores, items):
        norms += likelihood * gradient_norms(recommender, entity, _cases(entity, items, labels))
    popularity = recommender.bundle.popularity[items]
    value = (norms / norms.max().clamp(min=1e-30)) * (popularity / popularity.max().clamp(min=1e-30))
    order = torch.argsort(value, descending=True, stable=True)[:n]
    return order.tolist(), value[order].tolist()
