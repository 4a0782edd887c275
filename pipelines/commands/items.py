"""`recsys-meta items`: the items that lists may hold, as the API's `/v1/items` without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.markup import escape

from pipelines.batch.item_files import BadRow, ItemLayout, item_layout, read_items
from pipelines.commands.model_publication import ACTOR
from pipelines.console import Json, err, out, print_json, print_table
from pipelines.workspace import LiveModel, Workspace
from recsys_meta.core.errors import ConfigError, DataError, NotFoundError
from recsys_meta.data.readers.raw_tables import OnError
from recsys_meta.inference.recommender import MOST_NEW_ITEMS
from recsys_meta.inference.requests.item_kind import choose_item_kind
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.access.audit_log import record_action
from recsys_meta.store.items.items import (
    NewItem,
    count_items,
    delete_items,
    describe_item,
    find_item,
    page_items,
    save_items,
    switch_items,
)
from recsys_meta.store.items.tables import ItemRecord

app = typer.Typer(no_args_is_help=True)

STORED_AT_ONCE = 5000
"""Items of one transaction, about."""

MOST_SHOWN = 20
"""Bad rows that are printed."""

KindOption = Annotated[str | None, typer.Option(help="Kind of newcomer; needed where several kinds are served.")]
ItemIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of items.")]
ItemId = Annotated[str, typer.Argument(metavar="ID", help="The item's id.")]


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines or Parquet: id, title, available, and features.")],
    kind: KindOption = None,
    model: Annotated[str | None, typer.Option(help="Check features by this model alone: NAME or NAME@VERSION.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Columns that are features, separated by commas; default: all others.")
    ] = None,
    on_error: Annotated[str, typer.Option(help="Bad rows: 'fail' before any is stored, or 'skip' them.")] = "fail",
    as_json: Json = False,
) -> None:
    """Store the items of a file: what it says of each replaces what was stored. Again, it changes nothing.

    Every process of every server lists them within two seconds.
    """
    if on_error not in get_args(OnError):
        raise typer.BadParameter(f"{on_error!r} is not one of {', '.join(get_args(OnError))}", param_hint="--on-error")
    workspace = Workspace()
    kind, models = _service(workspace, kind, model)
    bundles = [one.bundle for one in models]
    only = None if features is None else [name.strip() for name in features.split(",") if name.strip()]
    layout = item_layout(file, bundles, only)
    if on_error == "fail":
        _check_all(layout, bundles)
    counts, bad = _store(workspace, kind, layout, bundles)
    with workspace.reading() as session:
        total = count_items(session, kind)
    _print_bad(file, bad)
    if total > MOST_NEW_ITEMS:
        err.print(f"[yellow]{total:,} items are stored: of new ones the {MOST_NEW_ITEMS:,} changed last are ranked[/]")
    refused = [vars(one) for one in bad]
    if as_json:
        print_json({"kind": kind, "file": file, **counts, "refused": len(bad), "bad_rows": refused})
    else:
        text = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        out.print(f"items of {escape(kind)}: {text}, {len(bad):,} refused", soft_wrap=True)


def _check_all(layout: ItemLayout, bundles: Sequence[Bundle]) -> None:
    """Raise DataError for the first bad row of a file, after as many as there are were printed."""
    bad: list[BadRow] = []
    for part in read_items(layout, bundles):
        bad += part.bad
    if bad:
        _print_bad(layout.path, bad[1:])
        first, others = bad[0], f"; so are {len(bad) - 1:,} other rows" if len(bad) > 1 else ""
        remedy = f"Nothing was stored{others}. --on-error skip stores the rest"
        raise DataError(
            first.reason.rstrip("."), file=layout.path, line=first.line, field=first.field or None, remedy=remedy
        )


def _store(
    workspace: Workspace, kind: str, layout: ItemLayout, bundles: Sequence[Bundle]
) -> tuple[dict[str, int], list[BadRow]]:
    """Store the items of a file, some in each transaction; return the numbers of outcomes, and the bad rows."""
    counts = {"new": 0, "changed": 0, "unchanged": 0}
    bad: list[BadRow] = []
    for part in read_items(layout, bundles):
        bad += part.bad
        for start in range(0, len(part.items), STORED_AT_ONCE):
            items = list({item.item: item for item in part.items[start : start + STORED_AT_ONCE]}.values())
            for outcome in _save(workspace, kind, items, layout.path):
                counts[outcome] += 1
    return counts, bad


def _save(workspace: Workspace, kind: str, items: Sequence[NewItem], file: Path) -> list[Any]:
    with workspace.session() as session:
        outcomes = save_items(session, kind, items)
        changed = len(outcomes) - outcomes.count("unchanged")
        if changed:
            record_action(session, "import items", f"{kind} {changed} of {file.name}"[:200], actor=ACTOR)
    return list(outcomes)


def _print_bad(file: Path, bad: Sequence[BadRow]) -> None:
    for row in bad[:MOST_SHOWN]:
        problem = DataError(row.reason, file=file, line=row.line, field=row.field or None)
        err.print(f"[yellow]bad row:[/] {escape(str(problem))}", soft_wrap=True)
    if len(bad) > MOST_SHOWN:
        err.print(f"[yellow]and {len(bad) - MOST_SHOWN:,} more[/]")


@app.command("list")
def list_command(
    kind: KindOption = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Only items that are not available.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Rows at most.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Go on where a page ended: `next` of its JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Stored items, those that were changed last first."""
    workspace = Workspace()
    kind, models = _service(workspace, kind)
    with workspace.reading() as session:
        page = page_items(session, kind, available=False if hidden else None, limit=limit, cursor=cursor)
        documents = [_document(row, models) for row in page.items]
    if as_json:
        print_json({"items": documents, "next": page.next})
        return
    names = ("id", "title", "available", "updated")
    rows = [
        (d["id"], d["title"], "yes" if d["available"] else "no", d["updated"], ", ".join(d["trained_by"]))
        for d in documents
    ]
    print_table(f"Items of {kind}", (*names, "trained by"), rows, unwrapped=("id",))


