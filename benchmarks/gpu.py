"""Learners on an accelerator: do they compute what they compute on the CPU, and how fast.

    python -m benchmarks.gpu --json benchmarks/results/gpu.json

For each case loss and meta-gradient of a meta-batch, adapted states and scores of the catalogue are compared with the
CPU's; then a training step (drawing episodes, meta-gradient, optimizer) and adapting and ranking are timed on both.
The share of the roofline is the time that floating-point operations and bytes of a meta-gradient would take at
this device's measured peaks, whichever is longer, over the time that it takes; each operation is counted as if it
fetched its inputs and wrote its outputs once. Data are simulated. Without an accelerator it says so and ends with
status 0; `--device cpu` tries the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import machine_facts
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import Params, TaskBatch, move_tensors
from recsys_meta.data import prepare_named
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.curricula import TaskDraw
from recsys_meta.training.outer_loop import sample_batch
from recsys_meta.training.recipe import Recipe, recipe_of
from recsys_meta.training.trainer import TrainingRun, fit, start_training

Row = dict[str, Any]
# Nothing is drawn at random in these, so that both devices compute the same.
MELU = {"objective": "rating", "adapts": "head", "hidden": [64, 64], "combine": "concat", "dims": 32, "rate": 0.05}
CASES: Mapping[str, tuple[str, str | None, str, dict[str, Any]]] = {
    "rankings, flagship": ("simulated-users", None, "flagship", {"dropout": 0.0, "memories": ["posterior", "cosine"]}),
    "ratings, MeLU of second order": ("simulated-users", "rating", "maml", {**MELU, "dropout": 0.0}),
    "ratings, exact posterior": ("simulated-users", "rating", "gaussian-posterior", {"unknown": 0.0}),
    "clicks, exact posterior": ("simulated-ads", None, "bernoulli", {"unknown": 0.0}),
}
"""Cases by name: data set, objective where it is not the data set's own, learner, configuration."""
CLOSE = {"rtol": 2e-3, "atol": 2e-4}
"""Tolerances between devices, which add up in another order; the CPU's own numbers are single precision too."""


@dataclass(frozen=True)
class DeviceCase:
    """A learner's run on the CPU and the same on the device, and a meta-batch on the CPU."""

    name: str
    host: TrainingRun
    device: TrainingRun
    batch: TaskBatch


def skip_reason(device: str) -> str | None:
    """Reason for which nothing can be measured here; None where it can."""
    if torch.device(device).type == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device here"
    return None


def make_cases(folder: Path, device: str, tasks: int) -> Iterator[DeviceCase]:
    """Prepare data and start the runs of each case."""
    for number, (name, (source, objective, learner, config)) in enumerate(CASES.items()):
        data = prepare_named(source, folder / str(number), objective=objective)
        recipe = recipe_of(
            {"name": "gpu", "learner": learner, "config": config, "train": {"tasks": tasks, "validate_every": 10**6}}
        )
        host, other = (_start(recipe, data, where) for where in ("cpu", device))
        draw = TaskDraw(host.train[:tasks], ())
        batch = sample_batch(data, host.index, draw, recipe.episodes, torch.Generator().manual_seed(1))
        yield DeviceCase(name, host, other, batch)


def _start(recipe: Recipe, data: Dataset, device: str) -> TrainingRun:
    learner = LEARNERS[recipe.learner](LEARNERS[recipe.learner].Config(**recipe.config))
    index = EventIndex.of(data)
    train = split_by_seed(index.entities_with(2), 0).train
    return start_training(learner, recipe, data, index.to(device), train, 0, device)


def check_equal(case: DeviceCase) -> float:
    """Largest difference between the devices, of loss, meta-gradient, states and scores, relative to the largest number
    of each. Raises AssertionError where one is beyond rounding."""
    host, device = (answers(run, case.batch) for run in (case.host, case.device))
    assert host.keys() == device.keys(), f"{case.name}: {sorted(host.keys() ^ device.keys())} on one device only"
    largest = 0.0
    for key, expected in host.items():
        got = device[key].cpu()
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        close = {"rtol": CLOSE["rtol"], "atol": CLOSE["atol"] * max(scale, 1e-3)}
        torch.testing.assert_close(got, expected, msg=lambda text, key=key: f"{case.name}, {key}: {text}", **close)
        if scale:
            largest = max(largest, float((got - expected).abs().max()) / scale)
    return largest


def answers(run: TrainingRun, batch: TaskBatch) -> dict[str, Tensor]:
    """Loss, meta-gradient, states and scores of a meta-batch, by name."""
    device = run.generator.device
    batch = batch.to(device)
    loss, gradients = meta_gradient(run, batch)
    params = {k: v.detach() for k, v in run.params.items()}
    with torch.no_grad():
        body = run.learner.body(params)
        state = run.learner.adapt(body, batch.support)
        scores = run.learner.rank(body, state)
    named = {f"gradient {k}": v for k, v in gradients.items()} | {f"state {k}": v for k, v in state.items()}
    return {"loss": loss, "scores": scores, **{k: v.float() for k, v in named.items()}}


def meta_gradient(run: TrainingRun, batch: TaskBatch) -> tuple[Tensor, Params]:
    """Loss of a meta-batch and its gradient in the trainable parameters."""
    run.optimiser.zero_grad(set_to_none=True)
    generator = torch.Generator(run.generator.device).manual_seed(2)
    loss, _ = run.learner.meta_loss(run.params, batch, run.training_state, generator)
    loss.backward()
    gradients = {k: v.grad.clone() for k, v in run.params.items() if v.grad is not None}
    return loss.detach(), gradients


