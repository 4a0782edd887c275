"""Meta-training with MeLU's layers on ratings of MovieLens-1M, against learn2learn and a loop written by hand.

    recsys-meta data prepare movielens-1m --objective rating --out var/data/movielens-1m-ratings
    LEARN2LEARN=../learn2learn python -m benchmarks.meta_training var/data/movielens-1m-ratings --json FILE

A step is the meta-loss of 32 tasks of 20 support and 10 query rows and its gradient in every parameter; the decision
layers adapt and, in the case "rows too", the vectors of the entity and of the support's items with them.
Systems take turns, round after round, on the same batches in one process of one thread, after it was
asserted that loss and gradients are equal; figures are medians over the rounds, of tasks per second of processor time.
The last case is a whole step, second order: tasks are drawn, and the optimizer moves all parameters.

    learn2learn           a clone of its MAML for each task, the features of each task in a pass of its own
    learn2learn-batched   the same with the features of all tasks in one pass
    torchopt              its MetaSGD, whose steps the module goes through and is set back from after each task
    loop                  plain torch: autograd.grad(create_graph) for each task, losses summed
    recsys-meta           the learner "maml"

learn2learn is imported where it is installed or from a checkout that the variable LEARN2LEARN names; else its rows are
left out, which the result says. TorchOpt is measured where it is installed, in second order, since its optimisers
know no other.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import machine_facts
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import Params, TaskBatch
from recsys_meta.data import open_dataset
from recsys_meta.episodes.collate import episode_batch
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.functional.embeddings import embed_fields
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.training.outer_loop import build_optimizer
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training

TASKS, SUPPORT, QUERY = 32, 20, 10
DIMS, HIDDEN, RATE = 32, (64, 64), 0.05
CHECKOUT = "LEARN2LEARN"
"""Name of the variable that names a checkout of learn2learn."""
Adapts = Literal["head", "all"]
CASES: tuple[tuple[int, int, Adapts], ...] = (
    (1, 2, "head"),
    (5, 2, "head"),
    (1, 1, "head"),
    (5, 1, "head"),
    (1, 2, "all"),
)
"""Steps and order of each case, and what adapts: the layers, or the vectors of entity and items too."""
RTOL, ATOL = 1e-3, 1e-5
OUTER_RATE = 1e-3

MetaStep = Callable[[Params, TaskBatch], Tensor]
"""Meta-loss of a batch."""


@dataclass(frozen=True)
class BenchCase:
    """The learner of a case, its parameters, and the batches that every system meets."""

    learner: Maml
    params: Params
    batches: Sequence[TaskBatch]


def make_case(
    data: Dataset, index: EventIndex, steps: int, order: int, batches: int, adapts: Adapts = "head"
) -> BenchCase:
    """MeLU's layers, adapted by so many steps of the given order, and batches of random tasks."""
    config = MamlConfig(
        objective="rating",
        adapts=adapts,
        order=2 if order == 2 else 1,
        steps=steps,
        dims=DIMS,
        hidden=HIDDEN,
        combine="concat",
        item_id=False,
        item_bias=False,
        entity_start=False,
        dropout=0.0,
        rate=RATE,
    )
    learner, entities = Maml(config), index.entities_with(SUPPORT + QUERY)
    generator = torch.Generator().manual_seed(0)
    params = learner.init(data, entities, generator)
    for key in params:
        params[key].requires_grad_(not learner.is_frozen(key))
    rng = np.random.default_rng(0)
    return BenchCase(learner, params, [draw_batch(data, index, entities, rng, generator) for _ in range(batches)])


def draw_batch(
    data: Dataset, index: EventIndex, entities: np.ndarray, rng: np.random.Generator, generator: torch.Generator
) -> TaskBatch:
    """Draw a batch of tasks of SUPPORT and QUERY random rows."""
    tasks = rng.choice(entities, TASKS, replace=False)
    shots = torch.full((TASKS,), SUPPORT)
    return episode_batch(data, tasks, *index.draw(torch.as_tensor(tasks), shots, generator=generator, max_query=QUERY))


def task_inputs(params: Params, batch: TaskBatch, tasks: slice) -> Tensor:
    """Inputs [tasks, SUPPORT + QUERY, in] of the decision layers: the vectors of all fields side by side."""
    item = torch.cat([batch.support.rows.item[tasks], batch.query.item[tasks]], 1)
    features = {
        k.removeprefix("catalogue."): v[item.flatten()] for k, v in params.items() if k.startswith("catalogue.")
    }
    rows = torch.cat(embed_fields(params, "items", features), 1)
    entity = torch.cat(embed_fields(params, "entity", {k: v[tasks] for k, v in batch.support.features.items()}), 1)
    return torch.cat([entity[:, None].expand(-1, item.shape[1], -1), rows.view(*item.shape, -1)], 2)


