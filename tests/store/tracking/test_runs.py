import math
import threading

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint
from tests.store.samples import NOON, a_run, curriculum_rows, later


def test_life_of_a_run(engine: Engine) -> None:
    with session(engine) as s:
        name = a_run(s, now=NOON).id
        assert name.startswith("20240517-120000-")
    with session(engine) as s:
        done = runs.set_run_status(s, name, "failed", reason="x" * 3000, now=later(60))
        assert (done.finished, len(done.reason or "")) == (later(60), 2000)
    with session(engine) as s:
        assert runs.set_run_status(s, name, "running").finished is None
    with reading(engine) as s:
        assert runs.get_run(s, name).status == "running"


def test_unknown_and_taken_names(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="nobody"), reading(engine) as s:
        runs.get_run(s, "nobody")
    with session(engine) as s:
        a_run(s, "r")
    with pytest.raises(ConflictError), session(engine) as s:
        a_run(s, "r")


def test_metrics_and_the_newest_of_each(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        a_run(s, "empty")
        points = [MetricPoint("r", key, step, step / 10) for key in ("loss", "ndcg") for step in range(600)]
        runs.log_metrics(s, points[::-1])
        runs.log_metrics(s, [MetricPoint("r", "loss", 5, 9.0), MetricPoint("r", "loss", 5, 8.0)])
        runs.log_metrics(s, [])
    with reading(engine) as s:
        assert [m.step for m in runs.run_metrics(s, "r", "loss")] == list(range(600))
        assert runs.run_metrics(s, "r", "loss")[5].value == 8.0
        assert len(runs.run_metrics(s, "r")) == 1200
        # An older step that is logged again, as after a resumed checkpoint, is not the newest.
        assert runs.latest_metrics(s, ["r", "empty"]) == {"r": {"loss": 59.9, "ndcg": 59.9}, "empty": {}}


def test_loss_that_is_not_a_number_is_kept_as_none(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        runs.log_metrics(s, [MetricPoint("r", "loss", 1, math.nan), MetricPoint("r", "norm", 1, math.inf)])
    with reading(engine) as s:
        assert runs.latest_metrics(s, ["r"]) == {"r": {"loss": None, "norm": math.inf}}


def test_two_writers_of_the_same_metrics(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
    keys = [f"k{i}" for i in range(50)]
    failed: list[Exception] = []

    def log(order: int) -> None:
        try:
            for step in range(10):
                with session(engine) as s:
                    runs.log_metrics(s, [MetricPoint("r", key, step, 1.0) for key in keys[::order]])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=log, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_curriculum(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        runs.log_curriculum(s, [CurriculumPoint("r", 1, "easy", 0.1, 0.5), CurriculumPoint("r", 1, "hard", 0.9, 0.5)])
        runs.log_curriculum(s, [CurriculumPoint("r", 1, "easy", 0.2, 0.4)])
    with reading(engine) as s:
        found = [(c.bucket, c.hardness, c.weight) for c in curriculum_rows(s, "r")]
    assert found == [("easy", 0.2, 0.4), ("hard", 0.9, 0.5)]


def test_prune_takes_ended_runs_with_all_that_is_theirs(engine: Engine) -> None:
    with session(engine) as s:
        for name in ("old", "new", "running"):
            a_run(s, name)
            runs.log_metrics(s, [MetricPoint(name, "loss", 1, 0.5)])
        runs.set_run_status(s, "old", "finished", now=NOON)
        runs.set_run_status(s, "new", "finished", now=later(60))
    with session(engine) as s:
        assert runs.prune_runs(s, later(30)) == 1
    with reading(engine) as s:
        assert {r.id for r in runs.page_runs(s).items} == {"new", "running"}
        assert runs.latest_metrics(s, ["old", "new"]) == {"old": {}, "new": {"loss": 0.5}}
