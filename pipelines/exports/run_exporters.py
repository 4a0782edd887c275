"""Runs for other trackers: as Parquet files, as event files of TensorBoard, as runs of MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipelines.exports.parquet_tables import write_rows
from recsys_meta.core.errors import ConfigError, describe_unexpected
from recsys_meta.store.database.base import Base
from recsys_meta.store.tracking.runs import run_metrics
from recsys_meta.store.tracking.setting_tables import flat_settings
from recsys_meta.store.tracking.tables import CurriculumRecord, MetricRecord, RunRecord

Target = Literal["parquet", "tensorboard", "mlflow"]
_BATCH = 1000  # most figures of a request to MLflow
_PARAMS = 100  # most settings of one
_MLFLOW_STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def export_runs(session: Session, runs: Sequence[RunRecord], target: Target, out: str) -> list[str]:
    """Export runs with their settings, figures and curricula; return where each lies now.

    `out` is a folder; for MLflow the address of a server or store, as MLflow has it. Raises ConfigError for a library
    that is not installed, and where MLflow's store refuses.
    """
    return list(EXPORTERS[target](session, runs, out))


def _to_parquet(session: Session, runs: Sequence[RunRecord], out: str) -> Iterator[str]:
    tables: dict[str, tuple[type[Base], Any]] = {
        "runs": (RunRecord, RunRecord.id),
        "metrics": (MetricRecord, MetricRecord.run),
        "curriculum": (CurriculumRecord, CurriculumRecord.run),
    }
    for name, (table, key) in tables.items():
        columns = list(table.__table__.columns)
        path = Path(out) / f"{name}.parquet"
        write_rows(session, select(*columns).where(key.in_([run.id for run in runs])), columns, path)
        yield str(path)


def _to_tensorboard(session: Session, runs: Sequence[RunRecord], out: str) -> Iterator[str]:
    _require("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        folder = Path(out) / run.id
        with SummaryWriter(str(folder)) as writer:
            for metric in run_metrics(session, run.id):
                if metric.value is not None:
                    writer.add_scalar(metric.key, metric.value, metric.step, run.started.timestamp())
            rows = "".join(f"| {key} | {value} |\n" for key, value in _settings(run).items())
            writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
        yield str(folder)


def _to_mlflow(session: Session, runs: Sequence[RunRecord], out: str) -> Iterator[str]:
    _require("mlflow")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=out)
        for run in runs:
            yield _log_mlflow_run(client, session, run)
    except MlflowException as error:
        raise ConfigError(f"MLflow at {out}: {describe_unexpected(error)}") from None


def _log_mlflow_run(client: Any, session: Session, run: RunRecord) -> str:
    from mlflow.entities import Metric, Param

    experiment = client.get_experiment_by_name(run.dataset)
    experiment_id = client.create_experiment(run.dataset) if experiment is None else experiment.experiment_id
    tags = {"recipe": run.recipe, "learner": run.learner, "code_version": run.code_version or "", "run": run.id}
    start = _milliseconds(run.started)
    run_id = client.create_run(experiment_id, start_time=start, tags=tags, run_name=run.id).info.run_id
    figures = [
        Metric(m.key.replace("@", "_at_"), m.value, start, m.step)
        for m in run_metrics(session, run.id)
        if m.value is not None
    ]
    for part in _parts(figures, _BATCH):
        client.log_batch(run_id, metrics=part)
    settings = [Param(key, value[:6000]) for key, value in _settings(run).items()]
    for part in _parts(settings, _PARAMS):
        client.log_batch(run_id, params=part)
    end = None if run.finished is None else _milliseconds(run.finished)
    client.set_terminated(run_id, _MLFLOW_STATUS[run.status], end)
    return f"{run.dataset}/{run_id}"


def _settings(run: RunRecord) -> dict[str, str]:
    return {"recipe": run.recipe, "dataset": run.dataset, "seed": str(run.seed), **flat_settings(run.config)}


def _parts(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(values[i : i + size]) for i in range(0, len(values), size))


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _require(library: str) -> None:
    if find_spec(library) is None:
        raise ConfigError(f"{library} is missing; run: pip install 'recsys-meta[{library}]'")


EXPORTERS: Mapping[Target, Callable[[Session, Sequence[RunRecord], str], Iterator[str]]] = {
    "parquet": _to_parquet,
    "tensorboard": _to_tensorboard,
    "mlflow": _to_mlflow,
}
"""Exporters by the name of what reads the result."""
