"""`recsys-meta models`: publish, list, show, promote, roll back, split; retire, archive, delete and the defaults."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from sqlalchemy.orm import Session

from pipelines.commands.evaluate import evaluate_version
from pipelines.console import Json, err, out, print_json, print_table, with_command
from pipelines.experiments.run_spec import read_run_spec
from pipelines.workspace import Workspace
from recsys_meta.core.errors import CheckpointError, ConfigError, ConflictError, NotFoundError, RecsysMetaError
from recsys_meta.inference.model_trial import try_bundle
from recsys_meta.models.bundle import load_bundle, save_bundle
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.registry import (
    archive_version,
    check_beats_baseline,
    delete_model,
    delete_version,
    live_version,
    model_detail,
    page_models,
    promote_version,
    publish_version,
    register_version,
    resolve_version,
    retire_model,
    rollback_target,
    rollback_version,
    set_default_model,
)
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit, newest_split
from recsys_meta.store.model_registry.split_results import ArmResult, split_results
from recsys_meta.store.model_registry.tables import ModelVersionRecord
from recsys_meta.store.model_registry.traffic_splits import SplitDetail, split_detail, start_split, stop_split
from recsys_meta.store.tracking.evaluations import copy_evaluations
from recsys_meta.store.tracking.promotion_gate import check_promotion
from recsys_meta.store.tracking.runs import run_exists

app = typer.Typer(no_args_is_help=True)
ACTOR = "command line"
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.\-]+")
"""Model names that a URL and a folder can both hold."""

Name = Annotated[str, typer.Argument(help="Model name.")]
Force = Annotated[
    bool, typer.Option("--force", help="Even if it loses to the simplest baseline, or was never evaluated.")
]
EndSplit = Annotated[bool, typer.Option("--end-split", help="Even if it ends a split of other versions.")]


def publish_run(
    workspace: Workspace,
    run: str,
    name: str | None = None,
    *,
    stage: bool = False,
    force: bool = False,
    end_split: bool = False,
) -> tuple[str, str]:
    """Copy a finished run's bundle into the registry with its evaluations, and make it live unless it is only to be
    staged; return (model, version).

    A version that was not evaluated is evaluated first, beside the simplest baseline. Raises CheckpointError if the run
    has not finished or its model fails when it is tried, ConfigError for an invalid name, ConflictError for a version
    that loses to the simplest baseline, or cannot be evaluated, unless forced, and for one that would end a split of
    others, unless `end_split`: the version is staged then.
    """
    if name and not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a model: letters, digits, '_', '.' and '-' only, not dots alone")
    spec = read_run_spec(workspace, run)
    bundle_folders = sorted((spec.folder(workspace) / "bundle").glob("[0-9a-f]*"))
    if not bundle_folders:
        raise CheckpointError(f"run {run} has not finished; `recsys-meta train --resume {run}` continues it")
    bundle = load_bundle(bundle_folders[-1])
    try_bundle(bundle)
    model = name or f"{spec.recipe.name}-{bundle.schema.name}"
    target = save_bundle(bundle, workspace.settings.models.resolve() / model)
    version, path = target.name, str(target)
    metrics: dict[str, Any] = dict(bundle.about.get("metrics", {}))
    with workspace.session() as session:
        # A run that was trained with another database is published too, without a reference to its metrics.
        known_run = run if run_exists(session, run) else None
        register_version(session, model, version, path, run=known_run, metrics=metrics)
        copy_evaluations(session, bundle.version, model, version)
        if stage:
            record_action(session, "stage", f"{model}@{version}", actor=ACTOR)
    if stage:
        return model, version
    if not force:
        _check_quality(workspace, model, version)
    with workspace.session() as session:
        publish_version(session, model, version, path, run=known_run, metrics=metrics, actor=ACTOR, end_split=end_split)
        record_action(session, "publish", f"{model}@{version}", actor=ACTOR)
    return model, version


def _check_quality(workspace: Workspace, model: str, version: str) -> None:
    """Raise ConflictError for a version that loses to the simplest baseline; one that was never evaluated is now."""
    with workspace.reading() as session:
        is_evaluated = check_promotion(session, model, version) is not None
    if not is_evaluated:
        err.print(f"[dim]{model}@{version} was never evaluated: evaluating it beside the simplest baseline[/]")
        try:
            evaluate_version(workspace, model, version)
        except RecsysMetaError as error:
            raise ConflictError(
                f"{model}@{version} was never evaluated, and cannot be now: {error}; it is registered and not live. "
                "Force it if you mean it (--force)"
            ) from None
    with workspace.reading() as session:
        check_beats_baseline(session, model, version)


def try_version(workspace: Workspace, model: str, version: str) -> None:
    """Raise CheckpointError for a version that cannot be loaded, or fails when it is tried."""
    try:
        try_bundle(workspace.bundle(f"{model}@{version}"))
    except CheckpointError as error:
        raise CheckpointError(f"{model}@{version} may not go live: {error}") from None


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
def show_command(name: Name, as_json: Json = False) -> None:
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
    name: Name,
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
        _check_quality(workspace, name, full)
    with workspace.session() as session:
        promote_version(session, name, full, actor=ACTOR, force=force, end_split=end_split)
        record_action(session, "promote", f"{name}@{full}", actor=ACTOR)
    _print_live_version(name, full, as_json)


@app.command("rollback")
def rollback_command(name: Name, as_json: Json = False) -> None:
    """Make the previously live version live again, of a retired model the last one; a split ends."""
    workspace = Workspace()
    with workspace.reading() as session:
        target = rollback_target(session, name)
    try_version(workspace, name, target)
    with workspace.session() as session:
        version = rollback_version(session, name, actor=ACTOR).version
        record_action(session, "rollback", f"{name}@{version}", actor=ACTOR)
    _print_live_version(name, version, as_json)


@app.command("retire")
def retire_command(name: Name, as_json: Json = False) -> None:
    """Take a model out of service: no version of it answers until one is promoted, or it is rolled back."""
    with Workspace().session() as session:
        change = retire_model(session, name, actor=ACTOR)
        record_action(session, "retire", name, actor=ACTOR)
    if as_json:
        print_json({"model": name, "version": None if change is None else change.version, "live": False})
    else:
        out.print(f"[bold]{name}[/] is retired" if change else f"[bold]{name}[/] has no live version")


@app.command("archive")
def archive_command(
    version: Annotated[str, typer.Argument(help="NAME@VERSION, not in service.")],
    restore: Annotated[bool, typer.Option("--restore", help="Bring an archived version back.")] = False,
    as_json: Json = False,
) -> None:
    """Archive a version: nobody can use it until it is restored; its files stay."""
    name, prefix = _split_reference(version)
    with Workspace().session() as session:
        full = _find_version(session, name, prefix)
        row = archive_version(session, name, full, restore=restore)
        record_action(session, "restore" if restore else "archive", f"{name}@{full}", actor=ACTOR)
        archived = row.archived
    if as_json:
        print_json({"model": name, "version": full, "archived": archived})
    else:
        out.print(f"[bold]{name}@{full}[/] is " + ("archived" if archived else "back"))


@app.command("delete")
def delete_command(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="NAME of a retired model, or NAME@VERSION.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a version's files, or a retired model with all that the registry knows of it; nothing in service goes."""
    if not yes:
        typer.confirm(f"Delete {reference} with its files?", abort=True)
    workspace = Workspace()
    name, _, prefix = reference.partition("@")
    with workspace.session() as session:
        if prefix:
            full = _find_version(session, name, prefix)
            paths = [delete_version(session, name, full).path]
        else:
            paths = delete_model(session, name)
        record_action(session, "delete model", f"{name}@{full}" if prefix else name, actor=ACTOR)
    removed = [path for path in paths if _remove_bundle(workspace, name, Path(path))]
    if as_json:
        print_json({"model": name, "version": full if prefix else None, "removed": removed})
    else:
        out.print(f"[bold]{escape(reference)}[/] is deleted")


