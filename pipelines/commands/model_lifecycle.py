"""`recsys-meta models retire`, `archive`, `delete` and `default`."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy.orm import Session

from pipelines.commands.model_publication import ACTOR
from pipelines.console import Json, ModelArgument, out, print_json
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError, ConflictError, NotFoundError
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.model_registry.lifecycle import archive_version, delete_model, delete_version, retire_model
from recsys_meta.store.model_registry.registry import model_detail, set_default_model


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
        full = _find_version(session, name, prefix)
        row = archive_version(session, name, full, restore=restore)
        record_action(session, "restore" if restore else "archive", f"{name}@{full}", actor=ACTOR)
        archived = row.archived
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


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("retire")(retire_command)
    app.command("archive")(archive_command)
    app.command("delete")(delete_command)
    app.command("default")(default_command)
