"""Training groups: several processes that train one run, each on its part of every meta-batch.

All processes draw the same meta-batches with the same random numbers; each computes the loss of every n-th task, and
the meta-gradients are added up explicitly. The graph of a task, through its inner steps too, lies within one process,
so the sum is right for second order. After it all take the same optimizer step on the same parameters.

Process 0 is the one that validates, records and writes; the others follow what it says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from recsys_meta.core.errors import ConfigError, ProcessGroupError
from recsys_meta.core.types import Params
from recsys_meta.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class TrainingGroup:
    """Process number `rank` of `size` in torch's default process group, and `local_rank` of `local_size` on its
    machine.

    What sends messages is called by all processes, in the same order, and raises ProcessGroupError if one has ended.
    """

    rank: int
    size: int
    local_rank: int = 0
    local_size: int = 1

    def device(self, name: str) -> str:
        """Device of this process: of several accelerators of a machine each process has its own."""
        return f"{name}:{self.local_rank}" if name == "cuda" else name

    @property
    def is_first(self) -> bool:
        """True in the process that validates, records and writes."""
        return self.rank == 0

    def check_tasks(self, tasks: int) -> None:
        """Raise ConfigError if some process would have no task of a meta-batch of so many."""
        if self.size > tasks:
            raise ConfigError(
                f"{self.size} processes cannot share steps of {tasks} tasks; start at most {tasks} or raise train.tasks"
            )

    def sum_gradients(self, params: Params, loss: Tensor, figures: dict[str, Tensor], share: float) -> Tensor:
        """Add up the gradients of the parameters over all processes, replace the figures by their means weighted by
        each process's share of the tasks, and return the sum of the losses.

        One message holds all. A parameter without a gradient in every process has none afterwards, one that has a
        gradient in some process has it in all.
        """
        keys, names = sorted(params), sorted(figures)
        scalars = torch.stack(
            [loss.detach().float().reshape(()), *(figures[k].detach().float().reshape(()) * share for k in names)]
        )
        is_present = scalars.new_tensor([params[k].grad is not None for k in keys])
        gradients = [_gradient(params[k]).flatten() for k in keys]
        message = torch.cat([scalars, is_present, *gradients])
        with _collective():
            dist.all_reduce(message)
        sizes = [params[k].numel() for k in keys]
        scalars, is_present, *gradients = torch.split(message, [len(scalars), len(keys), *sizes])
        present = _agreed(is_present, len(keys))
        for key, has_gradient, gradient in zip(keys, present, gradients, strict=True):
            params[key].grad = gradient.view_as(params[key]).to(params[key].dtype) if has_gradient else None
        figures.update(zip(names, scalars[1:], strict=True))
        return scalars[0]

    def first_value(self, compute: Callable[[], float]) -> float:
        """Number that process 0 computes while the others wait."""
        value = torch.tensor([compute() if self.is_first else 0.0], dtype=torch.float64)
        with _collective():
            dist.broadcast(value, 0)
        return float(value)

    def any(self, flag: bool) -> bool:
        """True if a flag is set in any process."""
        count = torch.tensor([float(flag)])
        with _collective():
            dist.all_reduce(count)
        return bool(count > 0)

    def sum_tensor(self, values: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, and return it."""
        with _collective():
            dist.all_reduce(values)
        return values

    def first_sum(self, values: Tensor) -> None:
        """Add up a tensor over all processes, in place, in process 0; those of the others are not to be used again."""
        with _collective():
            dist.reduce(values, 0)

    def smallest(self, value: float) -> float:
        """Smallest of the numbers that the processes have."""
        number = torch.tensor([value], dtype=torch.float64)
        with _collective():
            dist.all_reduce(number, dist.ReduceOp.MIN)
        return float(number)

    def first_params(self, params: Params) -> None:
        """Overwrite numbers by those of process 0: machines may differ in the last bits of what they compute."""
        with torch.no_grad():
            for key in sorted(k for k, v in params.items() if v.is_floating_point()):
                value = params[key].detach().clone(memory_format=torch.contiguous_format)
                with _collective():
                    dist.broadcast(value, 0)
                params[key].copy_(value)

    def first_text(self, text: str) -> str:
        """Text of process 0; that of the others is ignored."""
        return self._first_bytes(text.encode()).decode()

    def first_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Checkpoint of process 0, so that the others need not reach its files; None where it has none."""
        header = None if checkpoint is None else {"step": checkpoint.step, "counters": dict(checkpoint.counters)}
        header = json.loads(self.first_text(json.dumps(header)))
        tensors = {} if checkpoint is None else {k: v.contiguous() for k, v in checkpoint.tensors.items()}
        content = self._first_bytes(save(tensors))
        return None if header is None else Checkpoint(header["step"], load(content), header["counters"])

    def check_generator(self, generator: torch.Generator) -> None:
        """Raise ProcessGroupError if the processes have not drawn the same random numbers, as a learner makes them that
        draws for its own tasks only."""
        digest = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()[:8]
        number = torch.tensor([int.from_bytes(digest, "big", signed=True)])
        smallest, largest = number.clone(), number.clone()
        with _collective():
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        if not torch.equal(smallest, largest):
            raise ProcessGroupError(
                "the processes of this run have drawn different random numbers; the learner must draw for all tasks of "
                "a meta-batch (TaskBatch.whole), not for its own part"
            )

    def _first_bytes(self, content: bytes) -> bytes:
        size = torch.tensor([len(content)])
        with _collective():
            dist.broadcast(size, 0)
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.is_first and content else None
            data = torch.zeros(int(size), dtype=torch.uint8) if data is None else data
            if len(data):
                dist.broadcast(data, 0)
        return data.numpy().tobytes()


def _gradient(param: Tensor) -> Tensor:
    """Gradient of a parameter in single precision, zeros where it has none."""
    if param.grad is None:
        return torch.zeros_like(param, dtype=torch.float32)
    return param.grad.float()


def _agreed(is_present: Tensor, count: int) -> list[bool]:
    """Parameters that have a gradient in some process."""
    values: list[Any] = is_present.tolist()
    return [value > 0 for value in values[:count]]


@contextmanager
def _collective() -> Iterator[None]:
    """Turn the error of a collective operation, whose other side has ended, into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessGroupError(
            "another process of this run has ended or does not answer; its last lines say why. "
            "The last checkpoint is kept: resume it with any number of processes"
        ) from error
