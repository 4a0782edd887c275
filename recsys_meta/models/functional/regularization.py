"""Random masks for training: dropout of units, and values of features hidden as unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recsys_meta.core.types import PAD, UNKNOWN, Support, TaskBatch, TaskShard


def dropout(x: Tensor, rate: float, generator: torch.Generator | None, shard: TaskShard | None = None) -> Tensor:
    """Dropout (Srivastava et al. 2014): each element is 0 with probability `rate`, the others grow by 1 / (1 - rate).

    Unlike `torch.nn.functional.dropout` it draws from a generator, so that a run can be repeated; without one, or at
    rate 0, x is returned as it is. With a shard x is [T, ...] of its tasks, and the draw is that of all tasks.
    """
    if generator is None or not rate:
        return x
    shape = x.shape if shard is None else (len(shard.whole.entity), *x.shape[1:])
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    own = uniform if shard is None else shard.own(uniform)
    return x * (own.to(x.device) >= rate) / (1 - rate)


def standard_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise of the shape, the type and the device of a tensor."""
    noise = torch.randn(like.shape, generator=generator, device=generator.device)
    return noise.to(like.device, like.dtype)


def mask_entity_features(batch: TaskBatch, share: float, generator: torch.Generator) -> Support:
    """Supports of a meta-batch, or of a part of one, with a share of the entities' ids made unknown."""
    masked = mask_features(batch.whole.support.features, share, generator)
    return replace(batch.support, features={k: batch.own(v) for k, v in masked.items()})


def mask_features(features: Mapping[str, Tensor], share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Features with a share of their ids made unknown: new entities have values that no past entity had.

    Numbers and padding stay. Fields are masked in the order of their names.
    """
    values = dict(features)
    if not share:
        return values
    for name, value in sorted(features.items()):
        if not value.is_floating_point():
            mask = torch.rand(value.shape, generator=generator, device=value.device) < share
            values[name] = torch.where(mask & (value != PAD), UNKNOWN, value)
    return values
