"""`recsys-meta recommend` and `recsys-meta adapt`: the API's answers without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import torch
import typer
from rich.markup import escape
from rich.progress import Progress

from pipelines.batch.batch_inference import SCHEMA, chunks_of, read_tables
from pipelines.batch.event_files import count_rows, read_events
from pipelines.batch.executors import BatchTask, ExecutionBackend, backend, check_engine
from pipelines.batch.resumable_job import Job, ResumableJob, open_job
from pipelines.console import Json, err, print_json, print_table, progress_bar
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.atomic_io import sha256
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.inference.ranking.list_cursor import ListCursor, context_digest, scope_digest, secret_of, write_cursor
from recsys_meta.inference.recommender import (
    EntityRequest,
    Interaction,
    QueryContext,
    RecommendedList,
    Recommender,
    recommend,
)
from recsys_meta.inference.requests.stored_events import merge_events
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.database.engine import parse_url
from recsys_meta.store.entities import profiles


def recommend_command(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    events: Annotated[Path | None, typer.Option(help="CSV, JSON or Parquet with item and perhaps label, time.")] = None,
    items: Annotated[str | None, typer.Option(help="Items the newcomer met, separated by commas.")] = None,
    entity: Annotated[str | None, typer.Option(help="Use what the database holds of this entity.")] = None,
    feature: Annotated[list[str] | None, typer.Option(help="A feature: age=25 (lists separated by |).")] = None,
    context: Annotated[list[str] | None, typer.Option(help="What the moment is like: hour=12, position=1.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who acts, where rows have actors.")] = None,
    at: Annotated[str | None, typer.Option(help="Where: latitude,longitude.")] = None,
    candidates: Annotated[str | None, typer.Option(help="Rank these items only, separated by commas.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1000)] = 10,
    as_json: Json = False,
) -> None:
    """Adapt to one newcomer and rank the catalogue: the same answer as the API's, without a server."""
    workspace = Workspace()
    bundle, variant = workspace.bundle_for_entity(model, entity)
    recommender = Recommender(bundle)
    features = _pairs("--feature", feature or [])
    moment = _moment(context or [], actor, at)
    interactions = read_events(events, recommender.fields) if events is not None else []
    interactions += [Interaction(i.strip()) for i in (items or "").split(",") if i.strip()]
    labelled = bundle.schema.objective in ("rating", "click")
    if interactions and labelled and any(i.label is None for i in interactions):
        raise DataError("events need a label", field="label", remedy="Give --events with a label column")
    newcomer = EntityRequest(features, interactions)
    if entity is not None:
        with workspace.reading() as session:
            newcomer = merge_events(
                recommender.reader, *profiles.read_stored_profile(session, bundle.schema.kind, entity), newcomer
            )
    chosen = None if candidates is None else [c.strip() for c in candidates.split(",") if c.strip()]
    with _one_thread():
        answer = recommend(recommender, newcomer, n, chosen, moment)
    name = model.partition("@")[0]
    if as_json:
        owner = "" if entity is None else owner_key(bundle.schema.kind, entity)
        secret = secret_of(parse_url(workspace.settings.database).render_as_string(hide_password=False))
        following = cursor(answer, bundle.version, owner, moment, secret)
        print_json(answer_json(answer, name, bundle.version, variant, following))
        return
    title = f"{name}@{bundle.version}: {answer.served_by}, {answer.support_size} events"
    print_table(
        title,
        ("rank", "item", "title", "score"),
        [(i + 1, s.item, s.title, s.score) for i, s in enumerate(answer.items)],
    )
    if answer.unknown:
        names = escape(", ".join(answer.unknown[:5]))
        err.print(f"[yellow]the model does not know {names}; they were left out[/]")
    if answer.unknown_features:
        names = escape(", ".join(answer.unknown_features))
        err.print(f"[yellow]the model never met a value of {names}: it has no effect[/]")


def cursor(answer: RecommendedList, version: str, owner: str, moment: QueryContext | None, secret: bytes) -> str | None:
    """What follows the list, for the API; None at its end."""
    if answer.following is None:
        return None
    place = ListCursor(
        version, answer.support, answer.support_size, scope_digest(owner), context_digest(moment), *answer.following
    )
    return write_cursor(place, secret)


