"""A nursery of groups of processes that train one tiny run; `test_training_group` asks it for them.

    python -m tests.training.group_child

For each line of its input, DIR PROCESSES KILL_AT SHARD_ABOVE, it forks so many processes with the variables that
torchrun would set (none for a single one), waits for them and prints how they ended. The first of them saves a
checkpoint at every step, and the weights of the end to DIR/final.safetensors; the last one kills itself after step
KILL_AT (0: never). What each holds of a table is in DIR/held-RANK.json, what went wrong in it in DIR/error-RANK.txt.
(torch is imported once, see `kill_child`.)
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch
from safetensors.torch import save

from pipelines.experiments.training_processes import training_group
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.episodes.splits import split_by_seed
from recsys_meta.models.functional.prefixed_keys import add_prefix
from recsys_meta.models.learners.maml.maml import Maml, MamlConfig
from recsys_meta.training.checkpoint import last_checkpoint, save_checkpoint
from recsys_meta.training.shard_plan import shard_tables
from recsys_meta.training.trainer import fit, from_checkpoint, start_training, to_checkpoint
from tests.fixtures.services import free_port
from tests.fixtures.simulated_datasets import ranking_world, rating_world
from tests.fixtures.small_datasets import recipe, tiny
from tests.training.kill_child import threads

STEPS = 12


class SomeWholeTables(Maml):
    """A learner of which some steps read whole tables, as a batch does that has as many ids as there are items."""

    def select_rows(self, params, batch, generator):
        return None if batch.entity[0] % 4 == 1 else super().select_rows(params, batch, generator)


def train(folder: Path, kill_at: int, shard_above: int) -> None:
    """Train to the end from whatever is there: layers adapted in second order, tasks drawn by their hardness; or, where
    tables may be sharded, rankings by sampled negatives."""
    if shard_above:
        data, curriculum = ranking_world(entities=40, items=400, rows=8), "uniform"
        learner = SomeWholeTables(MamlConfig(objective="ranking", dims=4, negatives=40, rate=0.1, decay=0.1))
    else:
        data, curriculum = rating_world(entities=40, items=400, rows=8), "hardness"
        learner = tiny(objective="rating", hidden=(8,), combine="concat", adapts="head", rate=0.1)
    index = EventIndex.of(data)
    entities = split_by_seed(index.entities_with(2), 0).train
    settings = {"epochs": 3, "tasks": 7, "patience": 99, "average": 0.5}
    made = recipe(**settings, curriculum=curriculum, shard_above=shard_above)
    with training_group() as group:
        is_first = group is None or group.is_first
        run = start_training(learner, made, data, index, entities, 0, group=group)
        found = last_checkpoint(folder) if is_first else None
        if group is not None:
            found = group.first_checkpoint(found)
        if found is not None:
            from_checkpoint(run, found)
        said = shard_tables(run)
        losses = []
        for step in fit(run, lambda params: float(sum(v.double().nansum() for v in params.values()))):
            losses.append(step.loss)
            state = to_checkpoint(run)
            if is_first:
                save_checkpoint(folder, state)
            if step.step == kill_at and (group is None or group.rank == group.size - 1):
                os.kill(os.getpid(), signal.SIGKILL)
        assert run.step == run.steps == STEPS
        best, state = run.best_params_or_last(), to_checkpoint(run)
        if is_first:
            tensors = {**state.tensors, **add_prefix("chosen", best), "losses": torch.tensor(losses)}
            write_file(folder / "final.safetensors", save({k: v.contiguous() for k, v in tensors.items()}))
        table, rank = run.params["item"], 0 if group is None else group.rank
        moments = run.optimiser.state[table]
        held = {"values": table.numel(), **{k: moments[k].numel() for k in ("exp_avg", "exp_avg_sq")}}
        write_file(folder / f"held-{rank}.json", json.dumps({**held, "said": said}).encode())


def child(folder: Path, rank: int, processes: int, port: int, kill_at: int, shard_above: int) -> None:
    if processes > 1:
        numbers = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {k: str(v) for k, v in numbers.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = 1
    try:
        train(folder, kill_at, shard_above)
        code = 0
    except RecsysMetaError as error:
        (folder / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def nursery() -> None:
    for line in sys.stdin:
        folder, *numbers = line.split()
        processes, kill_at, shard_above = map(int, numbers)
        assert threads() <= {"jemalloc_bg_thd"}, "a thread would not survive the fork (the allocator's may)"
        children, port = [], free_port()
        for rank in range(processes):
            children.append(os.fork())
            if children[-1] == 0:
                child(Path(folder), rank, processes, port, kill_at, shard_above)
        print(*(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    nursery()
