"""Probability that a newcomer has met an item: what a question about it can be answered by.

An entity meets N different items. Each has a clock that rings at an exponential time, and what has rung when N have is
what was met: drawing without replacement (Plackett and Luce). The rate of a clock is the item's among training
entities, times exp(slope * how much higher the adapted model puts it than that of a newcomer of whom nothing is known).
N is spread as among training entities of at least as many items as were met already.

Scores of rankings order items, and their scale means nothing where a model is an ensemble. So the slope is chosen on
meta-validation entities, by the likelihood of what they met; it is stored in a bundle's `about` with the sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from recsys_meta.core.types import FIRST, TaskBatch
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest
from recsys_meta.models.bundle import MEETINGS, Bundle

_MAX_SLOPE = 20.0
_MAX_SCORES, _MIN_TASKS, _MAX_TASKS = 1_500_000, 16, 200  # of one support size
_STEPS = 12  # of Newton's method; four are enough where few items are met


class MeetingStatistics(NamedTuple):
    """Number of training entities, quantiles of the number of items that each met, and the slope."""

    entities: int
    sizes: tuple[int, ...]
    slope: float = 0.0

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> MeetingStatistics | None:
        """Read what a bundle holds; None for one of an earlier release."""
        stored: Mapping[str, Any] | None = bundle.about.get(MEETINGS)
        return None if stored is None else cls(stored["entities"], tuple(stored["sizes"]), stored.get("slope", 0.0))


def meeting_chances(recommender: Recommender, entity: EncodedEntity, scores: Tensor) -> Tensor:
    """Estimate the probability that an entity of adapted scores [C] has met each item, [C]; 1 for those of its support.

    Of a bundle of an earlier release, which does not say how many training entities there were, it is the popularity as
    a share of the most popular item's.
    """
    statistics = MeetingStatistics.of_bundle(recommender.bundle)
    popularity = recommender.bundle.popularity
    if statistics is None:
        return _popular_shares(popularity, len(scores))
    log_rates = _log_rates(popularity, statistics.entities, len(scores))
    if statistics.slope:
        log_rates = log_rates + statistics.slope * (scores.double() - first_scores(recommender))
    met = [item for item in entity.seen_items if item < len(scores)]
    log_rates[met] = -torch.inf
    chances = _ringing_chances(log_rates, _sizes_left(statistics.sizes, len(met)))
    chances[met] = 1.0
    return chances.float()


def fit_slope(recommender: Recommender, episodes: Sequence[TaskBatch]) -> float:
    """Choose the slope of a ranking on meta-validation episodes: the likelihood of their queries as choices among what
    the support has not met. 0 where there are none."""
    statistics = MeetingStatistics.of_bundle(recommender.bundle)
    if statistics is None or not episodes:
        return 0.0
    first, predictor = first_scores(recommender), recommender.bundle.predictor
    log_rates = _log_rates(recommender.bundle.popularity, statistics.entities, len(first))
    parts = []
    for batch in (_some_of(batch, len(first)) for batch in episodes):
        with torch.no_grad():
            scores = predictor.rank(recommender.body, predictor.adapt(recommender.body, batch.support))
        higher = (scores.double() - first).scatter(1, batch.support.seen_items, -torch.inf)
        higher[:, :FIRST] = -torch.inf
        parts.append((higher, batch.query.item.long(), batch.query.mask))

    def loss(slope: float) -> float:
        return sum(_negative_likelihood(slope, log_rates, *part) for part in parts)

    found = minimize_scalar(loss, bounds=(0.0, _MAX_SLOPE), method="bounded", options={"xatol": 1e-4})
    return float(f"{found.x:.3g}")  # sums of another order shall give the same version of a bundle


def _some_of(batch: TaskBatch, catalogue: int) -> TaskBatch:
    """Select tasks of a batch, evenly, with at most `_MAX_SCORES` scores of a catalogue."""
    count = len(batch.entity)
    most = min(_MAX_TASKS, max(_MIN_TASKS, _MAX_SCORES // catalogue))
    tasks = torch.linspace(0, count - 1, min(count, most)).long()
    return TaskBatch(batch.entity[tasks], batch.support.of(tasks), batch.query.of(tasks))


def first_scores(recommender: Recommender) -> Tensor:
    """Score the catalogue for a newcomer of whom nothing is known, [C] float64."""
    nobody = recommender.read_support(EntityRequest())
    return recommender.scores(recommender.adapt([nobody]))[0].double()


def _negative_likelihood(slope: float, log_rates: Tensor, higher: Tensor, item: Tensor, mask: Tensor) -> float:
    allowed = higher > -torch.inf
    logits = (log_rates + slope * higher.masked_fill(~allowed, 0.0)).masked_fill(~allowed, -torch.inf)
    chosen = logits.log_softmax(1).gather(1, item)
    counts = mask & (chosen > -torch.inf)
    return float(-chosen[counts].sum())


def _log_rates(popularity: Tensor, entities: int, size: int) -> Tensor:
    """Logarithms [C] of the rates at which training entities met items; of one that came later that of one event."""
    share = ((popularity.double() + 0.5) / (entities + 1)).clamp(max=0.999)
    rates = torch.full((size,), 0.5 / (entities + 1), dtype=torch.float64)
    rates[: len(share)] = -torch.log1p(-share)
    log_rates = rates.log()
    log_rates[:FIRST] = -torch.inf
    return log_rates


def _sizes_left(sizes: Sequence[int], met: int) -> Tensor:
    """Numbers of items that are still to be met, of training entities that met at least as many."""
    left = [size - met for size in sizes if size >= met]
    return torch.tensor(left or [0], dtype=torch.float64)


def _ringing_chances(log_rates: Tensor, left: Tensor) -> Tensor:
    """Probability [C] that a clock is among the first to ring, as the mean over how many do [N]."""
    rates = (log_rates - log_rates.max()).exp()
    most = 0.999 * float((rates > 0).sum())
    chances = torch.zeros_like(rates)
    for size, count in Counter(min(size, most) for size in left.tolist()).items():
        chances += count * -torch.expm1(-rates * _time_of(rates, size))
    return chances / len(left)


def _time_of(rates: Tensor, size: float) -> float:
    """Time at which as many clocks as `size` are expected to have rung: Newton's method, from below, where the expected
    number is concave in time."""
    at = size / float(rates.sum())
    for _ in range(_STEPS):
        silent = torch.exp(-rates * at)
        missing = size - float((1 - silent).sum())
        if missing < 1e-6 * max(size, 1.0):
            break
        at += missing / float((rates * silent).sum())
    return at


def _popular_shares(popularity: Tensor, size: int) -> Tensor:
    shares = torch.zeros(size)
    shares[: len(popularity)] = popularity / popularity.max().clamp(min=1)
    return shares
