"""Meta-training as a generator over steps; the caller logs, validates, writes checkpoints and stops.

    for step in fit(run, validate): ...

A `TrainingRun` holds parameters, optimiser, task sampler, random state and counters; `to_checkpoint` and
`from_checkpoint` convert it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import IntArray, Params, TaskBatch, move_tensors
from recsys_meta.episodes.event_index import EventIndex, restrict_to_entities
from recsys_meta.models.protocols import Learner, RowLearner, ScheduledLearner
from recsys_meta.training.curricula import (
    HardnessBucket,
    HardnessLog,
    TaskDraw,
    TaskFeedback,
    TaskPool,
    make_curriculum,
)
from recsys_meta.training.difficulty_probe import task_difficulty
from recsys_meta.training.hyper_gradient import next_rate_factor, update_agreement
from recsys_meta.training.outer_loop import (
    build_optimizer,
    clipped_gradients,
    lr_factor,
    read_numbers,
    sample_batch,
    set_rates,
    support_sizes,
)
from recsys_meta.training.recipe import Recipe
from recsys_meta.training.run_state import TrainingRun, all_steps, from_checkpoint, to_checkpoint
from recsys_meta.training.task_augmentation import augment_tasks
from recsys_meta.training.task_hardness import query_errors, task_hardness
from recsys_meta.training.training_group import TrainingGroup

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
    """Record of one step.

    `valid` is the result of a validation after it, else None; `buckets` hold the origin and hardness of the meta-batch
    where they were measured. `seconds` and `tasks_so_far` count from the call of `fit`: in a resumed run, from when it
    was resumed. `figures` are the learner's scalars, on its device: `logs` reads them, so that only steps which are
    logged wait for them.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    gradient: float
    tasks: int
    tasks_so_far: int
    seconds: float
    figures: Mapping[str, Tensor]
    curriculum: Mapping[str, float] = field(default_factory=dict)
    valid: float | None = None
    best: float | None = None
    epoch_end: bool = False
    buckets: tuple[HardnessBucket, ...] = ()

    @cached_property
    def logs(self) -> dict[str, float]:
        """Figures of the learner and of the curriculum by name, read back together."""
        return dict(zip(self.figures, read_numbers(list(self.figures.values())), strict=True)) | dict(self.curriculum)

    @property
    def tasks_per_second(self) -> float:
        """Tasks a second since the run was started or resumed, including validation."""
        return self.tasks_so_far / max(self.seconds, 1e-9)


def start_training(
    learner: Learner,
    recipe: Recipe,
    data: Dataset,
    index: EventIndex,
    train: IntArray,
    seed: int,
    device: torch.device | str = "cpu",
    group: TrainingGroup | None = None,
    carry: Callable[[Params], Params] | None = None,
) -> TrainingRun:
    """Start a run on the meta-training entities `train`; only their rows of `index` are ever used. With a group each
    of its processes starts the same run. `carry` changes the fresh parameters, for a warm start.

    Raises ConfigError if no entity has the two rows that an episode needs, the curriculum is unknown, or the group has
    more processes than a step has tasks.
    """
    if group is not None:
        group.check_tasks(recipe.train.tasks)
    train = np.asarray(train, np.int64)
    pool = task_pool(recipe, index, train)
    sampler = make_curriculum(recipe.curriculum.name, pool, recipe.curriculum.config)
    generator = torch.Generator().manual_seed(seed)
    # Statistics may come from every training entity; episodes only from those with two rows or more.
    train_data = restrict_to_entities(data, index, train)
    fresh = learner.init(train_data, train, generator)
    params = {k: v.to(device) for k, v in (fresh if carry is None else carry(fresh)).items()}
    if group is not None:
        group.first_params(params)
    training_state = move_tensors(
        learner.training_state(train_data, train, torch.Generator().manual_seed(seed + 1)), device
    )
    optimiser = build_optimizer(learner, params, recipe.train.rate)
    step_generator = torch.Generator(device).manual_seed(seed + 2)
    return TrainingRun(
        learner,
        recipe,
        data,
        index,
        _with_episode(index, train),
        params,
        optimiser,
        sampler,
        HardnessLog(pool),
        step_generator,
        training_state,
        group,
    )