@app.command("default")
def default_command(name: Name, as_json: Json = False) -> None:
    """Let a live model answer for its kind of entity where a request names no model."""
    workspace = Workspace()
    kind = workspace.bundle(name).schema.kind
    with workspace.session() as session:
        set_default_model(session, kind, name, actor=ACTOR)
        record_action(session, "default", f"{name} for {kind}", actor=ACTOR)
    if as_json:
        print_json({"kind": kind, "model": name})
    else:
        out.print(f"[bold]{name}[/] answers for kind '{kind}' where no model is named")


def _split_reference(reference: str) -> tuple[str, str]:
    name, _, prefix = reference.partition("@")
    if not prefix:
        raise ConfigError(f"{reference!r} names no version; write NAME@VERSION")
    return name, prefix


def _find_version(session: Session, name: str, prefix: str) -> str:
    """Return the one version with a prefix, archived or not. Raises NotFoundError, ConflictError."""
    matching = [v.version for v in model_detail(session, name).versions if v.version.startswith(prefix)]
    if not matching:
        raise NotFoundError(f"model '{name}' has no version that starts with '{prefix}'")
    if len(matching) > 1:
        raise ConflictError(f"{len(matching)} versions of model '{name}' start with '{prefix}'; give more of it")
    return matching[0]


