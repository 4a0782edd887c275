"""Difficulty of each task, estimated before training so that a curriculum can go from easy to hard.

"alone": the learner is trained on each task alone for a few steps from the run's initial parameters and evaluated on
held-out rows of that task (as CHAML does with its base model, Chen et al. 2021): one short training a task.
"brief": one copy of the learner is trained for a few steps on all tasks alike, and each task's query is evaluated after
adapting: a hundredth of the cost. Neither changes the run: parameters are copies, random numbers have their own source.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recsys_meta.core.types import FloatArray, IntArray, Interactions, Params
from recsys_meta.training.curricula import TaskDraw, TaskPool, make_curriculum
from recsys_meta.training.outer_loop import build_optimizer, optimizer_step, sample_batch
from recsys_meta.training.run_state import TrainingRun
from recsys_meta.training.task_hardness import query_errors, task_hardness

HOLDOUT_EVERY = 4
"""One row in so many is held out of the training on a task alone."""
DRAWS = 8
"""Episodes that the difficulty of a task trained on alone is a mean over."""
CHUNK = 64
"""Tasks evaluated at once."""


def task_difficulty(run: TrainingRun) -> FloatArray:
    """Mean query error of each training entity, [n]; NaN where no query row could be evaluated.

    "alone" loops over tasks in Python and is meant for hundreds of them.
    """
    settings = run.recipe.curriculum
    generator = torch.Generator(run.generator.device).manual_seed(run.generator.initial_seed() + 1)
    if settings.probe == "brief":
        params = _train_copy(run, run.train, generator)
        parts = [run.train[i : i + CHUNK] for i in range(0, len(run.train), CHUNK)]
        return np.concatenate([_hardness_of(run, params, part, generator) for part in parts])
    return np.concatenate([_train_alone(run, np.array([entity]), generator) for entity in run.train])


def _train_alone(run: TrainingRun, entity: IntArray, generator: torch.Generator) -> FloatArray:
    holdout = torch.arange(len(run.index.item), device=run.index.item.device) % HOLDOUT_EVERY == HOLDOUT_EVERY - 1
    params = _train_copy(run, entity, generator, ~holdout)
    hardness = _hardness_of(run, params, entity.repeat(DRAWS), generator, holdout)
    finite = hardness[np.isfinite(hardness)]
    return np.array([finite.mean() if len(finite) else np.nan])


def _train_copy(
    run: TrainingRun, entities: IntArray, generator: torch.Generator, rows: torch.Tensor | None = None
) -> Params:
    """Copy of the run's parameters after a few steps on some entities; `rows` [N] bool restricts the rows used."""
    recipe, learner = run.recipe, run.learner
    params = {k: v.detach().clone() for k, v in run.params.items()}
    optimiser = build_optimizer(learner, params, recipe.train.rate)
    tasks = min(recipe.train.tasks, len(entities))
    sampler = make_curriculum("uniform", TaskPool(entities, tasks), {})
    for step in range(recipe.curriculum.probe_steps):
        batch = sample_batch(run.data, run.index, sampler.sample(tasks, generator), recipe.episodes, generator)
        if rows is not None:
            support = replace(batch.support, rows=_mask_rows(batch.support.rows, rows))
            batch = replace(batch, support=support, query=_mask_rows(batch.query, rows))
        loss, _ = learner.meta_loss(params, batch, run.training_state, generator)
        if loss.requires_grad:
            optimizer_step(loss, params, optimiser, recipe.train, 1.0, step)
    return {k: v.detach() for k, v in params.items()}


def _hardness_of(
    run: TrainingRun, params: Params, entities: IntArray, generator: torch.Generator, rows: torch.Tensor | None = None
) -> FloatArray:
    batch = sample_batch(run.data, run.index, TaskDraw(entities, ()), run.recipe.episodes, generator)
    objective = run.data.schema.objective
    error, mask = query_errors(run.learner, params, batch, objective, generator)
    if rows is not None and batch.query.position is not None:
        mask = mask & rows[batch.query.position]
    return task_hardness(error, mask).double().cpu().numpy()


def _mask_rows(rows: Interactions, keep: torch.Tensor) -> Interactions:
    """Turn the rows that `keep` [N] does not mark into padding."""
    return rows if rows.position is None else replace(rows, mask=rows.mask & keep[rows.position])
