"""`recsys-meta recipes`: the recipes there are, and every key of one with its type, default, value and meaning."""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipelines.console import Json, print_json, print_rich, print_table
from pipelines.workspace import find_recipe, recipe_names
from recsys_meta.models.learners import LEARNERS
from recsys_meta.training.recipe_reference import KeyReference, recipe_reference

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes that come with the project, and the learners of installed packages, which are recipes too."""
    rows = [_describe(name, _first_comment(name)) for name in recipe_names()]
    plugins = [name for name in LEARNERS.usable() if name in LEARNERS.plugin_names]
    rows += [_describe(name, f"of the package {LEARNERS.package(name)}") for name in plugins]
    if as_json:
        print_json(rows)
        return
    lines = [(row["name"], row["learner"], ", ".join(row["objectives"]), row["about"]) for row in rows]
    print_table("Recipes", ("name", "learner", "objectives", "what"), lines, unwrapped=("name", "learner"))


def _describe(name: str, about: str) -> dict[str, Any]:
    learner = find_recipe(name).learner
    return {"name": name, "learner": learner, "objectives": sorted(LEARNERS[learner].objectives), "about": about}


def _first_comment(name: str) -> str:
    """Return the first sentence of the comment that a recipe begins with."""
    lines = (files("pipelines.recipes") / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines[: _comment_length(lines)])
    return re.split(r"(?<!et al)\. ", comment)[0].removesuffix(".")


def _comment_length(lines: list[str]) -> int:
    return next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))


@app.command("show")
def show_recipe(
    name: Annotated[
        str | None, typer.Argument(help="Recipe by name or .toml file; without one: what all have.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one key, as train does.")] = None,
    as_json: Json = False,
) -> None:
    """Show every key that a recipe may have, with its type, default and meaning; `--set KEY=VALUE` takes each of them.

    Keys under config are those of the recipe's learner, those under curriculum.config of its curriculum.
    """
    if set_ and name is None:
        raise typer.BadParameter("needs a recipe", param_hint="--set")
    recipe = None if name is None else find_recipe(name, set_ or [])
    keys = recipe_reference(recipe)
    if as_json:
        print_json([asdict(key) for key in keys])
        return
    _print_keys(name, keys)


def _print_keys(name: str | None, keys: list[KeyReference]) -> None:
    table = Table(title=escape(name or "Keys of every recipe"), title_justify="left", title_style="bold", box=None)
    table.add_column("key", no_wrap=True)
    for column in ("value" if name else "default", "type", "meaning"):
        table.add_column(column, overflow="fold")
    for key in keys:
        value = "required" if key.value is None else key.value
        if name and key.default not in (None, key.value):
            value = f"{value} (default {key.default})"
        table.add_row(*(escape(text) for text in (key.key, value, key.type, key.meaning)))
    print_rich(table)
