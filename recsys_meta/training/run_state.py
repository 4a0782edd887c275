"""Training run as data, and its conversion to a checkpoint and back, bit for bit.

A resumed run ends with the same weights as an uninterrupted one, given the same number of threads, which the caller
sets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.prefixed_keys import add_prefix, select_prefix
from recsys_meta.models.protocols import Learner
from recsys_meta.training.checkpoint import Checkpoint
from recsys_meta.training.curricula import Curriculum, HardnessLog
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.row_updates import RowUpdates
from recsys_meta.training.table_shards import TableShards
from recsys_meta.training.training_group import TrainingGroup


@dataclass
class TrainingRun:
    """State of a training run between two steps. `validates_start`: what it starts from may be its best already, as
    after a warm start. Of tables in `shards` every tensor has the rows of this process alone."""

    learner: Learner
    recipe: Recipe
    data: Dataset
    index: EventIndex
    train: IntArray
    params: Params
    optimiser: torch.optim.AdamW
    sampler: Curriculum
    hardness_log: HardnessLog
    generator: torch.Generator
    training_state: Any
    group: TrainingGroup | None = None
    step: int = 0
    best: float = -math.inf
    best_params: Params = field(default_factory=dict)
    average_params: Params = field(default_factory=dict)
    validations_without_gain: int = 0
    stop_reason: str = ""
    rate_factor: float = 1.0
    validates_start: bool = False

    shards: TableShards | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.row_updates = RowUpdates(self.optimiser, self.params)

    def keep_shards(self, shards: TableShards) -> None:
        """Keep of sharded tables, of their moments, averages and best values the rows of this process alone."""
        histories = self.row_updates.histories
        for key in shards.shapes:
            table = self.params[key]
            part = shards.part(key, table.detach()).requires_grad_()
            for group in self.optimiser.param_groups:
                group["params"] = [part if p is table else p for p in group["params"]]
            moments = self.optimiser.state.pop(table, {})
            if moments:
                self.optimiser.state[part] = {k: v if k == "step" else shards.part(key, v) for k, v in moments.items()}
            self.params[key] = part
            for params in (self.best_params, self.average_params):
                if key in params:
                    params[key] = shards.part(key, params[key])
            if key in histories:
                histories[key] = replace(histories[key], updated=shards.part(key, histories[key].updated))
        self.shards = shards
        self.row_updates = RowUpdates(self.optimiser, self.params, shards)
        self.row_updates.histories = histories

    def whole_tables(self, params: Params) -> Params:
        """Parameters of this run with whole tables in the first process; in the others as they are. Where tables are
        sharded all processes call it."""
        if self.shards is None:
            return params
        return params | {k: self.shards.whole(k, params[k]) for k in self.shards.shapes}

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: enough to draw each training entity once under uniform sampling."""
        return epoch_steps(self.recipe, len(self.train))

    @property
    def steps(self) -> int:
        """Steps of the whole run without an early stop."""
        return all_steps(self.recipe, len(self.train))

    @property
    def trainable(self) -> list[str]:
        """Names of the parameters that are not frozen, sorted."""
        return sorted(k for k in self.params if not self.learner.is_frozen(k))

    def current_params(self) -> Params:
        """Parameters that validation looks at: the average of the weights where the recipe has one, else the last. Of
        sharded tables they have the rows of this process, see `whole_tables`."""
        self.row_updates.settle(self.average_params)
        return {k: self.average_params.get(k, v).detach() for k, v in self.params.items()}

    def is_validation_due(self) -> bool:
        """True after a step at which the recipe validates."""
        train = self.recipe.train
        if self.step == self.steps:
            return True
        if train.most_steps:
            return self.step % train.validate_steps == 0
        return self.step % (self.epoch_steps * train.validate_every) == 0

    def best_params_or_last(self) -> Params:
        """Copy of the parameters that are best on meta-validation, or of the last ones without a validation. Whole in
        the first process; where tables are sharded all processes call it."""
        self.row_updates.settle(self.average_params)
        best = self.best_params or {k: v for k, v in self.current_params().items() if k in set(self.trainable)}
        return self.whole_tables({k: best.get(k, v).detach().clone() for k, v in self.params.items()})


def epoch_steps(recipe: Recipe, entities: int) -> int:
    """Steps of an epoch over `entities` training entities."""
    return max(1, math.ceil(entities / recipe.train.tasks))