def _remove_bundle(workspace: Workspace, name: str, path: Path) -> bool:
    """Remove a bundle's folder where it is one of the registry's own; return whether it was there."""
    own = workspace.settings.models.resolve() / name
    if path.resolve().parent != own or not path.is_dir():
        return False
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # other versions are still there
        own.rmdir()
    return True


@app.command("split")
def split_command(
    name: Name,
    arms: Annotated[
        list[str] | None, typer.Argument(help="VERSION=WEIGHT or LABEL:VERSION=WEIGHT, one for each arm.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="End the split: the live version answers all again.")] = False,
    salt: Annotated[str | None, typer.Option(help="What decides, with an entity's id, on its arm.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even an arm that loses to the simplest baseline, or was never evaluated.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Let versions answer side by side, each for its share of the entities; without arms, show the split and its
    results, or those of the last one."""
    if arms and off:
        raise ConfigError("either arms or --off")
    workspace = Workspace()
    if arms:
        parsed_arms = [parse_arm(text) for text in arms]
        with workspace.reading() as session:
            resolved_arms = [
                SplitArm(a.label or v, v, a.weight)
                for a in parsed_arms
                for v in [resolve_version(session, f"{name}@{a.version}").version]
            ]
            live = live_version(session, name)
        for arm in resolved_arms:
            try_version(workspace, name, arm.version)
            if not force and live is not None and arm.version != live.version:
                _check_quality(workspace, name, arm.version)
        with workspace.session() as session:
            split = start_split(session, name, resolved_arms, salt=salt, actor=ACTOR, force=force)
            record_action(session, "split", f"{name} split {split.sequence}", actor=ACTOR)
    elif off:
        with workspace.session() as session:
            stop_split(session, name, actor=ACTOR)
            record_action(session, "split off", name, actor=ACTOR)
    with workspace.reading() as session:
        _show_split(split_detail(session, name), split_results(session, name), as_json)


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


def _show_split(detail: SplitDetail, results: list[ArmResult], as_json: bool) -> None:
    def plain(change: TrafficSplit) -> dict[str, Any]:
        return {
            "arms": [vars(arm) for arm in change.arms], "salt": change.salt, "actor": change.actor, "at": change.at
        }  # fmt: skip

    if as_json:
        stands = None if detail.split is None else plain(detail.split)
        print_json(
            {
                "name": detail.name,
                "live": detail.live,
                "split": stands,
                "history": [plain(c) for c in detail.history],
                "results": [result._asdict() for result in results],
            }
        )
        return
    if detail.split is None:
        out.print(f"[bold]{detail.name}[/] is not split; {detail.live or 'nothing'} is live")
    else:
        rows = [(arm.label, arm.version, arm.weight) for arm in detail.split.arms]
        print_table(f"{detail.name}, live: {detail.live or '-'}", ("arm", "version", "share"), rows)
    newest = [result for result in results if result.sequence == results[0].sequence]
    if newest:
        _print_results(newest)


def _print_results(results: list[ArmResult]) -> None:
    """Print what the arms of one split showed."""
    title = f"Answers to lists, split {results[0].sequence}" + (" (ended)" if results[0].ended else "")
    columns = ("arm", "entities", "events", "hit@10", "difference", "95% at any time", "p", "verdict")
    rows = [
        (
            r.label,
            r.entities,
            r.lists,
            r.hit_10,
            r.difference,
            None if r.difference_low is None else f"{r.difference_low:.4f} to {r.difference_high:.4f}",
            r.p,
            r.verdict,
        )
        for r in results
    ]
    print_table(title, columns, rows)


def _print_live_version(name: str, version: str, as_json: bool) -> None:
    if as_json:
        print_json({"model": name, "version": version})
    else:
        out.print(f"[bold]{name}@{version}[/] is live")
