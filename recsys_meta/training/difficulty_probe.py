"""How difficult each task is, worked out before training so that a curriculum can go from easy to hard.

"alone": the learner is trained on each task alone for a few steps from where the run starts, and judged on rows of
that task it was not trained on (what CHAML does with its base model, Chen et al. 2021): one short training a task.
"brief": one copy of the learner is trained for a few steps on all tasks alike, and each task's query is judged after
adapting: a hundredth of the price. Neither touches the run: parameters are copies, chance comes from elsewhere.
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

HELD = 4
"""One row of so many is kept from training on a task alone."""
DRAWS = 8
"""Episodes that a task trained on alone is judged by."""
CHUNK = 64
"""Tasks judged at once."""


def task_difficulty(run: TrainingRun) -> FloatArray:
    """Mean query error of each training entity, [n]; NaN where nothing could be asked. Python loops over tasks with
    "alone", which is meant for hundreds of them."""
    settings = run.recipe.curriculum
    generator = torch.Generator(run.generator.device).manual_seed(run.generator.initial_seed() + 1)
    if settings.probe == "brief":
        params = _trained(run, run.train, generator)
        parts = [run.train[i : i + CHUNK] for i in range(0, len(run.train), CHUNK)]
        return np.concatenate([_judged(run, params, part, generator) for part in parts])
    return np.concatenate([_alone(run, np.array([entity]), generator) for entity in run.train])


def _alone(run: TrainingRun, entity: IntArray, generator: torch.Generator) -> FloatArray:
    held = torch.arange(len(run.index.item), device=run.index.item.device) % HELD == HELD - 1
    params = _trained(run, entity, generator, ~held)
    every = _judged(run, params, entity.repeat(DRAWS), generator, held)
    known = every[np.isfinite(every)]
    return np.array([known.mean() if len(known) else np.nan])


def _trained(
    run: TrainingRun, entities: IntArray, generator: torch.Generator, rows: torch.Tensor | None = None
) -> Params:
    """A copy of the run's parameters after a few steps on some entities; on the marked rows [N] alone."""
    recipe, learner = run.recipe, run.learner
    params = {k: v.detach().clone() for k, v in run.params.items()}
    optimiser = build_optimizer(learner, params, recipe.train.rate)
    tasks = min(recipe.train.tasks, len(entities))
    deck = make_curriculum("uniform", TaskPool(entities, tasks), {})
    for step in range(recipe.curriculum.probe_steps):
        batch = sample_batch(run.data, run.index, deck.sample(tasks, generator), recipe.episodes, generator)
        if rows is not None:
            support = replace(batch.support, rows=_masked(batch.support.rows, rows))
            batch = replace(batch, support=support, query=_masked(batch.query, rows))
        loss, _ = learner.meta_loss(params, batch, run.aids, generator)
        if loss.requires_grad:
            optimizer_step(loss, params, optimiser, recipe.train, 1.0, step)
    return {k: v.detach() for k, v in params.items()}


def _judged(
    run: TrainingRun, params: Params, entities: IntArray, generator: torch.Generator, rows: torch.Tensor | None = None
) -> FloatArray:
    batch = sample_batch(run.data, run.index, TaskDraw(entities, ()), run.recipe.episodes, generator)
    objective = run.data.schema.objective
    error, mask = query_errors(run.learner, params, batch, objective, generator)
    if rows is not None and batch.query.position is not None:
        mask = mask & rows[batch.query.position]
    return task_hardness(error, mask).double().cpu().numpy()


def _masked(rows: Interactions, keep: torch.Tensor) -> Interactions:
    """The rows that are marked in keep [N]; the others become padding."""
    return rows if rows.position is None else replace(rows, mask=rows.mask & keep[rows.position])
