"""What users rely on, as text: taken from the code of today by names that are themselves promised.

Imports of the project: `api.app:create_app` (what uvicorn is given), `pipelines.cli:app` (the command line). Whatever
else is needed is looked for in the package `recsys_meta` by what it is, so that modules may move and classes may
take other names; the dictionaries of methods are looked for by their names LEARNERS, BASELINES and CURRICULA.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

FOLDER = Path(__file__).parent / "snapshots"


@cache
def modules() -> tuple[Any, ...]:
    """Every module of `recsys_meta` that can be imported here."""
    import recsys_meta

    found = []
    for module in pkgutil.walk_packages(recsys_meta.__path__, "recsys_meta."):
        try:
            found.append(import_module(module.name))
        except ModuleNotFoundError as error:  # an extra that is not installed
            assert not (error.name or "").startswith("recsys_meta"), error
    return tuple(found)


def one(values: Iterator[Any] | list[Any], what: str) -> Any:
    """The one object of many mentions."""
    found = list({id(v): v for v in values}.values())
    assert len(found) == 1, f"{what}: {len(found)} found"
    return found[0]


def methods(name: str) -> dict[str, Any]:
    """A dictionary of methods by the name of the constant."""
    return one([vars(m)[name] for m in modules() if name in vars(m)], name)


def as_json(value: Any) -> str:
    """The canonical text of a document."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


# The HTTP interface


def openapi() -> str:
    """The OpenAPI document, but for the number of the release."""
    with clean_environment():
        from api.app import create_app

        document = create_app().openapi()
    return as_json({**document, "info": {**document["info"], "version": "any"}})


# The database


def sql() -> str:
    """What the migrations make on SQLite, and what the tables are on PostgreSQL."""
    return "\n".join(
        ["-- SQLite, made by the migrations", *migrated(), "-- PostgreSQL, made of the tables", *compiled(), ""]
    )


def migrated() -> list[str]:
    """Every statement that SQLite keeps of its schema, in the order of type and name."""
    from typer.testing import CliRunner

    from pipelines.cli import app

    with TemporaryDirectory() as home, clean_environment(RECSYS_META_HOME=home):
        done = CliRunner().invoke(app, ["db", "upgrade"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        (file,) = Path(home).glob("*.db")
        with sqlite3.connect(file) as database:
            rows = database.execute(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name"
            ).fetchall()
        database.close()
    return [f"{lines(row[0])};" for row in rows]


def compiled() -> list[str]:
    """CREATE statements of all tables and indexes that the package declares."""
    modules()
    dialect = postgresql.dialect()
    found = []
    tables = sorted(metadata().tables.values(), key=lambda table: table.name)
    for table in tables:
        found.append(f"{lines(str(CreateTable(table).compile(dialect=dialect)))};")
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            found.append(f"{lines(str(CreateIndex(index).compile(dialect=dialect)))};")
    return found


def metadata() -> MetaData:
    """The tables of the package, wherever they are declared."""
    found = []
    for module in modules():
        for value in vars(module).values():
            held = value if isinstance(value, MetaData) else getattr(value, "metadata", None)
            if isinstance(held, MetaData) and held.tables:
                found.append(held)
    return one(found, "MetaData")


def lines(statement: str) -> str:
    """A statement without spaces at the ends of its lines, and without empty lines."""
    kept = [re.sub(r"\s+", " ", line).strip() for line in statement.splitlines()]
    return "\n  ".join(line for line in kept if line)


# The command line


def commands() -> str:
    """Every command with its arguments and options: names, default, whether it must be given."""
    from typer.main import get_command

    from pipelines.cli import app

    return "\n".join([*walked("recsys-meta", get_command(app)), ""])


def walked(path: str, command: Any) -> Iterator[str]:
    """The lines of a command and of all below it."""
    yield path
    for parameter in sorted(command.params, key=lambda p: (p.opts[0].startswith("-"), p.name)):
        option = parameter.opts[0].startswith("-")
        named = " ".join([*parameter.opts, *parameter.secondary_opts]) if option else parameter.opts[0].upper()
        default = getattr(parameter.default, "value", parameter.default)
        shown = [] if default is None or callable(default) or parameter.required else [f"= {default}"]
        marks = [word for word in ("required", "multiple", "hidden") if getattr(parameter, word, False)]
        yield "  " + " ".join([named, *shown, *marks, *(["any number"] if parameter.nargs == -1 else [])])
    names = getattr(command, "commands", {})
    load = getattr(command, "load", names.get)  # the commands of the root are imported when they run
    for name in sorted(names):
        yield from walked(f"{path} {name}", load(name))


# Recipes and methods


def recipe() -> str:
    """The keys of a recipe, and those under `config` of every learner."""
    modules()
    fields = {"learner", "config", "episodes", "train", "curriculum"}
    kind = one([k for k in below(BaseModel) if fields <= set(k.model_fields)], "the recipe")
    learners = {name: keys(made.Config) for name, made in methods("LEARNERS").items()}
    return as_json({"recipe": keys(kind), "config": learners})


def keys(kind: type[BaseModel]) -> Any:
    """The JSON schema of a model without what only describes; parts stand where they are used."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def plain(node: Any, names: bool = False) -> Any:
        if isinstance(node, list):
            return [plain(value) for value in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            rest = {k: v for k, v in node.items() if k != "$ref"}
            return plain({**parts[node["$ref"].rpartition("/")[2]], **rest})
        kept = node if names else {k: v for k, v in node.items() if k not in ("title", "description")}
        return {k: v if k == "default" else plain(v, k == "properties") for k, v in kept.items()}

    return plain(schema)


def below(kind: type) -> Iterator[type]:
    """All classes made from one."""
    for child in kind.__subclasses__():
        if child.__module__.startswith("recsys_meta."):
            yield child
        yield from below(child)


def names() -> str:
    """Names that recipes, bundles and results are written with."""
    recipes = sorted(p.name for p in files("pipelines.recipes").iterdir() if p.name.endswith(".toml"))
    found = {name.lower(): sorted(methods(name)) for name in ("LEARNERS", "BASELINES", "CURRICULA")}
    return as_json({**found, "recipes": recipes, "datasets": sorted(methods("SOURCES"))})


class clean_environment:
    """The environment without settings of the project but those given."""

    def __init__(self, **settings: str) -> None:
        self._settings, self._patch = settings, pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for name in [n for n in os.environ if n.startswith("RECSYS_META_")]:
            self._patch.delenv(name)
        for name, value in self._settings.items():
            self._patch.setenv(name, value)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


SNAPSHOTS = {
    "openapi.json": openapi,
    "schema.sql": sql,
    "commands.txt": commands,
    "recipe.json": recipe,
    "names.json": names,
}
"""Every snapshot by the name of its file."""
