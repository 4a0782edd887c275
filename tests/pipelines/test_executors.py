"""`adapt --engine ray`: the same answers, the same errors and the same files as without it, and nothing is left behind.

Ray is an extra of 240 MB: where it is not installed, all but the first tests skip.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.batch import batch_inference as adapted
from pipelines.batch import entity_partitioning as spreading
from pipelines.batch import event_files as told
from pipelines.batch.batch_inference import entity_chunks, read_tables
from pipelines.batch.executors import BatchTask, ExecutionBackend, backend
from pipelines.experiments.thread_count import fixed_threads
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.core.schema import FeatureField
from recsys_meta.data import prepare, simulate_ads, simulate_cities, simulate_users
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.inference.recommender import Recommender
from recsys_meta.models.bundle import load_bundle, make_bundle, save_bundle
from recsys_meta.models.learners import LEARNERS
from tests.pipelines.processes import AGENTS, PROC, inhabitants
from tests.pipelines.test_batch_inference import bundle, left, table  # noqa: F401

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'recsys-meta[ray]'")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="needs /proc")
ROOT = Path(__file__).parents[2]
WORKERS = 2
KINDS = {
    "user": (simulate_users(users=60, items=50, events=1500), "flagship"),
    "ad": (simulate_ads(ads=60, users=60, events=2400), "bernoulli"),
    "city": (simulate_cities(cities=24, places=600, people=100, events=2400), "choice"),
}


@pytest.fixture(scope="module")
def under_ray():
    with backend(ExecutionBackend.RAY, WORKERS) as answers:
        yield answers


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(adapted, "MAX_ENTITIES", 5)


def task_of(kind: str, folder: Path) -> BatchTask:
    """Adapt to the entities of a simulator by a learner that was not trained."""
    simulated, name = KINDS[kind]
    tables, learner = simulated.tables, LEARNERS[name](LEARNERS[name].Config())
    if kind == "ad":
        context = FeatureField(name="position", kind="numeric"), FeatureField(name="hour")
        tables = replace(tables, schema=tables.schema.model_copy(update={"context": context}))
    data = prepare(tables, folder / "data")
    train = np.arange(12)
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    place = save_bundle(make_bundle(learner, params, data, EventIndex.of(data), train, {}), folder)
    schema = tables.schema
    names = {schema.entity: "entity", schema.item: "item", schema.label: "label", schema.actor: "actor"}
    chunks = [chunk.frame for chunk in tables.events(10**6)]
    pd.concat(chunks).rename(columns={k: v for k, v in names.items() if k}).to_csv(folder / "events.csv", index=False)
    return BatchTask(Recommender(load_bundle(place)), place, folder / "events.csv", 3)


def frame_of(task: BatchTask) -> pd.DataFrame:
    """The whole table, as `spreading.read` gives a part of it."""
    read = [t.to_pandas(types_mapper=pd.ArrowDtype) for t in read_tables(task.events, task.recommender)]
    return pd.concat(read).set_index(told.LINE_COLUMN)


def test_without_ray_it_says_what_to_install(command, model, items, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    table(items, 5, 3).to_csv(tmp_path / "events.csv", index=False)
    asked = ("adapt", model, "--events", tmp_path / "events.csv", "--out", tmp_path / "out.parquet")
    assert "pip install 'recsys-meta[ray]'" in command(*asked, "--engine", "ray", code=2)
    assert left(tmp_path) == ["events.csv"]
    assert "only --engine ray has workers" in command(*asked, "--workers", "2", code=2)
    assert command.json(*asked)["entities"] == 5


@needs_ray
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_answered_as_without_ray(under_ray, kind, tmp_path):
    task = task_of(kind, tmp_path)
    cut = list(entity_chunks(task.recommender, frame_of(task)))
    assert len(cut) > 2 * WORKERS, "more pieces than are given out at once"
    # Ray's workers have one thread each, and products of several differ in the last bits.
    with fixed_threads(1), backend(ExecutionBackend.LOCAL) as here:
        wanted = list(here(task, cut))
    found = list(under_ray(task, iter(cut)))
    assert [done for _, done in found] == [len(piece) for piece in cut]
    assert all(a.equals(b) for (a, _), (b, _) in zip(found, wanted, strict=True))
    assert sum(len(t) for t, _ in found) == pd.read_csv(task.events)["entity"].nunique()


@needs_ray
def test_the_first_wrong_event_is_named_as_without_ray(under_ray, tmp_path):
    task = task_of("ad", tmp_path)
    frame = frame_of(task)
    frame["position"] = frame["position"].to_numpy("float64", copy=True)
    frame.iloc[[300, 900, 1500], frame.columns.get_loc("position")] = 1e39
    found = []
    with backend(ExecutionBackend.LOCAL) as here:
        for answers in (here, under_ray):
            with pytest.raises(DataError) as error:
                list(answers(task, entity_chunks(task.recommender, frame)))
            assert error.type is DataError and error.value.field == "position"
            found.append(str(error.value))
    assert found[0] == found[1] and "finite" in found[0]


@needs_ray
def test_a_model_that_was_replaced_is_noticed(under_ray, tmp_path):
    task = task_of("user", tmp_path)
    other = replace(task, recommender=Recommender(replace(task.recommender.bundle, version="another")))
    with pytest.raises(ConfigError, match="was changed meanwhile"):
        list(under_ray(other, entity_chunks(task.recommender, frame_of(task))))


@needs_ray
def test_wrong_input_is_told_as_without_ray(command, bundle, tmp_path):  # noqa: F811
    events = tmp_path / "events.csv"
    pd.DataFrame({"entity": ["a", None], "item": "i1"}).to_csv(events, index=False)
    asked = ("adapt", bundle, "--events", events, "--out", tmp_path / "out.parquet")
    said = command(*asked, code=1)
    assert command(*asked, "--engine", "ray", code=1) == said and "the entity is empty" in said
    assert left(tmp_path) == ["events.csv"]


@needs_ray
@needs_proc
@pytest.mark.slow
def test_whoever_is_killed_it_goes_on_and_writes_the_same(command, bundle, items, tmp_path, monkeypatch):  # noqa: F811
    events, out, alone = tmp_path / "events.parquet", tmp_path / "out.parquet", tmp_path / "alone.parquet"
    table(items, 300, 4).to_parquet(events)
    asked = ("--events", events, "--out", out, "--json")

    code, said, _ = child(command, tmp_path, "itself", 19, bundle, *asked)
    assert code == -signal.SIGKILL and not out.exists()
    seen = json.loads(said)
    assert set(seen["names"]) >= AGENTS and len(seen["names"]) > len(AGENTS) + WORKERS
    assert seen["listening"] and all(ip_address(a).is_loopback for a in seen["listening"])
    made = list((tmp_path / ".adapt-out.parquet" / "made").glob("[0-9]*.parquet"))
    assert made
    wait_until(lambda: set(inhabitants(tmp_path).values()) <= AGENTS)
    before = inhabitants(tmp_path).keys()

    code, said, complained = child(command, tmp_path, "workers", 9, bundle, *asked)
    answer = json.loads(said.partition("\n")[2])
    assert (code, answer["resumed"], answer["entities"]) == (0, True, 300)
    first, *others = filter(None, complained.splitlines())
    assert first == "an earlier run was interrupted; going on where it stopped"
    assert all(line.startswith("warning: times ") for line in others), complained
    wait_until(lambda: inhabitants(tmp_path).keys() <= before)

    for where, name, value in (
        (spreading, "PARTITION_ROWS", 60),
        (spreading, "MAX_OPEN_FILES", 4),
        (told, "BLOCK_ROWS", 250),
    ):
        monkeypatch.setattr(where, name, value)
    command("adapt", bundle, "--events", events, "--out", alone)
    assert out.read_bytes() == alone.read_bytes()


def child(command, folder: Path, *words: object) -> tuple[int, str, str]:
    """Exit code and what was said. In files: what is left of Ray would hold a pipe open."""
    words = (*words, "--engine", "ray", "--workers", WORKERS)
    out, err = folder / "said.txt", folder / "told.txt"
    with out.open("w") as said, err.open("w") as told_:
        done = subprocess.run(
            [sys.executable, "-m", "tests.pipelines.engine_child", *map(str, words)],
            env={**command.environment, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=said,
            stderr=told_,
            check=False,
        )
    return done.returncode, out.read_text(), err.read_text()


def wait_until(true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