def task_pool(recipe: Recipe, index: EventIndex, train: IntArray) -> TaskPool:
    """Pool of the training entities with the two rows that an episode needs. Raises ConfigError if there is none."""
    entities = _with_episode(index, train)
    if not len(entities):
        raise ConfigError("no training entity has the two interactions that an episode needs")
    return TaskPool(entities, recipe.train.tasks, all_steps(recipe, len(entities)), index)


def _with_episode(index: EventIndex, train: IntArray) -> IntArray:
    return train[index.counts.cpu().numpy()[train] >= 2]


def fit(run: TrainingRun, validate: Validate) -> Iterator[TrainStep]:
    """Train until the epochs are over, or meta-validation has not gained for `patience` validations or gives no number.
    What a warm start begins with is validated before the first step.

    `validate` maps the current parameters to a value where higher is better. Raises DivergedError if loss or
    meta-gradient is not finite; parameters and optimiser are then as before the failed step.
    """
    settings = run.recipe.train
    began, tasks = time.perf_counter(), 0
    if run.sampler.needs_difficulty:
        run.sampler.set_difficulty(task_difficulty(run))
    if run.validates_start and run.step == 0:
        _run_validation(run, validate)
    while run.step < run.steps and not run.stop_reason:
        draw = run.sampler.sample(settings.tasks, run.generator)
        batch = sample_batch(run.data, run.index, draw, run.recipe.episodes, run.generator, run.step)
        batch = augment_tasks(batch, run.recipe.augmentation, run.data.schema.objective, run.generator)
        buckets = _give_feedback(run, draw, batch)
        value, norm, figures = _take_step(run, batch)
        tasks += len(batch.entity)
        end = run.step % run.epoch_steps == 0
        epoch = (run.step - 1) // run.epoch_steps + 1
        valid = _run_validation(run, validate) if run.is_validation_due() else None
        yield TrainStep(
            step=run.step,
            steps=run.steps,
            epoch=epoch,
            loss=value,
            gradient=norm,
            tasks=len(batch.entity),
            tasks_so_far=tasks,
            seconds=time.perf_counter() - began,
            figures=figures,
            curriculum={f"curriculum.{k}": v for k, v in run.sampler.report().items()},
            valid=valid,
            best=run.best if math.isfinite(run.best) else None,
            epoch_end=end,
            buckets=buckets,
        )


def _give_feedback(run: TrainingRun, draw: TaskDraw, batch: TaskBatch) -> tuple[HardnessBucket, ...]:
    """Measure the hardness of a meta-batch on its query before the step, and pass it to the curriculum.

    Returns no bucket, and measures nothing, unless the curriculum or the recipe (`watch`) needs it.
    """
    if not (run.sampler.needs_feedback or run.recipe.curriculum.watch):
        return ()
    run.row_updates.settle(run.average_params)
    params = {k: v.detach() for k, v in run.params.items()}
    error, mask = query_errors(run.learner, params, batch, run.data.schema.objective, run.generator)
    hardness = task_hardness(error, mask).double().cpu().numpy()
    feedback = TaskFeedback(draw.entities, hardness, error, mask, batch.query.position)
    run.sampler.update(feedback)
    return run.hardness_log.record(draw, feedback)


