"""`recsys-meta recommend` and `recsys-meta adapt`: the API's answers without a server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import typer
from rich.markup import escape
from rich.progress import Progress

from pipelines.batch.batch_inference import RESULT_SCHEMA, entity_chunks, new_summary, read_tables
from pipelines.batch.event_files import count_rows, encoding_warning, read_events
from pipelines.batch.executors import BatchTask, ExecutionBackend, backend, check_backend
from pipelines.batch.resumable_job import Job, ResumableJob, open_job
from pipelines.batch.stored_items import items_digest, with_stored
from pipelines.console import Json, err, print_json, print_table, progress_bar
from pipelines.experiments.thread_count import fixed_threads
from pipelines.workspace import Workspace
from recsys_meta import __version__
from recsys_meta.core.atomic_io import sha256
from recsys_meta.core.errors import ConfigError, DataError
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.one_shot import RecommendedList, recommend
from recsys_meta.inference.ranking.fresh_slots import FreshPolicy
from recsys_meta.inference.ranking.list_cursor import ListScope, write_cursor
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction, QueryContext
from recsys_meta.inference.requests.stored_events import merge_events
from recsys_meta.models.bundle import load_bundle
from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.config_entries import parse_fresh_policies, parse_fresh_policy
from recsys_meta.store.entities import profiles
from recsys_meta.store.installation.installation_key import CURSORS, derived_key, installation_key


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
    fresh: Annotated[
        str | None,
        typer.Option(
            help="Places for new items: slots=2, share=0.1 or slots=2:events=50; none. Default: RECSYS_META_FRESH."
        ),
    ] = None,
    fresh_seed: Annotated[int | None, typer.Option(min=0, help="Seed of what is drawn for these places.")] = None,
    as_json: Json = False,
) -> None:
    """Adapt to one newcomer and rank the catalogue: the same answer as the API's, without a server."""
    workspace = Workspace()
    bundle, variant = workspace.bundle_for_entity(model, entity)
    recommender = with_stored(Recommender(bundle), _stored_items(workspace, model, bundle.schema.kind))
    features = _pairs("--feature", feature or [])
    query_context = _query_context(context or [], actor, at)
    interactions = [] if events is None else _read_events(events, recommender)
    interactions += [Interaction(i.strip()) for i in (items or "").split(",") if i.strip()]
    summary = new_summary(recommender)
    summary.add_interactions(interactions)
    if interactions or events is not None:
        _warn(summary.warnings)
    needs_labels = bundle.schema.objective in ("rating", "click")
    if needs_labels and any(i.label is None for i in interactions):
        raise DataError("events need a label", field="label", remedy="Give --events with a label column")
    request = EntityRequest(features, interactions)
    if entity is not None:
        with workspace.reading() as session:
            profile = profiles.read_stored_profile(session, bundle.schema.kind, entity)
        request = merge_events(recommender.reader, *profile, request)
    policy = _fresh_policy(workspace, recommender, model.partition("@")[0], fresh, fresh_seed)
    only = None if candidates is None else [c.strip() for c in candidates.split(",") if c.strip()]
    # As a server does: several threads add up in another order, and the list shall be the same to the last bit.
    with fixed_threads(1):
        result = recommend(recommender, request, n, only, query_context, policy)
    name = model.partition("@")[0]
    if as_json:
        owner = "" if entity is None else owner_key(bundle.schema.kind, entity)
        scope = ListScope(bundle.version, owner, query_context)
        with workspace.reading() as session:
            secret = derived_key(installation_key(session), CURSORS)
        print_json(list_json(result, name, bundle.version, variant, next_cursor(result, scope, secret), policy))
        return
    title = f"{name}@{bundle.version}: {result.served_by}, {result.support_size} events"
    print_table(
        title,
        ("rank", "item", "title", "score"),
        [(i + 1, s.item, s.title, s.score) for i, s in enumerate(result.items)],
    )
    if result.shortfall:
        err.print(f"[yellow]{len(result.items)} items: {escape(result.shortfall)}[/]")
    if result.unknown_items:
        names = escape(", ".join(result.unknown_items[:5]))
        err.print(f"[yellow]the model does not know {names}; they were left out[/]")
    if result.unknown_features:
        names = escape(", ".join(result.unknown_features))
        err.print(f"[yellow]the model never met a value of {names}: it has no effect[/]")


def _stored_items(workspace: Workspace, model: str, kind: str) -> list[StoredItem]:
    """Return the items that are stored, of which a published model lists the new ones, and none that is hidden, as
    servers do. Where events of new items have arrived, servers place these by them too."""
    return [] if workspace.is_bundle(model) else workspace.stored_items(kind)


def _read_events(path: Path, recommender: Recommender) -> list[Interaction]:
    events = read_events(path, recommender.reader.fields, recommender.bundle.schema)
    _warn([encoding_warning(path)])
    return events


def _warn(warnings: Sequence[str]) -> None:
    """Print what is likely to be wrong with data, each as one line; empty ones are left out."""
    for warning in filter(None, warnings):
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)


