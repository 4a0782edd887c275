"""Memory-augmented network (MANN, Santoro et al. 2016): the rows are written into an external memory one after another,
where it was used least recently, and an item reads it by content.

Row s with normalised key k_s and residual r_s, in a memory of M slots with keys K, values, masses m and usage u:

    read_s  = softmax over slots of t cos(k_s, K)
    write_s = g read_(s-1) + (1 - g) least_s        least_s: the slot of the lowest u, erased first
    K += write_s k_s,   value += write_s r_s,   m += write_s,   u <- c u + read_s + write_s

Items read as a matching network attends to rows, a slot counting for its mass. The paper's labels enter one step late,
because its memory has to predict them first; rows of a support come with theirs. More rows than slots overwrite one
another, so that the order of the rows matters: with known times they are those of the events.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from recsys_meta.core.types import Params, State
from recsys_meta.models.functional.masking import MASKED_LOGIT
from recsys_meta.models.learners.amortized.matching import MatchingNetwork
from recsys_meta.models.learners.amortized.support_encoder import EncodedRows, SupportEncoderConfig


class EpisodicMemoryConfig(SupportEncoderConfig):
    """Configuration of `EpisodicMemory`."""

    slots: int = Field(default=16, ge=1, description="slots of the memory")
    usage_decay: float = Field(default=0.95, gt=0, lt=1, description="share of a slot's usage that stays after a row")


class MemorySlots(NamedTuple):
    """Memory of T tasks: key [T, M, V], and value, mass, usage and the last read weights, all [T, M]."""

    key: Tensor
    value: Tensor
    mass: Tensor
    usage: Tensor
    read: Tensor


class EpisodicMemory(MatchingNetwork):
    """The learner that this module describes."""

    name: ClassVar[str] = "episodic-memory"
    Config: ClassVar[type[SupportEncoderConfig]] = EpisodicMemoryConfig
    reads_order: ClassVar[bool] = True
    config: EpisodicMemoryConfig

    def init_method(self, generator: torch.Generator) -> Params:
        return super().init_method(generator) | {"rate.write": torch.full((), -2.0)}

    def encode(self, body: Params, rows: EncodedRows) -> State:
        """z is the start; key [T, M, V], value [T, M] and row [T, M] are what the slots hold."""
        keys = functional.normalize(rows.vectors @ body["key_map"], dim=2)
        tasks, width, slots = len(keys), keys.shape[2], self.config.slots
        memory = MemorySlots(keys.new_zeros(tasks, slots, width), *(keys.new_zeros(tasks, slots) for _ in range(4)))
        for s in range(keys.shape[1]):  # a memory is written in turn
            later = self._write(body, memory, keys[:, s], rows.residual[:, s])
            memory = MemorySlots(*(_choose(rows.mask[:, s], x, y) for x, y in zip(later, memory, strict=True)))
        mass = memory.mass.masked_fill(memory.mass == 0, 1.0)
        return {
            "z": rows.start,
            "key": functional.normalize(memory.key, dim=2),
            "value": memory.value / mass,
            "row": memory.mass,
        }

    def _write(self, body: Params, memory: MemorySlots, key: Tensor, residual: Tensor) -> MemorySlots:
        """The memory after a row of each task, keys [T, V] and residuals [T]."""
        least = functional.one_hot(memory.usage.argmin(1), self.config.slots).to(key.dtype)
        gate = torch.sigmoid(body["rate.write"]) * (memory.mass.amax(1, keepdim=True) > 0)
        read = self._read(body, memory, key)
        write, stays = gate * memory.read + (1 - gate) * least, 1 - least
        return MemorySlots(
            memory.key * stays[:, :, None] + write[:, :, None] * key[:, None],
            memory.value * stays + write * residual[:, None],
            memory.mass * stays + write,
            self.config.usage_decay * memory.usage + read + write,
            read,
        )

    def _read(self, body: Params, memory: MemorySlots, key: Tensor) -> Tensor:
        """Read weights [T, M] of keys [T, V]: 0 for slots that hold nothing."""
        cosine = (functional.normalize(memory.key, dim=2) * key[:, None]).sum(2)
        is_empty = memory.mass == 0
        logits = (body["log_sharpness"].exp() * cosine).masked_fill(is_empty, MASKED_LOGIT)
        return torch.softmax(logits, 1).masked_fill(is_empty, 0.0)


def _choose(there: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """New rows of [T, ...] where there [T], else old ones."""
    return torch.where(there.reshape(-1, *[1] * (new.dim() - 1)), new, old)
