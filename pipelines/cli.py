"""The command line `recsys-meta`. Exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys

import typer
from rich.markup import escape

from pipelines.commands import (
    bench,
    compare,
    conformance,
    data,
    database,
    doctor,
    evaluate,
    items,
    keys,
    models,
    quickstart,
    recipes,
    recommend,
    serve,
    train,
    tune,
)
from pipelines.console import err, with_command
from recsys_meta import __version__
from recsys_meta.core.errors import RecsysMetaError, describe_os_error, describe_unexpected

app = typer.Typer(
    name="recsys-meta",
    help="Meta-learning for the cold start: adapt to a newcomer from its first interactions.",
    epilog="Exit status: 0 done, 1 failed (the reason is one line on standard error), 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

quickstart.add_to(app)
app.add_typer(data.app, name="data", help="Built-in data sets, and your own CSV or Parquet with a TOML schema.")
train.add_to(app)
app.add_typer(recipes.app, name="recipes", help="Recipes, and every key of one: type, default and meaning.")
tune.add_to(app)
evaluate.add_to(app)
compare.add_to(app)
conformance.add_to(app)
app.add_typer(models.app, name="models", help="The registry of published models, with the history of what was live.")
recommend.add_to(app)
serve.add_to(app)
keys.add_to(app)
app.add_typer(database.runs, name="runs", help="Training runs and their metrics.")
app.add_typer(database.adaptations, name="adaptations", help="What adapting did to each newcomer.")
app.add_typer(database.entities, name="entities", help="What is stored of an entity, and its erasure.")
app.add_typer(items.app, name="items", help="Items that lists may hold: new ones are ranked without a training.")
app.add_typer(database.db, name="db", help="The database: migrations and pruning.")
doctor.add_to(app)
app.add_typer(bench.app, name="bench", help="Benchmarks; each row is a ratio to a reference measured in the same run.")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"recsys-meta {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens inside."),
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


def main() -> None:
    """Run a command; print an error as one red line and exit with 1, never with a traceback.

    An error that is not expected is logged where it arose with --verbose.
    """
    try:
        app()
    except RecsysMetaError as error:
        err.print(f"[red]error:[/] {escape(with_command(str(error)))}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        _exit_with(describe_os_error(error), error)
    except (RecursionError, MemoryError) as error:
        _exit_with("the input is nested too deeply or too large", error)
    except Exception as error:  # the last resort: a traceback would tell a user nothing
        _exit_with(f"{describe_unexpected(error)}; --verbose shows where", error)
    except KeyboardInterrupt:
        err.print("[red]interrupted[/]")
        sys.exit(1)


def _exit_with(message: str, error: BaseException) -> None:
    logging.getLogger(__name__).info("%s", message, exc_info=error)
    err.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(1)
