"""Cost of a method in a comparison: time to train, parameters, and bytes of what is kept of a newcomer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import torch

from pipelines.experiments.comparison import MethodCost
from pipelines.experiments.process_timer import ProcessTimer
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.inference.state_codec import quantize
from recsys_meta.models.protocols import Predictor

COST_ENTITIES = 8
"""Most newcomers over which the bytes of a state are averaged: they differ by the support's size alone."""


def method_cost(predictor: Predictor, params: Params, newcomers: TaskBatch | None, timer: ProcessTimer) -> MethodCost:
    """Cost of a fitted method; the bytes are those that a server caches for each of the newcomers, their mean."""
    parameters = sum(v.numel() for v in params.values())
    return MethodCost(timer.seconds, timer.processor_seconds, parameters, _state_bytes(predictor, params, newcomers))


def greatest_episodes(data: Dataset, index: EventIndex, entities: IntArray, shots: Sequence[int]) -> TaskBatch | None:
    """Episodes of at most COST_ENTITIES entities with the most shots that some reach; None where nobody has one."""
    schema = data.schema
    for k in sorted(shots, reverse=True):
        enough = entities[index.has_support(entities, k, schema.min_query, schema.query_from)]
        if len(enough):
            return episodes_at(data, index, enough[:COST_ENTITIES], k, 1)
    return None


@torch.no_grad()
def _state_bytes(predictor: Predictor, params: Params, newcomers: TaskBatch | None) -> int | None:
    if newcomers is None:
        return None
    state = predictor.adapt(predictor.body(params), newcomers.support)
    return round(fmean(len(content) for content in quantize(state, getattr(predictor, "coarse", ()))[1]))


def _mean(numbers: Iterable[float | None]) -> float | None:
    """Mean of the numbers that are known; None without one."""
    values = [n for n in numbers if n is not None]
    return fmean(values) if values else None


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def mean_cost(costs: Sequence[MethodCost]) -> MethodCost:
    """Mean of the costs of one method over seeds."""
    return MethodCost(
        fmean(c.seconds for c in costs),
        _mean(c.processor_seconds for c in costs),
        _whole(_mean(c.parameters for c in costs)),
        _whole(_mean(c.state_bytes for c in costs)),
    )
