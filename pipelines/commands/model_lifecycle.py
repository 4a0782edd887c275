"""`recsys-meta models retire`, `archive`, `delete` and `default`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from pipelines.commands.model_publication import ACTOR
from pipelines.console import Json, ModelArgument, out, print_json
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.bundle_files import remove_bundles
from recsys_meta.store.model_registry.lifecycle import archive_version, delete_model, delete_version, retire_model
from recsys_meta.store.model_registry.registry import set_default_model


def retire_command(name: ModelArgument, as_json: Json = False) -> None:
    """Take a model out of service: no version of it answers until one is promoted, or it is rolled back."""
    with Workspace().session() as session:
        change = retire_model(session, name, actor=ACTOR)
        record_action(session, "retire", name, actor=ACTOR)
    if as_json:
        print_json({"model": name, "version": None if change is None else change.version, "live": False})
    else:
        out.print(f"[bold]{name}[/] is retired" if change else f"[bold]{name}[/] has no live version")


def archive_command(
    version: Annotated[str, typer.Argument(help="NAME@VERSION, not in service.")],
    restore: Annotated[bool, typer.Option("--restore", help="Bring an archived version back.")] = False,
    as_json: Json = False,
) -> None:
    """Archive a version: nobody can use it until it is restored; its files stay."""
    name, prefix = _split_reference(version)
    with Workspace().session() as session:
        row = archive_version(session, name, prefix, restore=restore)
        full, archived = row.version, row.archived
        record_action(session, "restore" if restore else "archive", f"{name}@{full}", actor=ACTOR)
    if as_json:
        print_json({"model": name, "version": full, "archived": archived})
    else:
        out.print(f"[bold]{name}@{full}[/] is " + ("archived" if archived else "back"))


def delete_command(
    reference: Annotated[str, typer.Argument(metavar="MODEL", help="NAME of a retired model, or NAME@VERSION.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a version's files, or a retired model with all that the registry knows of it; nothing in service goes."""
    # "NAME@" is a slip, not the whole model.
    name, prefix = _split_reference(reference) if "@" in reference else (reference, "")
    if not yes:
        typer.confirm(f"Delete {reference} with its files?", abort=True)
    workspace = Workspace()
    with workspace.session() as session:
        row = delete_version(session, name, prefix) if prefix else None
        paths = delete_model(session, name) if row is None else [row.path]
        full = None if row is None else row.version
        record_action(session, "delete model", name if full is None else f"{name}@{full}", actor=ACTOR)
    removed = remove_bundles(workspace.settings.models, name, paths)
    if as_json:
        print_json({"model": name, "version": full, "removed": removed})
    else:
        out.print(f"[bold]{escape(reference)}[/] is deleted")


def default_command(name: ModelArgument, as_json: Json = False) -> None:
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


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("retire")(retire_command)
    app.command("archive")(archive_command)
    app.command("delete")(delete_command)
    app.command("default")(default_command)
