"""`recsys-meta models`: publish, promote, roll back, look."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pipelines.console import Json, emit, out, show
from pipelines.training import read_plan
from pipelines.workspace import Workspace
from recsys_meta.bundle import load_bundle, save_bundle
from recsys_meta.errors import CheckpointError, ConfigError
from recsys_meta.store import registry

app = typer.Typer(no_args_is_help=True)
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.\-]+")
"""What the API can be asked for; it is a folder's name too."""

Name = Annotated[str, typer.Argument(help="Model name.")]


def publish_run(workspace: Workspace, run: str, name: str | None = None) -> tuple[str, str]:
    """Copy a finished run's bundle into the registry and make it live; returns (model, version).

    Raises CheckpointError when the run has not finished, ConfigError for a name that could not be asked for.
    """
    if name and not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: letters, digits, '_', '.' and '-' only, not dots alone")
    plan = read_plan(workspace, run)
    found = sorted((plan.folder(workspace) / "bundle").glob("[0-9a-f]*"))
    if not found:
        raise CheckpointError(f"run {run} has not finished; `recsys-meta train --resume {run}` continues it")
    bundle = load_bundle(found[-1])
    model = name or f"{plan.recipe.name}-{bundle.schema.name}"
    target = save_bundle(bundle, workspace.settings.models.resolve() / model)
    metrics: dict[str, Any] = dict(bundle.about.get("metrics", {}))
    with workspace.session() as session:
        registry.publish(session, model, target.name, str(target), run=run, metrics=metrics, actor="command line")
    return model, target.name


@app.command("publish")
def publish(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    name: Annotated[str | None, typer.Option(help="Model name; default: RECIPE-DATASET.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a finished run and make it live."""
    model, version = publish_run(Workspace(), run, name)
    if as_json:
        emit({"model": model, "version": version})
    else:
        out.print(f"[bold]{model}@{version}[/] is live")


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Models and the version that is live."""
    with Workspace().reading() as session:
        rows = registry.list_models(session)
    if as_json:
        emit([r.__dict__ for r in rows])
    else:
        show("Models", ("name", "live", "versions", "updated"), [(r.name, r.live, r.versions, r.updated) for r in rows])


@app.command("show")
def show_model(name: Name, as_json: Json = False) -> None:
    """Versions of a model, and the history of what was live."""
    with Workspace().reading() as session:
        detail = registry.show(session, name)
        versions = [(v.version, v.run, v.metrics, v.created, v.path) for v in detail.versions]
        history = [(h.at, h.action, h.version, h.previous, h.actor) for h in detail.history]
    if as_json:
        names = ("version", "run", "metrics", "created", "path"), ("at", "action", "version", "previous", "actor")
        emit(
            {
                "name": detail.name,
                "live": detail.live,
                "versions": [dict(zip(names[0], v, strict=True)) for v in versions],
                "history": [dict(zip(names[1], h, strict=True)) for h in history],
            }
        )
        return
    out.print(f"[bold]{detail.name}[/] live: {detail.live or '-'}")
    show("Versions", ("version", "run", "metrics", "created"), [v[:4] for v in versions])
    show("History", ("at", "action", "version", "previous", "actor"), history)


@app.command("promote")
def promote(
    name: Name, version: Annotated[str, typer.Argument(help="A registered version.")], as_json: Json = False
) -> None:
    """Make another version live."""
    workspace = Workspace()
    with workspace.session() as session:
        full = registry.resolve(session, f"{name}@{version}").version
        registry.promote(session, name, full, actor="command line")
    _say(name, full, as_json)


@app.command("rollback")
def rollback(name: Name, as_json: Json = False) -> None:
    """Make live what was live before."""
    with Workspace().session() as session:
        version = registry.rollback(session, name, actor="command line").version
    _say(name, version, as_json)


def _say(name: str, version: str, as_json: bool) -> None:
    if as_json:
        emit({"model": name, "version": version})
    else:
        out.print(f"[bold]{name}@{version}[/] is live")
