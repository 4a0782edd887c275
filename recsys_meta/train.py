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
from torch import Tensor

from recsys_meta.curricula import CURRICULA, Curriculum
from recsys_meta.dataset import Dataset
from recsys_meta.episodes import EventIndex, batch_of, draw, seen_only
from recsys_meta.errors import ConfigError, DivergedError
from recsys_meta.predictor import Learner
from recsys_meta.recipe import Episodes, Recipe
from recsys_meta.run import Run, freeze, thaw
from recsys_meta.types import IntArray, Params, TaskBatch

__all__ = ["Run", "Step", "Validate", "fit", "freeze", "start", "support_sizes", "thaw"]

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


def start(
    learner: Learner,
    recipe: Recipe,
    data: Dataset,
    index: EventIndex,
    train: IntArray,
    seed: int,
    device: torch.device | str = "cpu",
) -> Run:
    """A fresh run. `train` are the meta-training entities: no row but theirs in `index` is ever looked at.

    Raises ConfigError when no entity has the two rows that an episode needs, or the curriculum is unknown.
    """
    train = np.asarray(train, np.int64)
    enough = index.counts.cpu().numpy()[train] >= 2
    if not enough.any():
        raise ConfigError("no training entity has the two interactions that an episode needs")
    usable = train[enough]
    if recipe.curriculum.name not in CURRICULA:
        raise ConfigError(f"no curriculum '{recipe.curriculum.name}'; there are {', '.join(CURRICULA)}")
    generator = torch.Generator().manual_seed(seed)
    # Statistics may come from every training entity; episodes only from those with two rows or more.
    seen = seen_only(data, index, train)
    params = {k: v.to(device) for k, v in learner.init(seen, train, generator).items()}
    aids = learner.aids(seen, train, torch.Generator().manual_seed(seed + 1))
    sampler = _curriculum(recipe, usable)
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


def _curriculum(recipe: Recipe, usable: IntArray) -> Curriculum:
    try:
        return CURRICULA[recipe.curriculum.name](usable, **recipe.curriculum.config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"curriculum.config of '{recipe.curriculum.name}': {error}") from None


def _optimiser(learner: Learner, recipe: Recipe, params: Params) -> torch.optim.AdamW:
    groups = []
    for key in sorted(k for k in params if not learner.frozen(k)):
        params[key].requires_grad_(True)
        group = learner.group(key)
        rate = recipe.train.rate * group.rate
        groups.append({"params": [params[key]], "lr": rate, "initial_lr": rate, "weight_decay": group.decay})
    if not groups:
        raise ConfigError("the learner has no parameter to train")
    # The second moment forgets faster than by default: runs are a few hundred steps long.
    return torch.optim.AdamW(groups, betas=(0.9, 0.99))


def fit(run: Run, validate: Validate) -> Iterator[Step]:
    """Train until the epochs are over or meta-validation has not gained for `patience` validations.

    `validate` gets the current parameters and returns a figure where higher is better. Raises DivergedError when
    loss or meta-gradient is not finite; parameters and optimiser are then left as they were before the bad step.
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
    """Support sizes [T] int64: a share `empty` is 0, the rest uniform from 0, or log-uniform from 1, to `max_shots`,
    or half of each ("mixed")."""
    device = generator.device
    chance = torch.rand(3, tasks, generator=generator, device=device)
    most = episodes.max_shots
    uniform = (chance[0] * (most + 1)).floor()
    log = torch.exp(chance[0] * math.log(most + 1)).floor().clamp(max=most)
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
    rate = min(1.0, (run.step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * run.step / run.steps)) + 0.01
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
    return float(loss.detach()), logs, float(norm)


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
