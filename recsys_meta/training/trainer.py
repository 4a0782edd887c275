"""Meta-training: a generator over steps. The caller logs, validates, checkpoints and stops.

    for step in fit(run): ...

A run is data (`run.Run`): parameters, optimiser, task sampler, random state and counters; `freeze` and `thaw` turn
it into a checkpoint and back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import IntArray, Params, TaskBatch
from recsys_meta.episodes.event_index import EventIndex, restrict_to_entities
from recsys_meta.models.protocols import Learner
from recsys_meta.training.curricula import (
    HardnessBucket,
    HardnessLog,
    TaskDraw,
    TaskFeedback,
    TaskPool,
    make_curriculum,
)
from recsys_meta.training.difficulty_probe import task_difficulty
from recsys_meta.training.outer_loop import build_optimizer, lr_factor, optimizer_step, sample_batch, support_sizes
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.run_state import TrainingRun, all_steps, from_checkpoint, to_checkpoint
from recsys_meta.training.task_hardness import query_errors, task_hardness

__all__ = [
    "TrainStep",
    "TrainingRun",
    "Validate",
    "fit",
    "from_checkpoint",
    "start_training",
    "support_sizes",
    "to_checkpoint",
]

Validate = Callable[[Params], float]


@dataclass(frozen=True)
class TrainStep:
    """What one meta-batch did. `valid` is there when the parameters were validated after it; `buckets` say from where
    the curriculum drew it and how hard it was, where that was measured. `seconds` and `tasks_so_far` count from when
    `fit` was called: in a resumed run, since it was resumed."""

    step: int
    steps: int
    epoch: int
    loss: float
    gradient: float
    tasks: int
    tasks_so_far: int
    seconds: float
    logs: Mapping[str, float]
    valid: float | None = None
    best: float | None = None
    epoch_end: bool = False
    buckets: tuple[HardnessBucket, ...] = ()

    @property
    def tasks_per_second(self) -> float:
        """Tasks a second since the run was started or resumed, validation included."""
        return self.tasks_so_far / max(self.seconds, 1e-9)


def start_training(
    learner: Learner,
    recipe: Recipe,
    data: Dataset,
    index: EventIndex,
    train: IntArray,
    seed: int,
    device: torch.device | str = "cpu",
) -> TrainingRun:
    """A fresh run. `train` are the meta-training entities: no row but theirs in `index` is ever looked at.

    Raises ConfigError when no entity has the two rows that an episode needs, or the curriculum is unknown.
    """
    train = np.asarray(train, np.int64)
    enough = index.counts.cpu().numpy()[train] >= 2
    if not enough.any():
        raise ConfigError("no training entity has the two interactions that an episode needs")
    usable = train[enough]
    pool = TaskPool(usable, recipe.train.tasks, all_steps(recipe, len(usable)), index)
    sampler = make_curriculum(recipe.curriculum.name, pool, recipe.curriculum.config)
    generator = torch.Generator().manual_seed(seed)
    # Statistics may come from every training entity; episodes only from those with two rows or more.
    seen = restrict_to_entities(data, index, train)
    params = {k: v.to(device) for k, v in learner.init(seen, train, generator).items()}
    aids = learner.training_state(seen, train, torch.Generator().manual_seed(seed + 1))
    optimiser = build_optimizer(learner, params, recipe.train.rate)
    moving = torch.Generator(device).manual_seed(seed + 2)
    return TrainingRun(
        learner, recipe, data, index, usable, params, optimiser, sampler, HardnessLog(pool), moving, aids
    )


def fit(run: TrainingRun, validate: Validate) -> Iterator[TrainStep]:
    """Train until the epochs are over or meta-validation has not gained for `patience` validations.

    `validate` gets the current parameters and returns a figure where higher is better. Raises DivergedError when
    loss or meta-gradient is not finite; parameters and optimiser are then left as they were before the bad step.
    """
    settings = run.recipe.train
    began, tasks = time.perf_counter(), 0
    if run.sampler.needs_difficulty:
        run.sampler.set_difficulty(task_difficulty(run))
    while run.step < run.steps and not run.stopped:
        draw = run.sampler.sample(settings.tasks, run.generator)
        batch = sample_batch(run.data, run.index, draw, run.recipe.episodes, run.generator)
        buckets = _learn(run, draw, batch)
        loss, logs = run.learner.meta_loss(run.params, batch, run.aids, run.generator)
        factor = lr_factor(settings, run.step, run.steps)
        value, norm = optimizer_step(
            loss, {k: run.params[k] for k in run.trained}, run.optimiser, settings, factor, run.step
        )
        run.step += 1
        tasks += len(batch.entity)
        end = run.step % run.epoch_steps == 0
        epoch = (run.step - 1) // run.epoch_steps + 1
        valid = None
        if end and (epoch % settings.validate_every == 0 or run.step == run.steps):
            valid = _validated(run, validate)
        yield TrainStep(
            step=run.step,
            steps=run.steps,
            epoch=epoch,
            loss=value,
            gradient=norm,
            tasks=len(batch.entity),
            tasks_so_far=tasks,
            seconds=time.perf_counter() - began,
            logs={**logs, **{f"curriculum.{k}": v for k, v in run.sampler.report().items()}},
            valid=valid,
            best=run.best if math.isfinite(run.best) else None,
            epoch_end=end,
            buckets=buckets,
        )


def _learn(run: TrainingRun, draw: TaskDraw, batch: TaskBatch) -> tuple[HardnessBucket, ...]:
    """Judge a meta-batch on its query after adapting, before the step that it gives, and tell the curriculum; nothing
    where neither it nor the recipe wants to know."""
    if not (run.sampler.needs_feedback or run.recipe.curriculum.watch):
        return ()
    held = {k: v.detach() for k, v in run.params.items()}
    error, mask = query_errors(run.learner, held, batch, run.data.schema.objective, run.generator)
    hardness = task_hardness(error, mask).double().cpu().numpy()
    lesson = TaskFeedback(draw.entities, hardness, error, mask, batch.query.position)
    run.sampler.update(lesson)
    return run.ledger.record(draw, lesson)


def _validated(run: TrainingRun, validate: Validate) -> float:
    value = validate({k: v.detach() for k, v in run.params.items()})
    if value > run.best:
        run.best, run.waited = value, 0
        run.best_params = {k: run.params[k].detach().clone() for k in run.trained}
    else:
        run.waited += 1
        if run.waited >= run.recipe.train.patience:
            run.stopped = f"no gain on meta-validation for {run.waited} validations"
    return value
