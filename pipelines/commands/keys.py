"""`recsys-meta keys` and `recsys-meta audit`: API keys, and the log of administrative actions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from pipelines.console import Json, err, out, print_json, print_table
from pipelines.workspace import Workspace
from recsys_meta.store.access.api_keys import active_keys, create_key, list_keys, revoke_key
from recsys_meta.store.access.audit_log import list_audit
from recsys_meta.store.access.tables import ApiKeyRecord

ACTOR = "command line"

app = typer.Typer(no_args_is_help=True)


@app.command("create")
def create_command(
    name: Annotated[str, typer.Option(help="What or whom it is for.")],
    scopes: Annotated[
        str, typer.Option(help="Some of read, write, admin (includes the others), joined by +.")
    ] = "read",
    expires: Annotated[str | None, typer.Option(help="When it ends: 90d, 12h, or a time such as 2030-01-31.")] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it, once: only a digest of it is stored."""
    expiry = None if expires is None else _parse_expiry(expires, datetime.now(UTC))
    with Workspace().session() as session:
        new_key = create_key(session, name, scopes.split("+"), expires=expiry, actor=ACTOR)
    if as_json:
        print_json({**_public_fields(new_key.row), "key": new_key.text})
        return
    err.print(f"key [bold]{new_key.row.id}[/] ({new_key.row.scopes}) was made; it cannot be shown again:")
    out.print(new_key.text)


@app.command("list")
def list_keys_command(as_json: Json = False) -> None:
    """List every key by its id, revoked ones included; the keys themselves are not stored."""
    with Workspace().reading() as session:
        rows = [_public_fields(row) for row in list_keys(session)]
    if as_json:
        print_json(rows)
    else:
        names = ("id", "name", "scopes", "state", "created", "expires", "revoked")
        print_table("Keys", names, [[row[n] for n in names] for row in rows])


@app.command("revoke")
def revoke_command(key: Annotated[str, typer.Argument(help="Its id, or its name.")], as_json: Json = False) -> None:
    """Revoke a key for good; servers notice within about two seconds."""
    workspace = Workspace()
    with workspace.session() as session:
        row = revoke_key(session, key, actor=ACTOR)
        remaining = len(active_keys(session)) + len(workspace.settings.keys)
    if as_json:
        print_json(_public_fields(row))
        return
    out.print(f"key [bold]{row.id}[/] is revoked")
    if not remaining:
        err.print("No key is left: servers now answer callers on their own machine, without a key, and nobody else.")


def show_audit(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    action: Annotated[str | None, typer.Option(help="Only this action.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only this actor.")] = None,
    as_json: Json = False,
) -> None:
    """Administrative actions, newest first: promotions, rollbacks, erasures, keys made and revoked."""
    with Workspace().reading() as session:
        rows = [row.as_dict() for row in list_audit(session, action=action, actor=actor, limit=limit).items]
    if as_json:
        print_json(rows)
    else:
        names = ("at", "actor", "action", "target", "request_id")
        print_table("Audit", names, [[row[n] for n in names] for row in rows])


def add_to(main: typer.Typer) -> None:
    """Add the command to the command line."""
    main.command("audit")(show_audit)


def _public_fields(row: ApiKeyRecord) -> dict[str, Any]:
    """Return the fields of a key that are printed, with its state: all but the digest."""
    now = datetime.now(UTC)
    is_expired = row.expires is not None and row.expires <= now
    state = "revoked" if row.revoked else "ended" if is_expired else "stands"
    fields = {k: v for k, v in row.as_dict().items() if k != "digest"}
    return {**fields, "state": state}


def _parse_expiry(text: str, now: datetime) -> datetime:
    """Parse `90d`, `12h` or a time in ISO 8601, in UTC if it has no zone. Raises typer.BadParameter."""
    span = re.fullmatch(r"(\d{1,5})([dh])", text)
    if span:
        count = int(span[1])
        return now + (timedelta(days=count) if span[2] == "d" else timedelta(hours=count))
    try:
        expiry = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither like 90d or 12h nor a time such as 2030-01-31") from None
    return expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)
