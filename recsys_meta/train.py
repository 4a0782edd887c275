"""Meta-training: a generator over steps. The caller logs, validates, checkpoints and stops.

    for step in fit(run): ...

A run is data: parameters, optimiser, task sampler, random state and counters. `freeze` and `thaw` turn it into a
checkpoint and back, bit for bit: a resumed run ends with the same weights as an undisturbed one (given the same
number of threads, which the caller owns).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_meta.checkpoint import Checkpoint
from recsys_meta.curricula import CURRICULA, Curriculum
from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex, batch_of, draw
from recsys_meta.errors import CheckpointError, ConfigError, DivergedError
from recsys_meta.predictor import Learner
from recsys_meta.recipe import Episodes, Recipe
from recsys_meta.types import IntArray, Params, TaskBatch

Validate = Callable[[Params], float]


@dataclass(frozen=True)
class Step:
    """What one meta-batch did. `valid` is there when the parameters were validated after it."""

    step: int
    steps: int
    epoch: int
    loss: float
    gradient: float
    tasks: int
    seconds: float
    logs: Mapping[str, float]
    valid: float | None = None
    best: float | None = None
    epoch_end: bool = False


@dataclass
class Run:
    """A training run between two steps."""

    learner: Learner
    recipe: Recipe
    data: Dataset
    index: EventIndex
    train: IntArray
    params: Params
    optimiser: torch.optim.AdamW
    sampler: Curriculum
    generator: torch.Generator
    aids: Any
    step: int = 0
    best: float = -math.inf
    best_params: Params = field(default_factory=dict)
    waited: int = 0
    stopped: str = ""

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: each training entity is met once."""
        return max(1, math.ceil(len(self.train) / self.recipe.train.tasks))

    @property
    def steps(self) -> int:
        """Steps of the whole run, if nothing stops it early."""
        return self.epoch_steps * self.recipe.train.epochs

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that the outer loop moves, in a fixed order."""
        return sorted(k for k in self.params if not self.learner.frozen(k))

    def chosen(self) -> Params:
        """The parameters to publish: best on meta-validation, or the last when never validated."""
        moved = self.best_params or {k: self.params[k] for k in self.trained}
        return {k: moved.get(k, v).detach().clone() for k, v in self.params.items()}


def start(
    learner: Learner,
    recipe: Recipe,
    data: Dataset,
    index: EventIndex,
    train: IntArray,
    seed: int,
    device: torch.device | str = "cpu",
) -> Run:
    """A fresh run. `train` are the meta-training entities: nothing else is ever looked at.

    Raises ConfigError when no entity has the two rows that an episode needs, or the curriculum is unknown.
    """
    enough = index.counts.cpu().numpy()[train] >= 2
    if not enough.any():
        raise ConfigError("no training entity has the two interactions that an episode needs")
    usable = np.asarray(train)[enough]
    if recipe.curriculum.name not in CURRICULA:
        raise ConfigError(f"no curriculum '{recipe.curriculum.name}'; there are {', '.join(CURRICULA)}")
    generator = torch.Generator().manual_seed(seed)
    # Statistics may come from every training entity; episodes only from those with two rows or more.
    params = {k: v.to(device) for k, v in learner.init(data, np.asarray(train), generator).items()}
    aids = learner.aids(data, np.asarray(train), torch.Generator().manual_seed(seed + 1))
    sampler = CURRICULA[recipe.curriculum.name](usable, **recipe.curriculum.config)
    moving = torch.Generator(device).manual_seed(seed + 2)
    return Run(
        learner,
        recipe,
        data,
        index,
        usable,
        params,
        _optimiser(learner, recipe, params),
        sampler,
        moving,
        aids,
    )


def _optimiser(learner: Learner, recipe: Recipe, params: Params) -> torch.optim.AdamW:
    groups = []
    for key in sorted(k for k in params if not learner.frozen(k)):
        params[key].requires_grad_(True)
        group = learner.group(key)
        rate = recipe.train.rate * group.rate
        groups.append({"params": [params[key]], "lr": rate, "initial_lr": rate, "weight_decay": group.decay})
    if not groups:
        raise ConfigError("the learner has no parameter to train")
    return torch.optim.AdamW(groups)


def fit(run: Run, validate: Validate) -> Iterator[Step]:
    """Train until the epochs are over or meta-validation has not gained for `patience` validations.

    `validate` gets the current parameters and returns a figure where higher is better. Raises DivergedError when
    loss or meta-gradient is not finite; the run is then left as it was before the bad step.
    """
    settings = run.recipe.train
    began = time.perf_counter()
    while run.step < run.steps and not run.stopped:
        batch = _episodes(run)
        loss, logs, norm = _update(run, batch)
        run.step += 1
        end = run.step % run.epoch_steps == 0
        epoch = (run.step - 1) // run.epoch_steps + 1
        valid = None
        if end and (epoch % settings.validate_every == 0 or run.step == run.steps):
            valid = _validated(run, validate)
        yield Step(
            step=run.step,
            steps=run.steps,
            epoch=epoch,
            loss=loss,
            gradient=norm,
            tasks=len(batch.entity),
            seconds=time.perf_counter() - began,
            logs=logs,
            valid=valid,
            best=run.best if math.isfinite(run.best) else None,
            epoch_end=end,
        )


def _episodes(run: Run) -> TaskBatch:
    entities = run.sampler.sample(run.recipe.train.tasks, run.generator)
    device = run.index.indptr.device
    chosen = torch.as_tensor(entities, device=device)
    episodes = run.recipe.episodes
    shots = support_sizes(episodes, len(entities), run.generator)
    timed = run.data.schema.order == "time"
    support, query = draw(
        run.index,
        chosen,
        shots,
        generator=None if timed else run.generator,
        max_query=episodes.max_query or None,
    )
    return batch_of(run.data, entities, support, query)


def support_sizes(episodes: Episodes, tasks: int, generator: torch.Generator) -> Tensor:
    """Support sizes [T] int64 from 0 to `max_shots`: uniform, log-uniform or half of each, and some empty."""
    device = generator.device
    chance = torch.rand(3, tasks, generator=generator, device=device)
    most = episodes.max_shots
    uniform = (chance[0] * (most + 1)).floor()
    log = torch.exp(chance[0] * math.log(most + 1)).round().clamp(max=most)
    match episodes.draw:
        case "uniform":
            sizes = uniform
        case "log":
            sizes = log
        case "mixed":
            sizes = torch.where(chance[2] < 0.5, uniform, log)
    return torch.where(chance[1] < episodes.empty, torch.zeros_like(sizes), sizes).long()


def _update(run: Run, batch: TaskBatch) -> tuple[float, Mapping[str, float], float]:
    settings = run.recipe.train
    rate = 1.0
    if settings.schedule == "cosine":
        rate = 0.5 * (1 + math.cos(math.pi * run.step / run.steps))
    for group in run.optimiser.param_groups:
        group["lr"] = group["initial_lr"] * rate
    run.optimiser.zero_grad(set_to_none=True)
    loss, logs = run.learner.meta_loss(run.params, batch, run.aids, run.generator)
    loss.backward()  # type: ignore[no-untyped-call]
    moved = [run.params[k] for k in run.trained if run.params[k].grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(moved, settings.clip)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        what = "loss" if not torch.isfinite(loss) else "meta-gradient"
        raise DivergedError(
            f"the {what} of step {run.step + 1} is not finite; the last checkpoint is kept. "
            f"Try a lower train.rate (now {settings.rate:g}) or a smaller train.clip (now {settings.clip:g})"
        )
    run.optimiser.step()
    return float(loss), logs, float(norm)


def _validated(run: Run, validate: Validate) -> float:
    value = validate({k: v.detach() for k, v in run.params.items()})
    if value > run.best:
        run.best, run.waited = value, 0
        run.best_params = {k: run.params[k].detach().clone() for k in run.trained}
    else:
        run.waited += 1
        if run.waited >= run.recipe.train.patience:
            run.stopped = f"no gain on meta-validation for {run.waited} validations"
    return value


def freeze(run: Run) -> Checkpoint:
    """The whole state of a run but its buffers, which `start` makes again from data and seed."""
    tensors: dict[str, Tensor] = {f"params/{k}": run.params[k] for k in run.trained}
    tensors |= {f"best/{k}": v for k, v in run.best_params.items()}
    tensors |= {f"sampler/{k}": v for k, v in run.sampler.state().items()}
    tensors["generator"] = run.generator.get_state()
    for i, moments in run.optimiser.state_dict()["state"].items():
        tensors |= {f"adam/{i}/{k}": v for k, v in moments.items()}
    counters = {
        "best": run.best if math.isfinite(run.best) else None,
        "waited": run.waited,
        "stopped": run.stopped,
        "recipe": run.recipe.model_dump(mode="json"),
        "data": run.data.digest,
    }
    return Checkpoint(run.step, tensors, counters)


@torch.no_grad()
def thaw(run: Run, checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a fresh run of the same recipe, data and seed.

    Raises CheckpointError when it belongs to another recipe or other data.
    """
    counters, tensors = checkpoint.counters, checkpoint.tensors
    if counters["data"] != run.data.digest:
        raise CheckpointError("the checkpoint was made from other data; prepare the same data set or start a new run")
    if counters["recipe"] != run.recipe.model_dump(mode="json"):
        raise CheckpointError("the checkpoint was made by another recipe; resume with the run's own recipe")
    for key in run.trained:
        run.params[key].copy_(tensors[f"params/{key}"])
    device = run.generator.device
    run.best_params = {k: v.to(device) for k, v in _below(tensors, "best/").items()}
    run.sampler.restore(_below(tensors, "sampler/"))
    run.generator.set_state(tensors["generator"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _below(tensors, "adam/").items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    groups = run.optimiser.state_dict()["param_groups"]
    run.optimiser.load_state_dict({"state": state, "param_groups": groups})
    run.step = checkpoint.step
    run.best = -math.inf if counters["best"] is None else counters["best"]
    run.waited, run.stopped = counters["waited"], counters["stopped"]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
