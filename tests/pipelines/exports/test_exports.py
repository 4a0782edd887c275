"""Rows as Parquet, and runs in the files of other trackers: read back, they are what the database has."""

import json

import pyarrow.parquet as pq
import pytest

from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.entities.adaptations import NewAdaptation, save_adaptations
from recsys_meta.store.entities.outcomes import save_outcomes
from recsys_meta.store.model_registry import guardrail, registry
from recsys_meta.store.model_registry.tables import AlertRecord
from recsys_meta.store.tracking.evaluations import save_evaluations
from recsys_meta.store.tracking.runs import MetricPoint, log_metrics, set_run_status, start_run
from tests.pipelines.conftest import Command
from tests.store.samples import NOON, an_evaluation, an_outcome

POINTS = [(1, 0.5), (2, 0.25), (3, 0.125)]


@pytest.fixture
def filled(tmp_path) -> Command:
    """A home whose database has rows of each kind, and an ended run."""
    url = f"sqlite:///{tmp_path / 'recsys-meta.db'}"
    migrate.upgrade_database(url)
    engine = connect(url)
    with session(engine) as s:
        save_adaptations(s, [NewAdaptation("v", "user", "u\n1", 1, 1, 2.0, None, 0.5, 0.1, "adapted", NOON)])
        save_outcomes(s, [an_outcome("e1"), an_outcome("e2")])
        save_evaluations(s, [an_evaluation(shots=3)])
        start_run(s, recipe="maml", dataset="d", learner="maml", config={"train": {"rate": 0.1}}, seed=7, run="one")
        log_metrics(s, [MetricPoint("one", "ndcg@10", step, value) for step, value in POINTS])
        log_metrics(s, [MetricPoint("one", "loss", 1, float("nan"))])
        set_run_status(s, "one", "finished")
    engine.dispose()
    return Command(tmp_path)


def test_tables_are_written_as_parquet(filled, tmp_path):
    folder = tmp_path / "out"
    done = filled.json("db", "export", "--out", folder)
    assert {name: table["rows"] for name, table in done.items()} == {
        "adaptations": 1,
        "impressions": 0,
        "outcomes": 2,
        "evaluations": 1,
        "paired_tests": 0,
        "newcomer_results": 0,
    }
    (row,) = pq.read_table(folder / "adaptations.parquet").to_pylist()
    assert (row["entity"], row["loss_before"], row["loss_after"], row["created"]) == ("u\n1", 2.0, None, NOON)
    assert pq.read_table(folder / "impressions.parquet").schema.names[0] == "id"
    # What was made long ago is no row of the last days.
    assert filled.json("db", "export", "--out", folder, "--days", 1)["adaptations"]["rows"] == 0
    assert pq.read_table(folder / "adaptations.parquet").num_rows == 0


def test_runs_as_parquet(filled, tmp_path):
    filled("runs", "export", "one", "--to", "parquet", "--out", tmp_path / "out")
    (run,) = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert (run["id"], json.loads(run["config"]), run["seed"]) == ("one", {"train": {"rate": 0.1}}, 7)
    rows = pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()
    assert {(r["key"], r["step"], r["value"]) for r in rows} == {*(("ndcg@10", *p) for p in POINTS), ("loss", 1, None)}


def test_runs_for_tensorboard(filled, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    filled("runs", "export", "one", "--to", "tensorboard", "--out", tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "one"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("ndcg@10")] == POINTS
    assert events.Tags()["scalars"] == ["ndcg@10"]


def test_runs_for_mlflow(filled, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    filled("runs", "export", "one", "--to", "mlflow", "--out", store)
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("d")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["train.rate"]) == ("one", "FINISHED", "0.1")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "ndcg_at_10")] == POINTS


def test_what_is_no_target_is_wrong_usage(filled, tmp_path):
    assert "tensorboard" in filled("runs", "export", "one", "--to", "excel", "--out", tmp_path, code=2)
    assert "no run 'two'" in filled("runs", "export", "two", "--to", "parquet", "--out", tmp_path, code=1)


def test_old_alerts_that_ended_are_pruned(filled):
    engine = connect(f"sqlite:///{filled.home / 'recsys-meta.db'}")
    with session(engine) as s:
        registry.register_version(s, "m", "v", "/v")
        figures = {"difference": -0.1, "low": -0.2, "high": -0.05, "events": 100, "entities": 50}
        for version, ended in (("old", NOON), ("open", None)):
            s.add(
                AlertRecord(
                    model="m", model_version=version, rule="r", opened=NOON, ended=ended, checked=NOON, **figures
                )
            )
    assert filled.json("db", "prune", "--days", 1)["alerts"] == 1
    with session(engine) as s:
        assert [a.model_version for a in guardrail.open_alerts(s)] == ["open"]
    engine.dispose()
