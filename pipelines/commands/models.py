"""`recsys-meta models`: publish, list, show, promote, roll back and split."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from pipelines.console import Json, out, print_json, print_table
from pipelines.experiments.training_run import read_run_spec
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.models.bundle import load_bundle, save_bundle
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.registry import (
    model_detail,
    page_models,
    promote_version,
    publish_version,
    resolve_version,
    rollback_version,
)
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit
from recsys_meta.store.model_registry.traffic_splits import SplitDetail, split_detail, start_split, stop_split
from recsys_meta.store.tracking.evaluations import copy_evaluations
from recsys_meta.store.tracking.runs import run_exists

app = typer.Typer(no_args_is_help=True)
ACTOR = "command line"
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.\-]+")
"""Model names that a URL and a folder can both hold."""

Name = Annotated[str, typer.Argument(help="Model name.")]


def publish_run(workspace: Workspace, run: str, name: str | None = None) -> tuple[str, str]:
    """Copy a finished run's bundle into the registry with its evaluations, make it live; return (model, version).

    Raises CheckpointError if the run has not finished, ConfigError for an invalid name.
    """
    if name and not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: letters, digits, '_', '.' and '-' only, not dots alone")
    spec = read_run_spec(workspace, run)
    bundle_folders = sorted((spec.folder(workspace) / "bundle").glob("[0-9a-f]*"))
    if not bundle_folders:
        raise CheckpointError(f"run {run} has not finished; `recsys-meta train --resume {run}` continues it")
    bundle = load_bundle(bundle_folders[-1])
    model = name or f"{spec.recipe.name}-{bundle.schema.name}"
    target = save_bundle(bundle, workspace.settings.models.resolve() / model)
    metrics: dict[str, Any] = dict(bundle.about.get("metrics", {}))
    with workspace.session() as session:
        # A run that was trained with another database is published too, without a reference to its metrics.
        known_run = run if run_exists(session, run) else None
        publish_version(session, model, target.name, str(target), run=known_run, metrics=metrics, actor=ACTOR)
        copy_evaluations(session, bundle.version, model, target.name)
        record_action(session, "publish", f"{model}@{target.name}", actor=ACTOR)
    return model, target.name


@app.command("publish")
def publish_command(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    name: Annotated[str | None, typer.Option(help="Model name; default: RECIPE-DATASET.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a finished run and make it live."""
    model, version = publish_run(Workspace(), run, name)
    if as_json:
        print_json({"model": model, "version": version})
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
def show_command(name: Name, as_json: Json = False) -> None:
    """Versions of a model, and the history of what was live."""
    with Workspace().reading() as session:
        detail = model_detail(session, name)
        versions = [(v.version, v.run, v.metrics, v.created, v.path) for v in detail.versions]
        history = [(h.at, h.action, h.version, h.previous, h.actor) for h in detail.history]
    if as_json:
        names = ("version", "run", "metrics", "created", "path"), ("at", "action", "version", "previous", "actor")
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
    print_table("Versions", ("version", "run", "metrics", "created"), [v[:4] for v in versions])
    print_table("History", ("at", "action", "version", "previous", "actor"), history)


@app.command("promote")
def promote_command(
    name: Name,
    version: Annotated[str, typer.Argument(help="A registered version.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it loses to the simplest baseline.")] = False,
    as_json: Json = False,
) -> None:
    """Make another version live; refused if by its stored evaluation it loses to the simplest baseline."""
    workspace = Workspace()
    with workspace.session() as session:
        full = resolve_version(session, f"{name}@{version}").version
        promote_version(session, name, full, actor=ACTOR, force=force)
        record_action(session, "promote", f"{name}@{full}", actor=ACTOR)
    _print_live_version(name, full, as_json)


@app.command("rollback")
def rollback_command(name: Name, as_json: Json = False) -> None:
    """Make the previously live version live again."""
    with Workspace().session() as session:
        version = rollback_version(session, name, actor=ACTOR).version
        record_action(session, "rollback", f"{name}@{version}", actor=ACTOR)
    _print_live_version(name, version, as_json)


@app.command("split")
def split_command(
    name: Name,
    arms: Annotated[
        list[str] | None, typer.Argument(help="VERSION=WEIGHT or LABEL:VERSION=WEIGHT, one for each arm.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End the split: the live version answers all again.")] = False,
    salt: Annotated[str | None, typer.Option(help="What decides, with an entity's id, on its arm.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even an arm that loses to the simplest baseline.")] = False,
    as_json: Json = False,
) -> None:
    """Let versions answer side by side, each for its share of the entities; without arms, show the split in force."""
    if arms and off:
        raise ConfigError("either arms or --off")
    workspace = Workspace()
    if arms:
        parsed_arms = [parse_arm(text) for text in arms]
        with workspace.session() as session:
            resolved_arms = [
                SplitArm(a.label or v, v, a.weight)
                for a in parsed_arms
                for v in [resolve_version(session, f"{name}@{a.version}").version]
            ]
            split = start_split(session, name, resolved_arms, salt=salt, actor=ACTOR, force=force)
            record_action(session, "split", f"{name} split {split.sequence}", actor=ACTOR)
    elif off:
        with workspace.session() as session:
            stop_split(session, name, actor=ACTOR)
            record_action(session, "split off", name, actor=ACTOR)
    with workspace.reading() as session:
        _show_split(split_detail(session, name), as_json)


def parse_arm(text: str) -> SplitArm:
    """Parse an arm, VERSION=WEIGHT or LABEL:VERSION=WEIGHT, with an empty label by default.

    Raises ConfigError.
    """
    match = re.fullmatch(r"(?:([A-Za-z0-9_.\-]+):)?([A-Za-z0-9]+)=([0-9.eE+\-]+)", text)
    try:
        weight = float(match[3]) if match else None
    except ValueError:
        weight = None
    if match is None or weight is None:
        raise ConfigError(f"{text!r} is no arm; write VERSION=WEIGHT, for example 3f2a=0.1, or LABEL:VERSION=WEIGHT")
    return SplitArm(match[1] or "", match[2], weight)


def _show_split(detail: SplitDetail, as_json: bool) -> None:
    def plain(change: TrafficSplit) -> dict[str, Any]:
        return {
            "arms": [vars(arm) for arm in change.arms], "salt": change.salt, "actor": change.actor, "at": change.at
        }  # fmt: skip

    if as_json:
        stands = None if detail.split is None else plain(detail.split)
        print_json(
            {"name": detail.name, "live": detail.live, "split": stands, "history": [plain(c) for c in detail.history]}
        )
        return
    if detail.split is None:
        out.print(f"[bold]{detail.name}[/] is not split; {detail.live or 'nothing'} is live")
        return
    rows = [(arm.label, arm.version, arm.weight) for arm in detail.split.arms]
    print_table(f"{detail.name}, live: {detail.live or '-'}", ("arm", "version", "share"), rows)


def _print_live_version(name: str, version: str, as_json: bool) -> None:
    if as_json:
        print_json({"model": name, "version": version})
    else:
        out.print(f"[bold]{name}@{version}[/] is live")