def all_inputs(params: Params, batch: TaskBatch) -> list[Tensor]:
    """Inputs of each task, made in one pass over all of them."""
    return list(task_inputs(params, batch, slice(None)))


def each_inputs(params: Params, batch: TaskBatch) -> list[Tensor]:
    """Inputs of each task, made in a pass for each."""
    return [task_inputs(params, batch, slice(t, t + 1))[0] for t in range(TASKS)]


def own_vectors(batch: TaskBatch, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vector of a task's entity [Z], those of its support's items [SUPPORT, V] and of its query's [QUERY, V], from
    the inputs [SUPPORT + QUERY, in] of the layers."""
    width = DIMS * len(batch.support.features)
    return x[0, :width], x[:SUPPORT, width:], x[SUPPORT:, width:]


def join_inputs(z: Tensor, e: Tensor) -> Tensor:
    """Inputs [R, in] of the layers for an entity z [Z] and items e [R, V]."""
    return torch.cat([z.expand(len(e), -1), e], 1)


VECTORS = ("z", "items")
"""Parameters of a module of which each clone has those of its task: the vectors of its entity and of its support."""


class DecisionLayers(nn.Module):
    """The decision layers as a module over the weights of the learner's parameters; with VECTORS where these adapt."""

    def __init__(self, params: Params, adapts_rows: bool = False) -> None:
        super().__init__()
        if adapts_rows:
            self.z, self.items = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        for i in range(len(HIDDEN) + 1):
            for part in ("weight", "bias"):
                # In the memory of the learner's parameters, which an optimizer may move.
                setattr(self, f"{part}{i}", nn.Parameter(params[f"head.{i}.{part}"].detach()))

    def forward(self, x: Tensor | None) -> Tensor:
        """Scores [R] of inputs x [R, in]; with vectors that adapt x are those of items, None for the support's."""
        if hasattr(self, "z"):
            x = join_inputs(self.z, self.items if x is None else x)
        assert x is not None, "of rows, where vectors do not adapt"
        for i in range(len(HIDDEN) + 1):
            x = x @ getattr(self, f"weight{i}") + getattr(self, f"bias{i}")
            x = torch.relu(x) if i < len(HIDDEN) else x
        return x.squeeze(-1)


def loop_step(case: BenchCase) -> MetaStep:
    """The loop by hand: fast weights of one task after another."""
    config = case.learner.config
    steps, second, count = config.steps, config.order == 2, 2 * (len(HIDDEN) + 1)

    def forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
        for i in range(0, count, 2):
            x = x @ weights[i] + weights[i + 1]
            x = torch.relu(x) if i + 2 < count else x
        return x.squeeze(-1)

    def meta_loss(params: Params, batch: TaskBatch) -> Tensor:
        shared = [params[f"head.{i}.{part}"] for i in range(len(HIDDEN) + 1) for part in ("weight", "bias")]
        total = torch.zeros(())
        for t, x in enumerate(each_inputs(params, batch)):
            weights, (z, own, query) = [w.clone() for w in shared], own_vectors(batch, x)
            weights += [z, own] if config.adapts == "all" else []
            for _ in range(steps):
                inputs = join_inputs(*weights[count:]) if config.adapts == "all" else x[:SUPPORT]
                loss = functional.mse_loss(forward(weights, inputs), batch.support.rows.label[t])
                gradients = torch.autograd.grad(loss, weights, create_graph=second)
                weights = [w - RATE * g for w, g in zip(weights, gradients, strict=True)]
            inputs = join_inputs(weights[count], query) if config.adapts == "all" else x[SUPPORT:]
            total = total + functional.mse_loss(forward(weights, inputs), batch.query.label[t])
        return total / TASKS

    return meta_loss


def learn2learn_step(case: BenchCase, maml: Any, inputs: Callable[[Params, TaskBatch], list[Tensor]]) -> MetaStep:
    """learn2learn's way: a clone for each task, `adapt` for each step. Its module has weights of its own, which are
    those of the case; their gradients are handed over to the case's parameters."""
    adapts_rows = case.learner.config.adapts == "all"
    module = DecisionLayers(case.params, adapts_rows)
    algorithm = maml(module, lr=RATE, first_order=case.learner.config.order == 1)
    for name, weight in module.named_parameters():
        if name not in VECTORS:
            _hand_over(weight, case.params[f"head.{name[-1]}.{name[:-1]}"])

    def meta_loss(params: Params, batch: TaskBatch) -> Tensor:
        module.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for t, x in enumerate(inputs(params, batch)):
            learner, query = algorithm.clone(), x[SUPPORT:]
            own: Tensor | None = x[:SUPPORT]
            if adapts_rows:
                z, items, query = own_vectors(batch, x)
                learner.module._parameters |= dict(zip(VECTORS, (z, items), strict=True))
                own = None
            for _ in range(case.learner.config.steps):
                learner.adapt(functional.mse_loss(learner(own), batch.support.rows.label[t]))
            total = total + functional.mse_loss(learner(query), batch.query.label[t])
        return total / TASKS

    return meta_loss


def torchopt_step(case: BenchCase, torchopt: Any, inputs: Callable[[Params, TaskBatch], list[Tensor]]) -> MetaStep:
    """TorchOpt's way: a differentiable optimizer that changes the module, and its state of before after each task."""
    module = DecisionLayers(case.params)
    for name, weight in module.named_parameters():
        _hand_over(weight, case.params[f"head.{name[-1]}.{name[:-1]}"])

    def meta_loss(params: Params, batch: TaskBatch) -> Tensor:
        module.zero_grad(set_to_none=True)
        optimizer, total = torchopt.MetaSGD(module, lr=RATE), torch.zeros(())
        start, state = (torchopt.extract_state_dict(one, by="reference") for one in (module, optimizer))
        for t, x in enumerate(inputs(params, batch)):
            for _ in range(case.learner.config.steps):
                optimizer.step(functional.mse_loss(module(x[:SUPPORT]), batch.support.rows.label[t]))
            total = total + functional.mse_loss(module(x[SUPPORT:]), batch.query.label[t])
            torchopt.recover_state_dict(module, start)
            torchopt.recover_state_dict(optimizer, state)
        return total / TASKS

    return meta_loss


def _hand_over(weight: Tensor, target: Tensor) -> None:
    """Let the gradient of a weight be that of the target."""

    def copy(source: Tensor) -> None:
        target.grad = source.grad

    weight.register_post_accumulate_grad_hook(copy)  # type: ignore[no-untyped-call]


def learner_step(case: BenchCase) -> MetaStep:
    """The learner's own meta-loss."""

    def meta_loss(params: Params, batch: TaskBatch) -> Tensor:
        loss, _ = case.learner.meta_loss(params, batch, None, torch.Generator())
        return loss

    return meta_loss


def find_learn2learn() -> tuple[Any, str]:
    """The class `MAML` of learn2learn and where it is from; None, and why, without it."""
    checkout = os.environ.get(CHECKOUT)
    if checkout is None:
        try:
            return importlib.import_module("learn2learn").algorithms.MAML, "installed"
        except ImportError:
            return None, f"learn2learn is not installed, and {CHECKOUT} names no checkout"
    root = Path(checkout) / "learn2learn"
    if not (root / "algorithms" / "maml.py").is_file():
        return None, f"{CHECKOUT} names no checkout of learn2learn: it has no learn2learn/algorithms/maml.py"
    # The package imports every environment and data set that it knows: its parts are imported without it.
    for name, folder in (("learn2learn", root), ("learn2learn.algorithms", root / "algorithms")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML, "a checkout"


def find_torchopt() -> tuple[Any, str]:
    """TorchOpt and its version; None, and why, without it."""
    try:
        torchopt = importlib.import_module("torchopt")
    except ImportError as error:
        return None, f"TorchOpt is not installed: {error}"
    return torchopt, str(torchopt.__version__)


def gradients_of(case: BenchCase, step: MetaStep, batch: TaskBatch) -> tuple[float, dict[str, Tensor]]:
    """Meta-loss of a batch and its gradient in every parameter but the inner rates, which not all systems learn."""
    for value in case.params.values():
        value.grad = None
    loss = step(case.params, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {k: v.grad for k, v in case.params.items() if v.grad is not None and not k.startswith("rate.")}
    return float(loss.detach()), found


def assert_equal(case: BenchCase, systems: dict[str, MetaStep]) -> float:
    """Assert that all systems have the loss and the gradients of the loop; return the largest relative difference."""
    expected_loss, expected = gradients_of(case, systems["loop"], case.batches[0])
    worst = 0.0
    for name, step in systems.items():
        loss, found = gradients_of(case, step, case.batches[0])
        if found.keys() != expected.keys():
            raise SystemExit(f"{name}: gradients in other parameters: {sorted(found.keys() ^ expected.keys())}")
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
        for key, value in found.items():
            if not torch.allclose(value, expected[key], rtol=RTOL, atol=ATOL):
                raise SystemExit(f"{name}: its gradient in {key} is not that of the loop")
            scale = float(expected[key].norm().clamp(min=1e-12))
            worst = max(worst, float((value - expected[key]).norm()) / scale)
    return worst


def take_turns(systems: Mapping[str, Callable[[], object]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Tasks a second of each system in each round of so many steps; the systems take turns."""
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for turn in range(rounds + 1):
        for name, step in systems.items():
            began = time.process_time()
            for _ in range(steps):
                step()
            if turn:  # the first round warms up
                rates[name].append(TASKS * steps / (time.process_time() - began))
    return rates


def measure(case: BenchCase, systems: Mapping[str, MetaStep], rounds: int) -> dict[str, list[float]]:
    """Tasks a second of the meta-loss and its gradient, of each system in each round."""
    batches = {name: itertools.cycle(case.batches) for name in systems}
    calls = {name: partial(_next_gradients, case, step, batches[name]) for name, step in systems.items()}
    return take_turns(calls, rounds, len(case.batches))


def _next_gradients(case: BenchCase, step: MetaStep, batches: Iterator[TaskBatch]) -> None:
    gradients_of(case, step, next(batches))


def measure_training(data: Dataset, index: EventIndex, maml: Any, rounds: int, steps: int) -> dict[str, list[float]]:
    """Tasks a second of whole steps of training, one inner step in second order, of each system in each round."""
    inputs = {} if maml is None else {"learn2learn": each_inputs, "learn2learn-batched": all_inputs}
    trainings = {"loop": loop_training(data, index, loop_step), "recsys-meta": learner_training(data, index)}
    for name, way in inputs.items():
        trainings[name] = loop_training(data, index, partial(learn2learn_step, maml=maml, inputs=way))
    return take_turns({name: partial(next, training) for name, training in trainings.items()}, rounds, steps)


def learner_training(data: Dataset, index: EventIndex) -> Iterator[float]:
    """Losses of the steps that the trainer takes."""
    episodes = {"draw": "fixed", "max_shots": SUPPORT, "max_query": QUERY, "empty": 0.0, "order": "random"}
    train = {"tasks": TASKS, "most_steps": 10**6, "validate_steps": 10**6, "rate": OUTER_RATE}
    recipe = recipe_of({"name": "maml", "learner": "maml", "episodes": episodes, "train": train})
    learner = make_case(data, index, steps=1, order=2, batches=0).learner
    run = start_training(learner, recipe, data, index, index.entities_with(SUPPORT + QUERY), seed=0)
    return (step.loss for step in fit(run, lambda params: 0.0))


def loop_training(data: Dataset, index: EventIndex, make_step: Callable[[BenchCase], MetaStep]) -> Iterator[float]:
    """Losses of steps as others take them: tasks by the same sampler, AdamW over all parameters."""
    case, entities = make_case(data, index, steps=1, order=2, batches=0), index.entities_with(SUPPORT + QUERY)
    step, optimizer = make_step(case), build_optimizer(case.learner, case.params, OUTER_RATE)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    while True:
        loss, _ = gradients_of(case, step, draw_batch(data, index, entities, rng, generator))
        optimizer.step()
        yield loss


def rows_of(case: str, found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of the results, in the form of all benchmarks."""
    reference = "learn2learn" if "learn2learn" in found else "loop"
    base = statistics.median(found[reference])
    rows = []
    for system, rates in found.items():
        median = statistics.median(rates)
        values = {"value": median, "unit": "tasks/s", "ratio": median / base, "reference": reference}
        rows.append({"case": case, "system": system, **values})
    return rows


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = open_dataset(args.data)
    index, (maml, origin), (torchopt, version) = EventIndex.of(data), find_learn2learn(), find_torchopt()
    print(f"learn2learn: {origin}\ntorchopt: {version}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for steps, order, adapts in CASES:
        case = make_case(data, index, steps, order, args.batches, adapts)
        systems = {"loop": loop_step(case), "recsys-meta": learner_step(case)}
        if maml is not None:
            systems["learn2learn"] = learn2learn_step(case, maml, each_inputs)
            systems["learn2learn-batched"] = learn2learn_step(case, maml, all_inputs)
        if torchopt is not None and order == 2 and adapts == "head":
            systems["torchopt"] = torchopt_step(case, torchopt, each_inputs)
        worst = assert_equal(case, systems)
        name = f"{steps} step{'s' if steps > 1 else ''}, {'second' if order == 2 else 'first'} order"
        name += ", rows too" if adapts == "all" else ""
        print(f"{name}: gradients differ by {worst:.1e} at most", file=sys.stderr)
        rows += rows_of(name, measure(case, systems, args.rounds))
    rows += rows_of("whole step", measure_training(data, index, maml, args.rounds, args.batches))
    for row in rows:
        print(f"{row['case']}: {row['system']:20} {row['value']:7.0f} tasks/s  {row['ratio']:.2f}", file=sys.stderr)
    if args.json is not None:
        machine = machine_facts(threads=1)
        command = " ".join(["python -m benchmarks.meta_training", *sys.argv[1:]])
        content = {"bench": "meta_training", "machine": machine, "command": command, "learn2learn": origin}
        write_file(args.json, json.dumps({**content, "torchopt": version, "rows": rows}, indent=1).encode())


if __name__ == "__main__":
    main()