@app.command("show")
def show_command(item: ItemId, kind: KindOption = None, as_json: Json = False) -> None:
    """Show what is stored of an item."""
    workspace = Workspace()
    kind, models = _service(workspace, kind)
    with workspace.reading() as session:
        document = _document(find_item(session, kind, item), models)
    if as_json:
        print_json(document)
    else:
        print_table(f"Item {item}", ("field", "value"), [(name, str(value)) for name, value in document.items()])


@app.command("hide")
def hide_command(items: ItemIds, kind: KindOption = None, as_json: Json = False) -> None:
    """Keep items from all lists, be they stored or ones that a model was trained on."""
    _switch(items, kind, False, as_json)


@app.command("unhide")
def unhide_command(items: ItemIds, kind: KindOption = None, as_json: Json = False) -> None:
    """Let lists hold items again."""
    _switch(items, kind, True, as_json)


def _switch(items: Sequence[str], kind: str | None, available: bool, as_json: bool) -> None:
    workspace = Workspace()
    kind, models = _service(workspace, kind)
    trained = {item for item in items if any(one.has_item(item) for one in models)}
    with workspace.session() as session:
        unknown = switch_items(session, kind, items, available, trained)
        if unknown:
            raise NotFoundError(f"no item '{unknown[0]}' is stored for newcomers of kind '{kind}', nor has a model it")
        for item in items:
            action = "show item" if available else "hide item"
            record_action(session, action, f"{kind} {item}"[:200], actor=ACTOR)
        documents = [_document(find_item(session, kind, item), models) for item in items]
    if as_json:
        print_json({"items": documents})
    else:
        out.print(f"{escape(', '.join(items))}: lists {'may hold it' if available else 'leave it out'}", soft_wrap=True)


@app.command("delete")
def delete_command(
    items: ItemIds,
    kind: KindOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete what is stored of items: models that were not trained on them forget them, the others list them."""
    workspace = Workspace()
    kind, _ = _service(workspace, kind)
    if not yes:
        typer.confirm(f"Delete {', '.join(items)} of kind {kind}?", abort=True)
    with workspace.session() as session:
        deleted = delete_items(session, kind, items)
        for item in deleted:
            record_action(session, "delete item", f"{kind} {item}"[:200], actor=ACTOR)
    if as_json:
        print_json({"kind": kind, "items": [{"id": item, "deleted": item in deleted} for item in items]})
    else:
        for item in items:
            out.print(f"{escape(item)} " + ("is deleted" if item in deleted else "was not stored"), soft_wrap=True)


def _service(workspace: Workspace, kind: str | None, model: str | None = None) -> tuple[str, list[LiveModel]]:
    """Return the kind of the items and the live models for it, or the one that was named. Raises ConfigError as
    `choose_item_kind`, and where the model is for another kind."""
    models = workspace.live_models() if model is None else [LiveModel(model, workspace.bundle(model))]
    schemas = [one.bundle.schema for one in models]
    if model is not None and kind not in (None, schemas[0].kind):
        raise ConfigError(f"model '{model}' is for newcomers of kind '{schemas[0].kind}', not '{kind}'")
    kind = choose_item_kind(schemas, kind)
    return kind, [one for one in models if one.bundle.schema.kind == kind]


def _document(row: ItemRecord, models: Sequence[LiveModel]) -> dict[str, Any]:
    """Return an item in the form of the API's answer."""
    return describe_item(row, [one.name for one in models if one.has_item(row.external_id)])
