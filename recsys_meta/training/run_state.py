"""A training run as data, and how it becomes a checkpoint and comes back, bit for bit.

A resumed run ends with the same weights as an undisturbed one, given the same number of threads, which the caller
owns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.types import IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.protocols import Learner
from recsys_meta.training.checkpoint import Checkpoint
from recsys_meta.training.curricula import Curriculum, HardnessLog
from recsys_meta.training.recipe import Recipe


@dataclass
class TrainingRun:
    """A training run between two steps."""

    learner: Learner
    recipe: Recipe
    data: Dataset
    index: EventIndex
    train: IntArray
    params: Params
    optimiser: torch.optim.AdamW
    sampler: Curriculum
    ledger: HardnessLog
    generator: torch.Generator
    aids: Any
    step: int = 0
    best: float = -math.inf
    best_params: Params = field(default_factory=dict)
    waited: int = 0
    stopped: str = ""

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: as many as meet each training entity once, where all are met alike."""
        return epoch_steps(self.recipe, len(self.train))

    @property
    def steps(self) -> int:
        """Steps of the whole run, if nothing stops it early."""
        return all_steps(self.recipe, len(self.train))

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that the outer loop moves, in a fixed order."""
        return sorted(k for k in self.params if not self.learner.is_frozen(k))

    def chosen(self) -> Params:
        """The parameters to publish: best on meta-validation, or the last when never validated."""
        moved = self.best_params or {k: self.params[k] for k in self.trained}
        return {k: moved.get(k, v).detach().clone() for k, v in self.params.items()}


def epoch_steps(recipe: Recipe, entities: int) -> int:
    """Steps of an epoch with so many training entities."""
    return max(1, math.ceil(entities / recipe.train.tasks))


def all_steps(recipe: Recipe, entities: int) -> int:
    """Steps of a whole run with so many training entities."""
    train, epoch = recipe.train, epoch_steps(recipe, entities)
    return epoch * max(train.epochs, math.ceil(train.least_steps / epoch))


def to_checkpoint(run: TrainingRun) -> Checkpoint:
    """The whole state of a run but its buffers, which `start` makes again from data and seed.

    A snapshot: training on does not change it.
    """
    tensors: dict[str, Tensor] = {f"params/{k}": run.params[k] for k in run.trained}
    tensors |= {f"best/{k}": v for k, v in run.best_params.items()}
    tensors |= {f"sampler/{k}": v for k, v in run.sampler.state().items()}
    tensors |= {f"ledger/{k}": v for k, v in run.ledger.state().items()}
    tensors["generator"] = run.generator.get_state()
    for i, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{i}/{k}": v for k, v in moments.items()}
    counters = {
        "best": run.best if math.isfinite(run.best) else None,
        "waited": run.waited,
        "stopped": run.stopped,
        "recipe": run.recipe.model_dump(mode="json"),
        "data": run.data.digest,
        "entities": _entities(run),
    }
    return Checkpoint(run.step, {k: v.detach().clone() for k, v in tensors.items()}, counters)


def _entities(run: TrainingRun) -> str:
    """Hash of the training entities: another split is another run."""
    return hashlib.sha256(run.train.tobytes()).hexdigest()[:16]


@torch.no_grad()
def from_checkpoint(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a fresh run of the same recipe, data and seed.

    Raises CheckpointError when it belongs to another recipe, other data or another split, or does not fit.
    """
    try:
        _check(run, checkpoint.counters)
        _restore(run, checkpoint)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint does not fit this version of the learner: {error}") from None


def _check(run: TrainingRun, counters: Mapping[str, Any]) -> None:
    if counters["data"] != run.data.digest:
        raise CheckpointError("the checkpoint was made from other data; prepare the same data set or start a new run")
    if counters["recipe"] != run.recipe.model_dump(mode="json"):
        raise CheckpointError("the checkpoint was made by another recipe; resume with the run's own recipe")
    if counters["entities"] != _entities(run):
        raise CheckpointError("the checkpoint was made with other training entities; resume with the run's own seed")


def _restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    counters, tensors = checkpoint.counters, checkpoint.tensors
    for key in run.trained:
        run.params[key].copy_(tensors[f"params/{key}"])
    device = run.generator.device
    run.best_params = {k: v.to(device) for k, v in _below(tensors, "best/").items()}
    run.sampler.restore(_below(tensors, "sampler/"))
    run.ledger.restore(_below(tensors, "ledger/"))
    run.generator.set_state(tensors["generator"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "adam/").items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value.clone()  # the optimiser keeps what it is given
    groups = run.optimiser.state_dict()["param_groups"]
    run.optimiser.load_state_dict({"state": state, "param_groups": groups})
    run.step = checkpoint.step
    run.best = -math.inf if counters["best"] is None else counters["best"]
    run.waited, run.stopped = counters["waited"], counters["stopped"]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