def answer_json(
    answer: RecommendedList, model: str, version: str, variant: str | None, following: str | None
) -> dict[str, Any]:
    """An answer in the API's form."""
    return {
        "request_id": uuid4().hex,
        "model": {"name": model, "version": version},
        "variant": variant,
        "served_by": answer.served_by,
        "degraded": False,
        "missing": [],
        "support_size": answer.support_size,
        "unknown_items": list(answer.unknown),
        "unknown_features": list(answer.unknown_features),
        "items": [
            {"rank": i + 1, "item": s.item, "score": s.score, "title": s.title} for i, s in enumerate(answer.items)
        ],
        "next": following,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a server: several may add up in another order, and the answer shall be the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pairs(option: str, pairs: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {pair!r} is not name=value")
        found[name] = value
    return found


def _moment(context: Sequence[str], actor: str | None, at: str | None) -> QueryContext | None:
    if not context and actor is None and at is None:
        return None
    place = None
    if at is not None:
        try:
            lat, lon = (float(part) for part in at.split(","))
        except ValueError:
            raise ConfigError(f"--at {at!r} is not LATITUDE,LONGITUDE") from None
        if not (abs(lat) <= 90 and abs(lon) <= 180):
            raise ConfigError(f"--at {at!r}: latitudes go from -90 to 90, longitudes from -180 to 180")
        place = lat, lon
    return QueryContext(_pairs("--context", context), actor, place)


def adapt_command(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or the folder of a bundle.")],
    events: Annotated[Path, typer.Option(help="CSV or Parquet with entity, item and perhaps label, time.")],
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Items of each list.")] = 10,
    engine: Annotated[
        ExecutionBackend, typer.Option(help="Who adapts: this process, or several that Ray runs here.")
    ] = (ExecutionBackend.LOCAL),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of --engine ray; default: one for each processor.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt to every entity of a table; writes entity, support size, list of items with scores, and state.

    Memory does not grow with the table, whose rows may be in any order. Killed at any instant, the same command goes
    on where it stopped, with either engine; the file appears when it is whole, and is the same by either.
    """
    check_engine(engine, workers)
    folder = Workspace().bundle_folder(model)
    recommender = Recommender(load_bundle(folder))
    rows = count_rows(events)
    job: Job = {"version": recommender.version, "events": sha256(events), "n": n, "code": __version__}
    try:
        with progress_bar() as progress, open_job(out_file, job) as work:
            if work.resumed:
                err.print("an earlier run was interrupted; going on where it stopped")
            total = _adapt(BatchTask(recommender, folder, events, n), rows, work, progress, engine, workers)
    except KeyboardInterrupt:
        err.print("[yellow]what was done is kept: run it again to go on[/]")
        raise
    if as_json:
        version = recommender.version
        print_json({"entities": total, "file": str(out_file), "version": version, "resumed": work.resumed})
    else:
        err.print(f"wrote {total} entities to {escape(str(out_file))}", soft_wrap=True)


def _adapt(
    todo: BatchTask, rows: int, work: ResumableJob, progress: Progress, engine: ExecutionBackend, workers: int | None
) -> int:
    """Answer all entities of a table of `rows` events, about; answers their number."""
    task = progress.add_task("reading events", total=rows, note="")
    tables = partial(read_tables, todo.events, todo.recommender)
    parts = work.parts(tables, rows, lambda done: progress.advance(task, done))
    progress.remove_task(task)
    task = progress.add_task("adapting to events", total=sum(parts.values()), note="")
    with backend(engine, workers) as answers:

        def answer(frame: pd.DataFrame) -> Iterator[pa.Table]:
            for table, done in answers(todo, chunks_of(todo.recommender, frame)):
                yield table
                progress.advance(task, done)

        for part, size in parts.items():
            if work.made(part):
                progress.advance(task, size)
            else:
                work.make(part, SCHEMA, answer)
    return work.finish(parts, SCHEMA)


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("recommend")(recommend_command)
    app.command("adapt")(adapt_command)
