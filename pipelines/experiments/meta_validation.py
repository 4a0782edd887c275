"""Meta-validation of a training run: its criterion, its entities, and the episodes that a learner is calibrated on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.experiments.training_inputs import TrainingInputs, default_shots
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, order_rows
from recsys_meta.evaluation.cold_start import cold_start, episodes_at
from recsys_meta.evaluation.evaluate_batch import is_row_metric, metric_names
from recsys_meta.evaluation.validation_episodes import affordable
from recsys_meta.inference.insight.meeting_chance import fit_slope
from recsys_meta.inference.recommender import Recommender
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.bundle import MEETINGS, Bundle
from recsys_meta.models.protocols import Learner
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.trainer import Validate

VALIDATION_ROWS = 500
"""Most query rows of a meta-validation entity, where metrics are of rows."""
CHUNK, LEAST_CHUNK, VALIDATION_CELLS = 128, 8, 12_800_000
"""Entities that are validated at a time: most, least, and most scores of all of them."""
GAP_ENTITIES = 128
"""Most meta-training entities that the gap to meta-validation is measured on: it is to be seen, not to be chosen by."""
DISLIKE_ENTITIES, DISLIKE_CELLS = 1000, 12_000_000
"""Most entities that the worth of dislikes is measured on, and most scores of all of them at one support size."""


def validation_of(learner: Learner, inputs: TrainingInputs, recipe: Recipe) -> Validate:
    """Build the criterion of a run: the mean of the data's first metric over the curve, an error with a minus."""
    return _criterion(learner, inputs, validation_entities(inputs, recipe))


def training_criterion(learner: Learner, inputs: TrainingInputs, recipe: Recipe) -> Validate:
    """Build the criterion of `validation_of` on meta-training tasks, as many at most as there are of meta-validation.

    What it is better by than on meta-validation is the meta-overfitting: tasks that the learner knows, as opposed to
    what it can do with new ones (Yin et al. 2020).
    """
    most = min(GAP_ENTITIES, len(validation_entities(inputs, recipe)))
    train = inputs.split.train
    return _criterion(learner, inputs, np.sort(np.random.default_rng(inputs.seed).permutation(train)[:most]))


def _criterion(learner: Learner, inputs: TrainingInputs, entities: IntArray) -> Validate:
    data = inputs.data
    metric = metric_names(data)[0]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    cpu_rows = inputs.train_index.to("cpu")

    def validate(params: Params) -> float:
        cpu_params = {k: v.cpu() for k, v in params.items()}
        curve = cold_start(
            learner,
            cpu_params,
            data,
            cpu_rows,
            entities,
            shots=default_shots(data, inputs.scenario),
            seed=inputs.seed,
            chunk=validation_chunk(data),
            max_rows=VALIDATION_ROWS,
            lists=False,
        )
        return sign * curve.mean(metric)

    return validate


def validation_chunk(data: Dataset) -> int:
    """Entities that are validated at a time."""
    return min(CHUNK, max(LEAST_CHUNK, VALIDATION_CELLS // data.catalogue))


def validation_entities(inputs: TrainingInputs, recipe: Recipe) -> IntArray:
    """At most `validate_entities` of the meta-validation entities, by the run's seed; fewer for a large catalogue
    (`affordable`)."""
    count, valid = affordable(recipe.train.validate_entities, inputs.data), inputs.split.valid
    if len(valid) <= count:
        return valid
    return np.random.default_rng(inputs.seed).choice(valid, count, replace=False)


def calibration_episodes(inputs: TrainingInputs, recipe: Recipe) -> list[TaskBatch]:
    """Meta-validation episodes to calibrate on, a batch for each support size that some entity reaches."""
    return _episodes(inputs, validation_entities(inputs, recipe), inputs.train_index)


def dislike_episodes(inputs: TrainingInputs, recipe: Recipe) -> list[TaskBatch]:
    """Episodes that show what dislikes are worth, one batch a support size; none where nobody disliked anything.

    They are of meta-validation entities and, as what dislikes add is small, of meta-training entities too: no dislike
    was in what these were trained on. Where every row of the data is a positive, likes and dislikes are told apart as
    those of feedback are, by `Schema.liked_from`.
    """
    data, index = inputs.data, inputs.train_index
    if data.schema.positive is None and data.schema.liked_from is not None and inputs.grid is None:
        schema = data.schema.model_copy(update={"positive": data.schema.liked_from})
        index = EventIndex.of(replace(data, schema=schema))
    if index.dislikes is None:
        return []
    valid, train = validation_entities(inputs, recipe), inputs.split.train
    most = min(DISLIKE_ENTITIES, max(len(valid), DISLIKE_CELLS // data.catalogue)) - len(valid)
    more = np.random.default_rng(inputs.seed).permutation(train)[: max(0, most)]
    return _episodes(inputs, np.concatenate([valid, more]), index)


def with_meeting_slope(bundle: Bundle, inputs: TrainingInputs, recipe: Recipe) -> Bundle:
    """Add to a bundle of rankings what the scores of meta-validation entities say about the items that they meet."""
    if inputs.data.schema.objective != "ranking":
        return bundle
    slope = fit_slope(Recommender(bundle), calibration_episodes(inputs, recipe))
    return replace(bundle, about={**bundle.about, MEETINGS: {**bundle.about[MEETINGS], "slope": slope}})


def _episodes(inputs: TrainingInputs, entities: IntArray, rows: EventIndex) -> list[TaskBatch]:
    data = inputs.data
    index = order_rows(rows.to("cpu"), data.schema.order, inputs.seed)
    entities = np.sort(entities)
    least, begin = data.schema.min_query, data.schema.query_from
    parts = {k: entities[index.has_support(entities, k, least, begin)] for k in default_shots(data, inputs.scenario)}
    max_rows = VALIDATION_ROWS if is_row_metric(data) else None
    return [episodes_at(data, index, part, k, max_rows, inputs.seed) for k, part in parts.items() if len(part)]
