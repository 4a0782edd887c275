"""Outer loop: episodes of the drawn entities, and one optimizer step on their meta-loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError, DivergedError
from recsys_meta.core.types import Params, TaskBatch
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.protocols import Learner
from recsys_meta.training.curricula import TaskDraw
from recsys_meta.training.merged_adamw import MergedAdamW
from recsys_meta.training.recipe import EpisodeConfig, TrainConfig


def build_optimizer(learner: Learner, params: Params, rate: float) -> torch.optim.AdamW:
    """Build AdamW over all parameters that are not frozen, and let them require gradients.

    Raises ConfigError if all are frozen.
    """
    groups = []
    for key in sorted(k for k in params if not learner.is_frozen(k)):
        params[key].requires_grad_(True)
        group = learner.param_group(key)
        group_rate = rate * group.rate
        groups.append(
            {"params": [params[key]], "lr": group_rate, "initial_lr": group_rate, "weight_decay": group.decay}
        )
    if not groups:
        raise ConfigError("the learner has no parameter to train")
    # The second moment decays faster than by default: runs are a few hundred steps long.
    # Fused and merged: else ten operations for each parameter, which for small ones cost more than the numbers.
    return MergedAdamW(groups, betas=(0.9, 0.99), fused=True)


def sample_batch(
    data: Dataset,
    index: EventIndex,
    draw: TaskDraw,
    settings: EpisodeConfig,
    generator: torch.Generator,
    step: int | None = None,
) -> TaskBatch:
    """Draw training episodes of the drawn entities; rows that the draw prefers come first in the query.

    Before `step` number `shrink_steps` supports have at least a share of `max_shots` rows that falls with the steps:
    from many events to few. None: after all of them.
    """
    entities = torch.as_tensor(draw.entities, device=index.indptr.device)
    shots = support_sizes(settings, len(draw.entities), generator)
    if step is not None and step < settings.shrink_steps:
        shots = shots.clamp(min=round(settings.max_shots * (1 - step / settings.shrink_steps)))
    order = settings.order or ("data" if data.schema.order == "time" else "random")
    support, query = index.draw(
        entities,
        shots,
        generator=None if order == "data" else generator,
        max_query=settings.max_query or None,
        prefer=draw.prefer,
        window=order == "window",
    )
    return episode_batch(data, draw.entities, support, query)


def support_sizes(episodes: EpisodeConfig, tasks: int, generator: torch.Generator) -> Tensor:
    """Draw support sizes [T] int64: a share `empty` of them 0, the rest by `draw`.

    "uniform" from 0 to `max_shots`, "log" log-uniform from 1 to `max_shots`, "mixed" half of each, "fixed" always
    `max_shots`.
    """
    device = generator.device
    uniform_draws = torch.rand(3, tasks, generator=generator, device=device)
    max_shots = episodes.max_shots
    uniform = (uniform_draws[0] * (max_shots + 1)).floor()
    log = torch.exp(uniform_draws[0] * math.log(max_shots + 1)).floor().clamp(max=max_shots)
    match episodes.draw:
        case "uniform":
            sizes = uniform
        case "log":
            sizes = log
        case "fixed":
            sizes = torch.full_like(uniform, max_shots)
        case "mixed":
            sizes = torch.where(uniform_draws[2] < 0.5, uniform, log)
    return torch.where(uniform_draws[1] < episodes.empty, torch.zeros_like(sizes), sizes).long()


def lr_factor(settings: TrainConfig, step: int, steps: int) -> float:
    """Factor on the learning rate at a step (from 0) of a run of `steps`."""
    rate = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01
    return rate


SumGradients = Callable[[Params, Tensor], Tensor]
"""Adds up the gradients of some parameters over processes, and their losses."""


def optimizer_step(
    loss: Tensor,
    params: Params,
    optimiser: torch.optim.AdamW,
    settings: TrainConfig,
    factor: float,
    step: int,
) -> tuple[float, float]:
    """Take one optimizer step on the loss; return the loss and the norm of the meta-gradient before clipping.

    Raises DivergedError if either is not finite; parameters and moments are then unchanged.
    """
    optimiser.zero_grad(set_to_none=True)
    result = clipped_gradients(loss, params, settings, step)
    set_rates(optimiser, factor)
    optimiser.step()
    return result


def set_rates(optimiser: torch.optim.AdamW, factor: float) -> None:
    """Set the learning rates of a step."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor


def clipped_gradients(
    loss: Tensor, params: Params, settings: TrainConfig, step: int, sum_gradients: SumGradients | None = None
) -> tuple[float, float]:
    """Compute the meta-gradient in the parameters and clip it; return the loss and the gradient's norm before that, the
    only numbers that a step reads back.

    Raises DivergedError if either is not finite.
    """
    if loss.requires_grad or sum_gradients is None:
        loss.backward()  # type: ignore[no-untyped-call]
    if sum_gradients is not None:
        loss = sum_gradients(params, loss)
    gradients = [v for _, v in sorted(params.items()) if v.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(gradients, settings.clip)
    value, length = read_numbers([loss, norm])
    if not (math.isfinite(value) and math.isfinite(length)):
        what = "loss" if not math.isfinite(value) else "meta-gradient"
        raise DivergedError(
            f"the {what} of step {step + 1} is not finite; the last checkpoint is kept. "
            f"Try a lower train.rate (now {settings.rate:g}) or a smaller train.clip (now {settings.clip:g})"
        )
    return value, length


def read_numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Values of scalars of one device in a single transfer, for which an accelerator has to be waited for once."""
    if not scalars:
        return []
    values: list[float] = torch.stack([s.detach().double().reshape(()) for s in scalars]).tolist()
    return values
