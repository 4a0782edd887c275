"""What a curriculum did, from training into the table and its view."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.tracking import curriculum, runs
from recsys_meta.training.curricula import HardnessBucket
from recsys_meta.training.recipe import recipe_of
from recsys_meta.training.trainer import fit, start_training
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import recipe, tiny
from tests.store.database.view_rows import hardest_tasks
from tests.store.samples import curriculum_rows


@pytest.fixture
def engine(tmp_path):
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    migrate.upgrade_database(url)
    made = connect(url)
    with session(made) as s:
        runs.start_run(s, recipe="r", dataset="d", learner="maml", config={}, seed=0, run="r")
    yield made
    made.dispose()


def test_rows_of_many_steps_in_bulk(engine):
    steps = [(n, [HardnessBucket(f"decile {d:02d}", d / 10, 0.1) for d in range(10)]) for n in range(150)]
    with session(engine) as s:
        assert curriculum.save_curriculum(s, "r", steps) == 1500
        assert curriculum.save_curriculum(s, "r", []) == 0
        assert (
            curriculum.save_curriculum(
                s, "r", [(3, [HardnessBucket("decile 00", 9.0, 0.4), HardnessBucket("new", float("nan"), 0.0)])]
            )
            == 2
        )
    with reading(engine) as s:
        rows = curriculum_rows(s, "r")
        assert len(rows) == 1501
        assert next((r.hardness, r.weight) for r in rows if r.step == 3) == (9.0, 0.4)
        assert [r.hardness for r in rows if r.bucket == "new"] == [None]


def test_the_hardest_tasks_of_a_run_are_in_the_view(engine):
    data = ranking_world(entities=40, items=20, rows=6)
    made = recipe_of(recipe(epochs=4, tasks=8).model_dump() | {"curriculum": {"name": "hardness"}})
    run = start_training(tiny(), made, data, EventIndex.of(data), np.arange(40), 0)
    steps = [(step.step, step.buckets) for step in fit(run, lambda _: 0.0)]
    with session(engine) as s:
        curriculum.save_curriculum(s, "r", steps)
    with reading(engine) as s:
        worst = hardest_tasks(s, "r", limit=3)
        every = hardest_tasks(s, "r", limit=100)
        drawn = {step: 0.0 for step, _ in steps}
        for row in curriculum_rows(s, "r"):
            drawn[row.step] += row.weight if row.bucket.startswith("decile") else 0.0
    assert worst[0]["bucket"] == "decile 10"
    assert worst[0]["hardness"] > worst[-1]["hardness"]
    assert {f"decile {d:02d}" for d in range(1, 11)} < {r["bucket"] for r in every}
    assert drawn == pytest.approx(dict.fromkeys(drawn, 1.0))