def _take_step(run: TrainingRun, batch: TaskBatch) -> tuple[float, float, Mapping[str, Tensor]]:
    """Take one step on a meta-batch, on the rows that it reads where the learner selects them; each process of a group
    computes its part. Return the loss, the norm of the meta-gradient, and what the learner logs, of the whole."""
    settings, learner, rows = run.recipe.train, run.learner, run.row_updates
    if isinstance(learner, ScheduledLearner):
        learner = learner.at_progress(run.step / run.steps)
    selection = None
    if isinstance(learner, RowLearner):
        shapes = {} if run.shards is None else run.shards.placeholders()
        selection = learner.select_rows(run.params | shapes, batch, run.generator)
    selected = {} if selection is None else selection.rows
    if run.shards is not None:
        # A step that reads the whole of a sharded table reads all of its rows.
        selected = {k: run.shards.all_ids(k) for k in run.shards.shapes} | dict(selected)
    rows.settle(run.average_params, but=selected)
    columns = frozenset[str]() if selection is None else selection.columns
    leaves = rows.read(selected, run.average_params, columns)
    run.optimiser.zero_grad(set_to_none=True)
    part = _own_part(run, batch if selection is None else selection.batch)
    tables = {k: v.T if k in columns else v for k, v in leaves.items()}
    if selection is None or not isinstance(learner, RowLearner):
        loss, figures = learner.meta_loss(run.params | tables, part, run.training_state, run.generator)
    else:
        params = run.params | selection.params | tables
        loss, figures = learner.row_loss(params, part, run.training_state, run.generator)
    figures = dict(figures)
    trainable = {k: run.params[k] for k in run.trainable} | leaves
    sum_gradients = None if run.group is None else partial(run.group.sum_gradients, figures=figures, share=part.share)
    value, norm = clipped_gradients(loss, trainable, settings, run.step, sum_gradients)
    if settings.hyper_rate:
        figures["outer_rate"] = _follow_hyper_gradient(run, set(run.trainable) - selected.keys())
    set_rates(run.optimiser, run.rate_factor * lr_factor(settings, run.step, run.steps))
    run.optimiser.step()
    run.step += 1
    decay = min(settings.average, run.step / (run.step + 9.0)) if settings.average else None
    rows.step(selected, leaves, run.average_params, decay)
    rows.forget(but=selected)
    if decay is not None:
        _update_average(run, decay, selected)
    return value, norm, figures


def _follow_hyper_gradient(run: TrainingRun, names: set[str]) -> Tensor:
    """Change the factor on the outer rate by the gradients of whole tables, and return it for the log."""
    (agreement,) = read_numbers([update_agreement(run.optimiser, run.params, names)])
    run.rate_factor = next_rate_factor(run.rate_factor, agreement, run.recipe.train.hyper_rate)
    return torch.tensor(run.rate_factor * run.recipe.train.rate, device=run.generator.device)


def _own_part(run: TrainingRun, batch: TaskBatch) -> TaskBatch:
    """Part of a meta-batch that this process computes: all of it where it is alone."""
    return batch if run.group is None else batch.part(run.group.rank, run.group.size)


@torch.no_grad()
def _update_average(run: TrainingRun, decay: float, selected: Mapping[str, Tensor]) -> None:
    """Move the average of the weights toward the weights after a step; tables of which rows were selected moved with
    them. The decay is short at first, so that the average starts near."""
    if not run.average_params:
        run.row_updates.settle({})
        run.average_params = {k: run.params[k].detach().clone() for k in run.trainable}
    for key, average in run.average_params.items():
        if key not in selected:
            average.lerp_(run.params[key], 1 - decay)


def _run_validation(run: TrainingRun, validate: Validate) -> float:
    current = run.current_params()
    if run.group is None:
        value = validate(current)
    else:
        run.group.check_generator(run.generator)
        whole = run.whole_tables(current)
        value = run.group.first_value(lambda: validate(whole))
    if not math.isfinite(value):
        run.stop_reason = "no number from meta-validation"
    elif value > run.best:
        run.best, run.validations_without_gain = value, 0
        run.best_params = {k: current[k].clone() for k in run.trainable}
    else:
        run.validations_without_gain += 1
        if run.validations_without_gain >= run.recipe.train.patience:
            run.stop_reason = f"no gain on meta-validation for {run.validations_without_gain} validations"
    return value
