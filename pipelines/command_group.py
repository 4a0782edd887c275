"""Group of commands whose modules are imported when a command of them runs: help and versions need none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class DeferredCommand:
    """Command of a module of `pipelines.commands`, with its line in the help of the group.

    `group` is the module's Typer application where the command has commands of its own; without it the module's
    `add_to` mounts the command.
    """

    module: str
    help: str
    group: str | None = None


class DeferredGroup(TyperGroup):
    """Group of `deferred` commands: those in `commands` have a name and a line of help, `load` has the real ones."""

    deferred: ClassVar[Mapping[str, DeferredCommand]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands.update({name: TyperCommand(name, help=one.help) for name, one in self.deferred.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command that was called, the command, and what follows it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else self.load(name), rest

    def load(self, name: str) -> Any:
        """Import a command."""
        one = self.deferred[name]
        module, app = import_module(f"pipelines.commands.{one.module}"), typer.Typer()
        app.callback()(lambda: None)  # without it a single command would not be one of a group
        if one.group is None:
            module.add_to(app)
        else:
            app.add_typer(getattr(module, one.group), name=name, help=one.help)
        group: Any = get_command(app)
        return group.commands[name]
