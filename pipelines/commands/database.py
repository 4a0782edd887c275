"""`recsys-meta adaptations`, `entities` and `db`: contents of the database, and its migrations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.console import Json, Limit, err, out, print_json, print_table
from pipelines.workspace import Workspace
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.database.engine import truncate_wal
from recsys_meta.store.database.migrate import current_revision, downgrade_database, upgrade_database
from recsys_meta.store.entities.adaptations import page_adaptations, prune_adaptations
from recsys_meta.store.entities.daily_sums import sum_next_day
from recsys_meta.store.entities.entities import entity_digest, erase_entity, find_entity
from recsys_meta.store.entities.events import support_events
from recsys_meta.store.entities.explorations import prune_explorations
from recsys_meta.store.entities.impressions import prune_impressions
from recsys_meta.store.entities.newcomer_results import prune_newcomer_results
from recsys_meta.store.entities.outcomes import prune_outcomes
from recsys_meta.store.model_registry.guardrail import prune_alerts
from recsys_meta.store.tracking.evaluations import prune_evaluations
from recsys_meta.store.tracking.paired_tests import prune_paired_tests
from recsys_meta.store.tracking.runs import prune_runs

adaptations = typer.Typer(no_args_is_help=True)
entities = typer.Typer(no_args_is_help=True)
db = typer.Typer(no_args_is_help=True)

Kind = Annotated[str, typer.Argument(help="Kind of entity: user, ad, city, ...")]
Id = Annotated[str, typer.Argument(help="The entity's id.")]


_COLUMN_TITLES = {"support_size": "size", "loss_before": "before", "loss_after": "after", "served_by": "by"}


@adaptations.command("list")
def list_adaptations_command(
    kind: Annotated[str | None, typer.Option()] = None,
    entity: Annotated[str | None, typer.Option()] = None,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Adaptations, newest first: support size, loss before and after, milliseconds, who served."""
    identity = ("created", "model_version", "variant", "kind", "entity", "support_size", "steps")
    columns = (*identity, "loss_before", "loss_after", "gradient_norm", "ms", "served_by", "answers")
    with Workspace().reading() as session:
        page = page_adaptations(session, kind=kind, entity=entity, limit=limit).items
        rows = [tuple(getattr(r, c) for c in columns) for r in page]
    if as_json:
        print_json([dict(zip(columns, r, strict=True)) for r in rows])
    else:
        hidden_columns = {"model_version", "kind", "steps", "gradient_norm"}
        if all(r.variant is None for r in page):  # without a split it would only make the others narrow
            hidden_columns.add("variant")
        table_columns = [c for c in columns if c not in hidden_columns]
        names = [_COLUMN_TITLES.get(c, c) for c in table_columns]
        print_table(
            "Adaptations: loss of the support before and after",
            names,
            [[r[columns.index(c)] for c in table_columns] for r in rows],
        )


@entities.command("show")
def show_entity_command(kind: Kind, entity: Id, as_json: Json = False) -> None:
    """Features and stored events of an entity."""
    with Workspace().reading() as session:
        row = find_entity(session, kind, entity)
        support = support_events(session, kind, entity, limit=1000)
        features: dict[str, Any] = dict(row.features) if row else {}
        events = [(e.event_id, e.item, e.label, e.time) for e in support]
    names = ("event_id", "item", "label", "time")
    if as_json:
        print_json(
            {
                "kind": kind,
                "id": entity,
                "features": features,
                "events": [dict(zip(names, e, strict=True)) for e in events],
            }
        )
        return
    print_table(f"{kind} {entity}", ("feature", "value"), [(k, str(v)) for k, v in features.items()])
    print_table("Events", names, events)


