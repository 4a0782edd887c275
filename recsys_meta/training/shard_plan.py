"""Choice of the tables that the processes of a training group share, each holding some rows with their moments.

Those of which a step selects rows, beyond a size: `train.shard_above`, or by default what memory can hold whole.
Smaller ones stay whole in every process, which saves a message for each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from recsys_meta.core.errors import ConfigError
from recsys_meta.models.protocols import RowLearner, ScheduledLearner
from recsys_meta.training.curricula import TaskDraw
from recsys_meta.training.outer_loop import sample_batch
from recsys_meta.training.run_state import TrainingRun
from recsys_meta.training.table_shards import TableShards
from recsys_meta.training.training_group import TrainingGroup

COPIES = 5
"""Tensors of a table's size that a process may hold of it: values, two moments, the average, the best values."""
MEMORY_SHARE = 8
"""A table whose copies would take more than one part in so many of a process's share of its machine is sharded."""


def shard_tables(run: TrainingRun) -> str:
    """Shard the large tables of a run that is about to take steps, and say so; nothing ("") without a group or without
    a large table. All processes call it.

    Raises ConfigError if the recipe asks for shards and something in it needs whole tables at every step.
    """
    limit = run.recipe.train.shard_above
    if run.group is None or limit == 0 or run.shards is not None:
        return ""
    obstacle = _obstacle(run)
    if limit is not None and obstacle:
        raise ConfigError(f"train.shard_above={limit}: tables cannot be sharded, because {obstacle}; set it to 0")
    limit = default_limit(run.group) if limit is None else limit
    shapes = {k: v for k, v in _row_tables(run).items() if v.numel() > limit}
    if not shapes:
        return ""
    tables = ", ".join(f"{k} ({' x '.join(f'{n:,}' for n in shape)})" for k, shape in shapes.items())
    if obstacle:
        return f"{tables}: whole in each of {run.group.size} processes, because {obstacle}"
    run.keep_shards(TableShards(run.group, shapes))
    return f"{tables}: sharded by hash of rows over {run.group.size} processes"


def default_limit(group: TrainingGroup) -> int:
    """Numbers of the largest table that is whole in every process, by the memory of the smallest machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / group.local_size
    single = torch.finfo(torch.float32).bits // 8
    return int(group.smallest(memory / MEMORY_SHARE / COPIES / single))


def _obstacle(run: TrainingRun) -> str:
    """Reason for which every process needs whole tables; "" without one."""
    curriculum = run.recipe.curriculum
    if run.generator.device.type != "cpu":
        return "on an accelerator steps read whole tables"
    if run.sampler.needs_feedback or run.sampler.needs_difficulty or curriculum.watch:
        return f"the hardness of tasks is measured (curriculum {curriculum.name})"
    if run.recipe.train.hyper_rate:
        return "train.hyper_rate follows the gradients of whole tables"
    return ""


def _row_tables(run: TrainingRun) -> Mapping[str, torch.Size]:
    """Shapes of the trained tables of which a step selects rows, from a batch of the first tasks."""
    learner = run.learner
    if isinstance(learner, ScheduledLearner):
        learner = learner.at_progress(run.step / run.steps)
    if not isinstance(learner, RowLearner):
        return {}
    # With a source of random numbers of its own: that of the run goes on as in a single process.
    generator = torch.Generator(run.generator.device).manual_seed(run.generator.initial_seed())
    draw = TaskDraw(run.train[: run.recipe.train.tasks], ())
    batch = sample_batch(run.data, run.index, draw, run.recipe.episodes, generator, run.step)
    selection = learner.select_rows(run.params, batch, generator)
    if selection is None:
        return {}
    trainable = set(run.trainable)
    keys = sorted(k for k in selection.rows if k in trainable and k not in selection.columns)
    return {k: run.params[k].shape for k in keys}