def next_cursor(result: RecommendedList, scope: ListScope, secret: bytes) -> str | None:
    """Write the cursor of what follows a list, for the API; None at the list's end."""
    if result.end is None:
        return None
    return write_cursor(scope.cursor(result.support_digest, result.support_size, result.end, len(result.items)), secret)


def list_json(
    result: RecommendedList,
    model: str,
    version: str,
    variant: str | None,
    cursor: str | None,
    policy: FreshPolicy | None = None,
) -> dict[str, Any]:
    """Return a list in the form of the API's response."""
    draws = [{"item": item, "propensity": draw.propensity} for item, draw in result.draws or ()]
    return {
        **({} if policy is None else {"fresh": {"seed": policy.seed, "items": draws}}),
        "request_id": uuid4().hex,
        "model": {"name": model, "version": version},
        "variant": variant,
        "served_by": result.served_by,
        "degraded": False,
        "missing": [],
        "support_size": result.support_size,
        "unknown_items": list(result.unknown_items),
        "unknown_features": list(result.unknown_features),
        "unknown_filter_values": {},
        "shortfall": result.shortfall,
        "items": [
            {"rank": i + 1, "item": s.item, "score": s.score, "title": s.title} for i, s in enumerate(result.items)
        ],
        "next": cursor,
    }


def _fresh_policy(
    workspace: Workspace, recommender: Recommender, model: str, text: str | None, seed: int | None
) -> FreshPolicy | None:
    """Return the places for new items of a list, as servers have them where no option says otherwise."""
    if text == "none":
        return None
    if text is not None:
        policy: FreshPolicy | None = parse_fresh_policy(text, "--fresh")
    else:
        default = parse_fresh_policies(workspace.settings.fresh).get(model)
        policy = default if recommender.new_items is not None else None
    return None if policy is None else replace(policy, seed=secrets.randbits(53) if seed is None else seed)


def _pairs(option: str, pairs: Sequence[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {pair!r} is not name=value")
        values[name] = value
    return values


def _query_context(context: Sequence[str], actor: str | None, at: str | None) -> QueryContext | None:
    """Read the options that say when, where and by whom a list is asked for; None where none is given."""
    if not context and actor is None and at is None:
        return None
    return QueryContext(_pairs("--context", context), actor, None if at is None else _location(at))


def _location(at: str) -> tuple[float, float]:
    try:
        lat, lon = (float(part) for part in at.split(","))
    except ValueError:
        raise ConfigError(f"--at {at!r} is not LATITUDE,LONGITUDE") from None
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ConfigError(f"--at {at!r}: latitudes go from -90 to 90, longitudes from -180 to 180")
    return lat, lon


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
    check_backend(engine, workers)
    workspace = Workspace()
    folder = workspace.bundle_folder(model)
    bundle = load_bundle(folder)
    stored = _stored_items(workspace, model, bundle.schema.kind)
    recommender = with_stored(Recommender(bundle), stored)
    rows = count_rows(events)
    job: Job = {"version": recommender.version, "events": sha256(events), "n": n, "code": __version__}
    job = {**job, "items": items_digest(stored)} if stored else job
    try:
        with progress_bar() as progress, open_job(out_file, job) as work:
            if work.resumed:
                err.print("an earlier run was interrupted; going on where it stopped")
            task = BatchTask(recommender, folder, events, n, tuple(stored))
            total, warnings = _adapt(task, rows, work, progress, engine, workers)
    except KeyboardInterrupt:
        err.print("[yellow]what was done is kept: run it again to go on[/]")
        raise
    warnings = [w for w in (encoding_warning(events), *warnings) if w]
    _warn(warnings)
    if as_json:
        made = {"entities": total, "file": str(out_file), "version": recommender.version, "resumed": work.resumed}
        print_json({**made, "warnings": warnings})
    else:
        err.print(f"wrote {total} entities to {escape(str(out_file))}", soft_wrap=True)


def _adapt(
    task: BatchTask,
    rows: int,
    work: ResumableJob,
    progress: Progress,
    engine: ExecutionBackend,
    workers: int | None,
) -> tuple[int, list[str]]:
    """Recommend to all entities of a table of `rows` events, about; return the number of entities, and warnings about
    the events, whichever process has read them."""
    summary = new_summary(task.recommender)
    bar = progress.add_task("reading events", total=rows, note="")
    tables = partial(read_tables, task.events, task.recommender, summary)
    parts, warnings = work.parts(tables, rows, lambda count: progress.advance(bar, count), lambda: summary.warnings)
    progress.remove_task(bar)
    bar = progress.add_task("adapting to events", total=sum(parts.values()), note="")
    with backend(engine, workers) as run_chunks:

        def compute(frame: pd.DataFrame) -> Iterator[pa.Table]:
            for table, events in run_chunks(task, entity_chunks(task.recommender, frame)):
                yield table
                progress.advance(bar, events)

        for part, size in parts.items():
            if work.has_results(part):
                progress.advance(bar, size)
            else:
                work.write_results(part, RESULT_SCHEMA, compute)
    return work.finish(parts, RESULT_SCHEMA), warnings


def add_to(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("recommend")(recommend_command)
    app.command("adapt")(adapt_command)