@entities.command("delete")
def delete_entity_command(
    kind: Kind,
    entity: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase features, events and adaptations of an entity and its cached states; prints the receipt."""
    if not yes:
        typer.confirm(f"Erase all that is known of {kind} {entity}?", abort=True)
    workspace = Workspace()
    with workspace.session() as session:
        receipt = erase_entity(session, kind, entity)
        record_action(session, "delete entity", entity_digest(session, kind, entity), actor="command line")
    log_emptied = _empty_log(workspace)
    cached = workspace.evict_cached_states(kind, entity)
    result = {**receipt.__dict__, "cached": cached, "log_emptied": log_emptied}
    if as_json:
        print_json(result)
    else:
        print_table("Erased", ("what", "how many"), [(k, None if v is None else str(v)) for k, v in result.items()])
    if result["cached"] is None:
        err.print(
            "RECSYS_META_REDIS_URL is not set: if servers of this database use a Redis, states of the entity lie in it "
            "for up to a day, though none is served; erase through the API, or again with it set",
            soft_wrap=True,
        )


def _empty_log(workspace: Workspace) -> bool:
    """Empty SQLite's write-ahead log; return whether that went, and say so where it did not."""
    if truncate_wal(workspace.engine):
        return True
    err.print(
        "A program reads the database, so its write-ahead log still holds what was deleted: run this again once the "
        "program has ended",
        soft_wrap=True,
    )
    return False


@db.command("upgrade")
def upgrade_command(revision: Annotated[str, typer.Argument()] = "head", as_json: Json = False) -> None:
    """Bring the database to a revision."""
    url = Workspace().settings.database
    upgrade_database(url, revision)
    _print_revision(url, as_json)


@db.command("downgrade")
def downgrade_command(
    revision: Annotated[str, typer.Argument(help="A revision, or base.")], as_json: Json = False
) -> None:
    """Take the database back to a revision. What later revisions added is lost."""
    url = Workspace().settings.database
    downgrade_database(url, revision)
    _print_revision(url, as_json)


@db.command("current")
def current_command(as_json: Json = False) -> None:
    """The revision that the database is at."""
    _print_revision(Workspace().settings.database, as_json)


def _print_revision(url: str, as_json: bool) -> None:
    revision = current_revision(url)
    if as_json:
        print_json({"revision": revision})
    else:
        out.print(revision or "empty: `recsys-meta db upgrade` makes the tables")


@db.command("export")
def export_command(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the Parquet files.")],
    days: Annotated[int | None, typer.Option(min=1, max=36_500, help="Rows of the last days; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Write adaptations, impressions, outcomes, evaluations, paired tests and newcomers as Parquet. They hold ids of
    entities: personal data."""
    from pipelines.exports.parquet_tables import write_tables

    since = None if days is None else datetime.now(UTC) - timedelta(days=days)
    folder.mkdir(parents=True, exist_ok=True)
    with Workspace().reading() as session:
        counts = write_tables(session, folder, since)
    if as_json:
        print_json({name: {"rows": n, "file": folder / f"{name}.parquet"} for name, n in counts.items()})
    else:
        print_table("Exported", ("table", "rows", "file"), [(k, n, folder / f"{k}.parquet") for k, n in counts.items()])


@db.command("sum")
def sum_command(as_json: Json = False) -> None:
    """Keep what `online_quality` and `adaptation_daily` say of days that are over: both then answer at once. A running
    server does so by itself."""
    count = _sum_days(Workspace())
    if as_json:
        print_json({"days": count})
    else:
        out.print(f"{count} days were summed")


def _sum_days(workspace: Workspace) -> int:
    """Sum all days that are over, each in a transaction of its own; return how many."""
    count = 0
    while True:
        with workspace.session() as session:
            if sum_next_day(session) is None:
                return count
        count += 1


@db.command("prune")
def prune_command(
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Older than this many days.")],
    as_json: Json = False,
) -> None:
    """Delete what is old: ended runs with metrics, adaptations, impressions, outcomes, explorations, ended alerts,
    newcomers of evaluations; of evaluations of no published version the points and paired tests."""
    before = datetime.now(UTC) - timedelta(days=days)
    workspace = Workspace()
    with workspace.session() as session:
        counts = {
            "runs": prune_runs(session, before),
            "adaptations": prune_adaptations(session, before),
            "impressions": prune_impressions(session, before),
            "outcomes": prune_outcomes(session, before),
            "explorations": prune_explorations(session, before),
            "alerts": prune_alerts(session, before),
            "newcomer_results": prune_newcomer_results(session, before),
            "paired_tests": prune_paired_tests(session, before),
            "evaluations": prune_evaluations(session, before),
        }
    _sum_days(workspace)
    log_emptied = _empty_log(workspace)
    if as_json:
        print_json({**counts, "log_emptied": log_emptied})
    else:
        print_table("Pruned", ("what", "rows"), list(counts.items()))
