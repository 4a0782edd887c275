"""The command line `recsys-meta`. Exit status: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

import typer
from rich.markup import escape

from pipelines.command_group import DeferredCommand, DeferredGroup
from pipelines.console import err, with_command
from recsys_meta import __version__
from recsys_meta.core.errors import RecsysMetaError, describe_os_error, describe_unexpected


class CommandLine(DeferredGroup):
    """All commands of `recsys-meta`."""

    deferred: ClassVar = {
        "quickstart": DeferredCommand(
            "quickstart", "Prepare data, meta-train, evaluate against tuned baselines, publish: in one go."
        ),
        "train": DeferredCommand(
            "train",
            "Meta-train a recipe; checkpoints survive a crash, Ctrl-C stops cleanly, --resume continues bit for bit.",
        ),
        "recipes": DeferredCommand("recipes", "Recipes, and every key of one: type, default and meaning.", "app"),
        "tune": DeferredCommand(
            "tune", "Search the hyper-parameters of a recipe on meta-validation, and write the recipe that was found."
        ),
        "evaluate": DeferredCommand(
            "evaluate", "The cold-start curve of a published model on its meta-test newcomers, with 95% intervals."
        ),
        "compare": DeferredCommand(
            "compare",
            "Learners and baselines side by side on the same episodes, the same seeds and the same tuning budget.",
        ),
        "check-learner": DeferredCommand(
            "conformance",
            "Check what every learner promises: order, padding, batches, empty supports, unknown ids, gradients.",
        ),
        "check-baseline": DeferredCommand(
            "conformance",
            "Check what every baseline promises, alone and tuned for each number of shots; exit 1 where it fails.",
        ),
        "recommend": DeferredCommand(
            "recommend", "Adapt to one newcomer and rank the catalogue: the same answer as the API's, without a server."
        ),
        "adapt": DeferredCommand(
            "recommend",
            "Adapt to every entity of a table; writes entity, support size, list of items with scores, and state.",
        ),
        "serve": DeferredCommand(
            "serve", "Serve the published models; pages for people are at /ui/, the API's own at /docs."
        ),
        "audit": DeferredCommand(
            "keys", "Administrative actions, newest first: promotions, rollbacks, erasures, keys made and revoked."
        ),
        "doctor": DeferredCommand(
            "doctor",
            "Check packages, data, database, cache and models; exit 1 when something that is set up does not work.",
        ),
        "data": DeferredCommand("data", "Built-in data sets, and your own CSV or Parquet with a TOML schema.", "app"),
        "models": DeferredCommand(
            "models", "The registry of published models, with the history of what was live.", "app"
        ),
        "keys": DeferredCommand("keys", "Keys of the API: scoped, with an end, revocable.", "app"),
        "runs": DeferredCommand("runs", "Training runs and their metrics.", "app"),
        "adaptations": DeferredCommand("database", "What adapting did to each newcomer.", "adaptations"),
        "entities": DeferredCommand("database", "What is stored of an entity, and its erasure.", "entities"),
        "items": DeferredCommand("items", "Items that lists may hold: new ones are ranked without a training.", "app"),
        "db": DeferredCommand("database", "The database: migrations and pruning.", "db"),
        "bench": DeferredCommand(
            "bench", "Benchmarks; each row is a ratio to a reference measured in the same run.", "app"
        ),
    }


app = typer.Typer(
    name="recsys-meta",
    cls=CommandLine,
    help="Meta-learning for the cold start: adapt to a newcomer from its first interactions.",
    epilog="Exit status: 0 done, 1 failed (the reason is one line on standard error), 2 wrong usage.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
