"""Curves of an evaluation, measured in this process or in several that Ray runs here. Their values are the same.

Ray is given a task for each part of the entities, in order; a worker opens the prepared data set by its name or folder
and is sent the predictor. What needs all entities at once, metrics of lists, stays in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache, partial
from io import StringIO
from typing import Any

import numpy as np

from pipelines.experiments.training_inputs import TrainingInputs, open_training_inputs
from pipelines.ray_runtime import local_ray, ordered_results
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.core.types import IntArray, Params
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, add_list_metrics, cold_start, has_list_metrics
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.models.protocols import Predictor

PARTS_PER_WORKER = 4
"""Parts that the entities are cut into for each process: it makes what it ranks with anew for each."""

Progress = Callable[[int], None]
"""Function that is called with the number of entities that are done."""


@dataclass(frozen=True)
class CurveEpisodes:
    """Episodes of a curve over meta-test entities: where their data are, and how they are drawn."""

    source: str
    digest: str
    scenario: str
    split: str
    seed: int
    shots: tuple[int, ...]
    order: Order | None = None
    min_query: int | None = None
    chunk: int = 64
    """Entities that are evaluated together: ties are drawn for them."""


@dataclass(frozen=True)
class CurveMethod:
    """Predictor whose curve is measured, with its parameters; without `adapts` it ignores supports."""

    predictor: Predictor
    params: Params
    adapts: bool = True

    @property
    def evaluated(self) -> Any:
        """The predictor as it is evaluated."""
        return self.predictor if self.adapts else UnadaptedPredictor(self.predictor)


CurveMeasure = Callable[[TrainingInputs, CurveEpisodes, CurveMethod, Progress], ColdStartCurve]
"""Function that measures the curve of a method over the meta-test entities of the inputs."""


def curve_backend(workers: int | None, *, under_ray: bool) -> AbstractContextManager[CurveMeasure]:
    """Open what measures curves, until the block ends: this process, or so many of Ray (None: one a processor).

    Raises ConfigError where Ray does not start.
    """
    return _ray_curves(workers) if under_ray else nullcontext(_measure_locally)


def _measure_locally(
    inputs: TrainingInputs, episodes: CurveEpisodes, method: CurveMethod, progress: Progress
) -> ColdStartCurve:
    return _measure(inputs, episodes, method, np.sort(inputs.split.test), progress=progress)


@contextmanager
def _ray_curves(workers: int | None) -> Iterator[CurveMeasure]:
    # Ray prints to standard output that a worker died, although another does its work.
    with redirect_stdout(StringIO()), local_ray(workers) as ray:
        yield partial(_measure_under_ray, ray, int(ray.cluster_resources()["CPU"]))


def _measure_under_ray(
    ray: Any, workers: int, inputs: TrainingInputs, episodes: CurveEpisodes, method: CurveMethod, progress: Progress
) -> ColdStartCurve:
    entities, stored_method = np.sort(inputs.split.test), ray.put(method)
    measure = ray.remote(_measure_in_worker)
    parts = []
    for part in ordered_results(
        ray,
        lambda piece: measure.remote(episodes, stored_method, *piece),
        entity_parts(entities, workers, episodes.chunk),
        PARTS_PER_WORKER * workers,
    ):
        parts.append(part)
        progress(sum(len(p.entities) for p in parts))
    curve = ColdStartCurve.joined(parts)
    if not has_list_metrics(inputs.data):
        return curve
    return add_list_metrics(
        curve,
        method.evaluated,
        method.params,
        inputs.data,
        inputs.index,
        order=episodes.order,
        seed=inputs.split_seed,
        min_query=episodes.min_query,
    )


def entity_parts(entities: IntArray, workers: int, chunk: int) -> list[tuple[int, IntArray]]:
    """Cut entities [n] into parts for workers, whole chunks each: position of the first entity, and the entities."""
    chunks = -(-len(entities) // chunk)
    size = chunk * max(1, -(-chunks // (PARTS_PER_WORKER * workers)))
    return [(start, entities[start : start + size]) for start in range(0, max(len(entities), 1), size)]


def _measure_in_worker(episodes: CurveEpisodes, method: CurveMethod, first: int, entities: IntArray) -> ColdStartCurve:
    """Measure the curve over a part of the entities, in a process of Ray."""
    return _measure(_worker_inputs(episodes), episodes, method, entities, lists=False, first=first)


@lru_cache(maxsize=1)
def _worker_inputs(episodes: CurveEpisodes) -> TrainingInputs:
    """Open the data. Raises ConfigError where others lie there by now."""
    inputs = open_training_inputs(
        Workspace(), episodes.source, scenario=episodes.scenario, split=episodes.split, seed=episodes.seed
    )
    if inputs.data.digest != episodes.digest:
        raise ConfigError(f"the data set {episodes.source} was changed meanwhile: run it again")
    return inputs


def _measure(
    inputs: TrainingInputs,
    episodes: CurveEpisodes,
    method: CurveMethod,
    entities: IntArray,
    *,
    lists: bool = True,
    first: int = 0,
    progress: Progress | None = None,
) -> ColdStartCurve:
    """Measure the curve over some of the entities, of which the first is at position `first`."""
    return cold_start(
        method.evaluated,
        method.params,
        inputs.data,
        inputs.index,
        entities,
        shots=episodes.shots,
        order=episodes.order,
        seed=inputs.split_seed,
        min_query=episodes.min_query,
        chunk=episodes.chunk,
        lists=lists,
        first=first,
        progress=None if progress is None else lambda done, _: progress(done),
    )