def all_steps(recipe: Recipe, entities: int) -> int:
    """Steps of a whole run over `entities` training entities."""
    train, epoch = recipe.train, epoch_steps(recipe, entities)
    if train.most_steps:
        return train.most_steps
    return epoch * max(train.epochs, math.ceil(train.least_steps / epoch))


def to_checkpoint(run: TrainingRun) -> Checkpoint:
    """Copy the state of a run, without the frozen parameters that `start_training` rebuilds from data and seed.

    Where tables are sharded all processes call it, and the first one's is that of the whole run: any number of
    processes reads it.
    """
    tensors: dict[str, Tensor] = {f"params/{k}": run.params[k] for k in run.trainable}
    tensors |= add_prefix("best", run.best_params)
    tensors |= add_prefix("average", run.average_params)
    tensors |= add_prefix("rows", run.row_updates.dump())
    tensors |= add_prefix("sampler", run.sampler.state())
    tensors |= add_prefix("ledger", run.hardness_log.state())
    tensors["generator"] = run.generator.get_state()
    for i, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{i}/{k}": v for k, v in moments.items()}
    counters = {
        "best": run.best if math.isfinite(run.best) else None,
        "waited": run.validations_without_gain,
        "stopped": run.stop_reason,
        "rate_factor": run.rate_factor,
        "recipe": run.recipe.model_dump(mode="json"),
        "data": run.data.digest,
        "entities": _entities(run),
    }
    whole = _whole_tensors(run, tensors)
    return Checkpoint(run.step, {k: v.detach().clone() for k, v in tensors.items() if k not in whole} | whole, counters)


def _whole_tensors(run: TrainingRun, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a checkpoint that have rows of sharded tables, whole in the first process."""
    if run.shards is None:
        return {}
    tables: dict[str, str] = {}
    for key in run.shards.shapes:
        number = run.trainable.index(key)
        names = [f"params/{key}", f"best/{key}", f"average/{key}", f"rows/{key}/updated"]
        tables |= dict.fromkeys([*names, f"adam/{number}/exp_avg", f"adam/{number}/exp_avg_sq"], key)
    return {name: run.shards.whole(key, tensors[name].detach()) for name, key in tables.items() if name in tensors}


def _entities(run: TrainingRun) -> str:
    """Hash of the training entities, which tells a run of another split."""
    return hashlib.sha256(run.train.tobytes()).hexdigest()[:16]


@torch.no_grad()
def from_checkpoint(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Restore a checkpoint into a fresh run of the same recipe, data and seed.

    Raises CheckpointError if it is of another recipe, other data or another split, or does not fit.
    """
    try:
        _check(run, checkpoint.counters)
        _restore(run, checkpoint)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit this version of the learner: {error}") from None


def _check(run: TrainingRun, counters: Mapping[str, Any]) -> None:
    if counters["data"] != run.data.digest:
        raise CheckpointError("the checkpoint was made from other data; prepare the same data set or start a new run")
    # Read as a recipe: one that was written before there was a key has its default.
    if recipe_of(counters["recipe"], where="the checkpoint's recipe") != run.recipe:
        raise CheckpointError("the checkpoint was made by another recipe; resume with the run's own recipe")
    if counters["entities"] != _entities(run):
        raise CheckpointError("the checkpoint was made with other training entities; resume with the run's own seed")


def _restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    counters, tensors = checkpoint.counters, checkpoint.tensors
    for key in run.trainable:
        run.params[key].copy_(tensors[f"params/{key}"])
    device = run.generator.device
    run.best_params = {k: v.to(device) for k, v in select_prefix(tensors, "best").items()}
    run.average_params = {k: v.to(device) for k, v in select_prefix(tensors, "average").items()}
    run.sampler.restore(select_prefix(tensors, "sampler"))
    run.hardness_log.restore(select_prefix(tensors, "ledger"))
    run.generator.set_state(tensors["generator"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in select_prefix(tensors, "adam").items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value.clone()  # the optimiser keeps the tensor and changes it
    groups = run.optimiser.state_dict()["param_groups"]
    run.optimiser.load_state_dict({"state": state, "param_groups": groups})
    run.row_updates = RowUpdates(run.optimiser, run.params)
    run.row_updates.load(select_prefix(tensors, "rows"))
    run.step = checkpoint.step
    run.best = -math.inf if counters["best"] is None else counters["best"]
    run.validations_without_gain, run.stop_reason = counters["waited"], counters["stopped"]
    run.rate_factor = counters.get("rate_factor", 1.0)  # of earlier releases there is none
