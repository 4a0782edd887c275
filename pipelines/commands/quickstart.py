"""`recsys-meta quickstart`: prepare, train, evaluate and publish in one go, on the first data set available."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipelines.commands.compare import run_comparison
from pipelines.commands.comparison_output import print_comparison
from pipelines.commands.model_publication import publish_run
from pipelines.console import Json, err, out, print_json, with_command
from pipelines.experiments import comparison, report
from pipelines.experiments.comparison import Comparison
from pipelines.experiments.evaluation_protocol import FLAGSHIPS, EvaluationProtocol
from pipelines.experiments.tuned_baselines import baselines_for, is_installed
from pipelines.workspace import Workspace
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.errors import ConflictError, DataError, RecsysMetaError
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.schema import Objective, Schema
from recsys_meta.data import locate, prepare_named

# The smaller first: the command should end within three minutes on two cores.
PREFERRED = ("movielens-100k", "movielens-latest-small", "movielens-1m")
DOWNLOAD = "movielens-latest-small"
SIMULATOR = "simulated-users"
BASELINES: dict[Objective, tuple[str, ...]] = {
    "ranking": ("popularity", "itemknn", "ease", "ials-prior"),
    "rating": ("popularity", "item-mean", "blr"),
    "click": ("popularity", "position", "logistic", "two-means"),
    "choice": ("local-popularity", "nearest", "revisits", "pooled-logit"),
}
"""Baselines and further learners beside the flagship, as far as three minutes allow."""
EXTRA_LEARNERS: dict[Objective, tuple[str, ...]] = {"ranking": ("maml",), "rating": ("maml",)}


def quickstart(
    dataset: Annotated[str | None, typer.Option(help="Data set; default: the first one found.")] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Where the report goes; default HOME/quickstart.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prepare data, meta-train, evaluate against tuned baselines, publish: in one go."""
    began = time.perf_counter()
    workspace = Workspace()
    name, folder, why = _prepare(workspace, dataset)
    err.print(f"data: [bold]{name}[/] ({why})")
    (result,) = run_comparison(
        workspace,
        str(folder),
        learners=_learners(workspace, folder),
        baselines=_baselines(workspace, folder),
        protocol=EvaluationProtocol(),
        seeds=(0,),
    )
    if result.bundle is None:
        raise RecsysMetaError("training left no model")
    run = result.run
    model, version = _publish(workspace, run, f"flagship-{name}")
    target = out_dir or workspace.settings.home / "quickstart"
    paths = report.write_report(result, target, "recsys-meta quickstart")
    content = comparison.as_json([result], "recsys-meta quickstart", datetime.now(UTC).isoformat())
    write_file(target / "results.json", dump_json(content, indent=1).encode())
    seconds = time.perf_counter() - began
    if as_json:
        print_json(
            {
                "dataset": name,
                "why": why,
                "run": run,
                "model": model,
                "version": version,
                "seconds": seconds,
                **content,
            }
        )
        return
    print_comparison([result])
    out.print(f"\nDone in {seconds:.0f} s. [bold]{model}@{version}[/] is live; report: {escape(str(paths[1]))}\n")
    out.print("What to type next:", style="bold")
    for line in _next_commands(result, model):
        out.print("  " + escape(with_command(line)), soft_wrap=True)


def _publish(workspace: Workspace, run: str, name: str) -> tuple[str, str]:
    """Publish the run, also where the table shows that it loses to the simplest baseline: say so then."""
    try:
        return publish_run(workspace, run, name)
    except ConflictError as error:
        err.print(f"[yellow]warning:[/] {escape(str(error))}; it is published all the same", soft_wrap=True)
        return publish_run(workspace, run, name, force=True, end_split=True)


def _prepare(workspace: Workspace, name_option: str | None) -> tuple[str, Path, str]:
    """Prepare a data set; return its name, its folder and its origin.

    Without a name the sources are tried in order, down to the simulator. Raises DataError if none can be prepared,
    ConfigError for an unknown name.
    """
    if name_option is not None:
        _, folder = workspace.dataset(name_option)
        path = Path(name_option)
        name = path.stem if path.is_file() else path.name if path.is_dir() else name_option
        return name, folder, "as asked for"
    for name, why in _candidates(workspace):
        folder = workspace.settings.prepared / name
        try:
            if not (folder / "dataset.json").is_file():
                prepare_named(name, folder, data_root=workspace.settings.data)
            return name, folder, why
        except DataError as error:
            err.print(f"[dim]{escape(str(error))}[/]", soft_wrap=True)
    raise DataError("not even the simulator could be prepared", remedy="Run `recsys-meta doctor`")


def _candidates(workspace: Workspace) -> Iterator[tuple[str, str]]:
    for name in PREFERRED:
        if (workspace.settings.prepared / name / "dataset.json").is_file():
            yield name, "prepared earlier"
    root = workspace.settings.data
    for name in PREFERRED if root is not None else ():
        if locate(name, None, root) is not None:
            yield name, f"found in RECSYS_META_DATA={root}"
    yield DOWNLOAD, "downloaded from GroupLens"
    yield SIMULATOR, "made by the simulator: no data set was found and none could be downloaded"


def _learners(workspace: Workspace, folder: Path) -> tuple[str, ...]:
    data, _ = workspace.dataset(str(folder))
    return (FLAGSHIPS[0], *EXTRA_LEARNERS.get(data.schema.objective, ()))


def _baselines(workspace: Workspace, folder: Path) -> list[str]:
    data, _ = workspace.dataset(str(folder))
    fitting = [b for b in BASELINES[data.schema.objective] if b in baselines_for(data, None)]
    return [b for b in fitting if is_installed(b)]


def _next_commands(result: Comparison, model: str) -> list[str]:
    bundle = result.bundle
    if bundle is None:
        return []
    items = [str(v) for v in bundle.vocab.values["item"][:3]]
    path, body = _request(bundle.schema, items)
    payload = dump_json({"model": model, "entity": {"kind": bundle.schema.kind}, **body})
    curl = f"curl -s http://127.0.0.1:8000{path} -H 'content-type: application/json' -d '{payload}'"
    first = [f"recsys-meta recommend {model} --items {','.join(items)}"] if bundle.schema.objective == "ranking" else []
    serve = "recsys-meta serve  # and open http://127.0.0.1:8000/ui/playground"
    return [*first, serve, curl, f"recsys-meta evaluate {model} --baselines all", "recsys-meta runs list"]


def _request(schema: Schema, items: list[str]) -> tuple[str, dict[str, Any]]:
    """Example request for a model: the path, and the part of the body that depends on the objective."""
    match schema.objective:
        case "ranking":
            return "/v1/recommendations", {"events": [{"item": i} for i in items], "n": 10}
        case "rating":
            highest = schema.label_range[1] if schema.label_range else 1.0
            return "/v1/score", {"events": [{"item": items[0], "label": highest}], "items": items[1:]}
        case "click":
            return "/v1/score", {"events": [{"item": items[0], "label": 1}], "items": items[1:]}
        case "choice":
            events = [{"item": i, "context": {"actor": "ann"}} for i in items]
            return "/v1/recommendations", {"events": events, "moment": {"actor": "ann"}, "n": 3}


def add_to(app: typer.Typer) -> None:
    """Mount the command."""
    app.command()(quickstart)
