"""`recsys-meta models`: publish, list, show, promote, roll back, split; retire, archive, delete and the defaults."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands import model_lifecycle, model_split
from pipelines.commands.model_publication import ACTOR, check_quality, publish_run, try_version
from pipelines.console import Json, ModelArgument, out, print_json, print_table, with_command
from pipelines.workspace import Workspace
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.registry import (
    model_detail,
    page_models,
    promote_version,
    resolve_version,
    rollback_target,
    rollback_version,
)
from recsys_meta.store.model_registry.split_arms import TrafficSplit, newest_split
from recsys_meta.store.model_registry.tables import ModelVersionRecord

app = typer.Typer(no_args_is_help=True)
Force = Annotated[
    bool, typer.Option("--force", help="Even if it loses to the simplest baseline, or was never evaluated.")
]
EndSplit = Annotated[bool, typer.Option("--end-split", help="Even if it ends a split of other versions.")]


@app.command("publish")
def publish_command(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    name: Annotated[str | None, typer.Option(help="Model name; default: RECIPE-DATASET.")] = None,
    stage: Annotated[bool, typer.Option("--stage", help="Register it only: what is live stays live.")] = False,
    force: Force = False,
    end_split: EndSplit = False,
    as_json: Json = False,
) -> None:
    """Publish a finished run: make it live, or with --stage a candidate for a split or a later promotion."""
    model, version = publish_run(Workspace(), run, name, stage=stage, force=force, end_split=end_split)
    if as_json:
        print_json({"model": model, "version": version, "live": not stage})
    elif stage:
        hint = with_command(f"`recsys-meta models promote {model} {version}` makes it live")
        out.print(f"[bold]{model}@{version}[/] is staged: {hint}", soft_wrap=True)
    else:
        out.print(f"[bold]{model}@{version}[/] is live")


@app.command("list")
def list_models_command(as_json: Json = False) -> None:
    """Models and the version that is live."""
    with Workspace().reading() as session:
        rows = page_models(session)
    if as_json:
        print_json([r.__dict__ for r in rows])
    else:
        print_table(
            "Models", ("name", "live", "versions", "updated"), [(r.name, r.live, r.versions, r.updated) for r in rows]
        )


@app.command("show")
def show_command(name: ModelArgument, as_json: Json = False) -> None:
    """Versions of a model, and the history of what was live."""
    with Workspace().reading() as session:
        detail = model_detail(session, name)
        split = newest_split(session, name)
        versions = [
            (v.version, v.run, v.metrics, v.created, v.path, _state(v, detail.live, split)) for v in detail.versions
        ]
        history = [(h.at, h.action, h.version, h.previous, h.actor) for h in detail.history]
    if as_json:
        names = (
            ("version", "run", "metrics", "created", "path", "state"),
            ("at", "action", "version", "previous", "actor"),
        )
        print_json(
            {
                "name": detail.name,
                "live": detail.live,
                "versions": [dict(zip(names[0], v, strict=True)) for v in versions],
                "history": [dict(zip(names[1], h, strict=True)) for h in history],
            }
        )
        return
    out.print(f"[bold]{detail.name}[/] live: {detail.live or '-'}")
    columns = ("version", "run", "state", "metrics", "created")
    print_table("Versions", columns, [(v[0], v[1], v[5], v[2], v[3]) for v in versions])
    print_table("History", ("at", "action", "version", "previous", "actor"), history)


def _state(row: ModelVersionRecord, live: str | None, split: TrafficSplit | None) -> str:
    """Return what a version is: live, an arm of the split, staged, archived or deleted. What answers comes first."""
    if row.version == live:
        return "live"
    if row.deleted is not None:
        return "deleted"
    if row.archived is not None:
        return "archived"
    return "arm" if split is not None and any(arm.version == row.version for arm in split.arms) else "staged"


@app.command("promote")
def promote_command(
    name: ModelArgument,
    version: Annotated[str, typer.Argument(help="A registered version.")],
    force: Force = False,
    end_split: EndSplit = False,
    as_json: Json = False,
) -> None:
    """Make another version live; refused if it loses to the simplest baseline. One never evaluated is evaluated now."""
    workspace = Workspace()
    with workspace.reading() as session:
        full = resolve_version(session, f"{name}@{version}").version
    try_version(workspace, name, full)
    if not force:
        check_quality(workspace, name, full)
    with workspace.session() as session:
        promote_version(session, name, full, actor=ACTOR, force=force, end_split=end_split)
        record_action(session, "promote", f"{name}@{full}", actor=ACTOR)
    _print_live_version(name, full, as_json)


@app.command("rollback")
def rollback_command(name: ModelArgument, as_json: Json = False) -> None:
    """Make the previously live version live again, of a retired model the last one; a split ends."""
    workspace = Workspace()
    with workspace.reading() as session:
        target = rollback_target(session, name)
    try_version(workspace, name, target)
    with workspace.session() as session:
        version = rollback_version(session, name, actor=ACTOR).version
        record_action(session, "rollback", f"{name}@{version}", actor=ACTOR)
    _print_live_version(name, version, as_json)


def _print_live_version(name: str, version: str, as_json: bool) -> None:
    if as_json:
        print_json({"model": name, "version": version})
    else:
        out.print(f"[bold]{name}@{version}[/] is live")


model_lifecycle.add_to(app)
model_split.add_to(app)