class ByteCounter(TorchDispatchMode):
    """Counter of the bytes that operations read and write, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            moved = tree_leaves((args, kwargs or {}, result))
            self.total += sum(t.numel() * t.element_size() for t in moved if isinstance(t, Tensor))
        return result


@dataclass(frozen=True)
class DevicePeak:
    """Measured peaks of a device: floating-point operations and bytes a second."""

    operations: float
    bandwidth: float

    def bound(self, operations: float, size: float) -> float:
        """Seconds that some operations and bytes take at least."""
        return max(operations / self.operations, size / self.bandwidth)


def measure_peak(device: torch.device, width: int, floats: int) -> DevicePeak:
    """Measure a product of two matrices of this width, and a copy of so many numbers."""
    a, b = (torch.randn(width, width, device=device) for _ in range(2))
    source = torch.randn(floats, device=device)
    target = torch.empty_like(source)
    product = median_seconds(lambda: torch.mm(a, b), device, 10)
    copy = median_seconds(lambda: target.copy_(source), device, 10)
    return DevicePeak(2 * width**3 / product, 2 * 4 * floats / copy)


def median_seconds(call: Callable[[], object], device: torch.device, repeat: int) -> float:
    """Median time of a call, until the device has done it."""
    times = []
    for _ in range(repeat + 2):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_work(run: TrainingRun, batch: TaskBatch) -> tuple[float, float]:
    """Floating-point operations and bytes of a meta-gradient."""
    with FlopCounterMode(display=False) as operations, ByteCounter() as size:
        meta_gradient(run, batch)
    return float(operations.get_total_flops()), float(size.total)


def measure(case: DeviceCase, peak: DevicePeak, repeat: int) -> list[Row]:
    """Rows of a case: tasks a second, adapt latency, share of the roofline; the CPU is the reference."""
    device, tasks = case.device.generator.device, len(case.batch.entity)
    steps = {id(run): fit(run, lambda _: 0.0) for run in (case.host, case.device)}
    rows: list[Row] = []

    def compare(what: str, unit: str, one: Callable[[TrainingRun], Callable[[], object]], scale: float) -> None:
        reference, value = (median_seconds(one(run), run.generator.device, repeat) for run in (case.host, case.device))
        for system, seconds in ((device.type, value), ("cpu", reference)):
            number = scale / seconds if unit.endswith("/s") else seconds * scale
            ratio = reference / seconds
            rows.append(row(f"{case.name}: {what}", system, number, unit, ratio, "cpu"))

    compare("training step", "tasks/s", lambda run: lambda: next(steps[id(run)]), tasks)
    for count in (1, tasks):
        some = TaskBatch(case.batch.entity[:count], case.batch.support.of(torch.arange(count)), case.batch.query)
        compare(f"adapt and rank {count}", "ms", lambda run, some=some: adapt_call(run, some), 1e3)
    batch = case.batch.to(device)
    seconds = median_seconds(lambda: meta_gradient(case.device, batch), device, repeat)
    bound = peak.bound(*count_work(case.device, batch))
    rows.append(row(f"{case.name}: meta-gradient", device.type, bound / seconds, "share of roofline", None, ""))
    return rows


def adapt_call(run: TrainingRun, batch: TaskBatch) -> Callable[[], Tensor]:
    """Call that adapts to the batch's entities and scores the catalogue for each."""
    device = run.generator.device
    body = run.learner.body({k: v.detach() for k, v in run.params.items()})
    support = move_tensors(batch.support, device)

    @torch.no_grad()
    def call() -> Tensor:
        return run.learner.rank(body, run.learner.adapt(body, support))

    return call


def row(case: str, system: str, value: float, unit: str, ratio: float | None, reference: str) -> Row:
    """One row of the result, printed too."""
    print(f"{case}, {system}: {value:,.4g} {unit}", file=sys.stderr)
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def run_cases(device: str, tasks: int, repeat: int, width: int, floats: int) -> list[Row]:
    """Rows of all cases. Raises AssertionError where the device computes something else than the CPU."""
    rows: list[Row] = []
    peak = measure_peak(torch.device(device), width, floats)
    rows.append(row("product of matrices", device, peak.operations / 1e9, "GFLOP/s", None, ""))
    rows.append(row("copy", device, peak.bandwidth / 1e9, "GB/s", None, ""))
    with tempfile.TemporaryDirectory() as folder:
        for case in make_cases(Path(folder), device, tasks):
            difference = check_equal(case)
            rows.append(row(f"{case.name}: difference from the CPU", device, difference, "of the largest", None, "cpu"))
            rows += measure(case, peak, repeat)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--width", type=int, default=8192, help="of the matrices by whose product the peak is measured")
    parser.add_argument("--floats", type=int, default=2**27, help="numbers by whose copy the bandwidth is measured")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    reason, rows = skip_reason(given.device), []
    if reason is None:
        rows = run_cases(given.device, given.tasks, given.repeat, given.width, given.floats)
    else:
        print(f"skipped: {reason}", file=sys.stderr)
    if given.json is not None:
        machine = machine_facts()
        if torch.cuda.is_available():
            machine["accelerator"] = torch.cuda.get_device_name()
        command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
        content = {"bench": "gpu", "machine": machine, "command": command, "skipped": reason, "rows": rows}
        write_file(given.json, json.dumps(content, indent=1).encode())


if __name__ == "__main__":
    main()
