"""Items: stored, changed and deleted, each under the next number of its kind, by which servers find what is new.

The number is taken first, and its row is locked until the transaction ends: so a reader that has seen a number has seen
all changes up to it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.orm import Session

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.bulk_insert import in_chunks, insert_into, table_of, unique
from recsys_meta.store.database.clock import utcnow
from recsys_meta.store.database.keyset_pagination import KeysetPage, newest_page
from recsys_meta.store.items.tables import ItemRecord, ItemRevisionRecord

ItemOutcome = Literal["new", "changed", "unchanged"]

TRACE_DAYS = 2
"""Days for which the id of a deleted item stays; a server that was away for longer reads all items anew."""

CHANGE_ROWS = 10_000
"""Changes that are read at once, about."""


@dataclass(frozen=True)
class NewItem:
    """An item to store."""

    item: str
    features: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    available: bool = True


def describe_item(row: ItemRecord, trained_by: Sequence[str]) -> dict[str, Any]:
    """Describe a stored item as the API and the command line show it; `trained_by` names the models that know it."""
    return {
        "kind": row.kind,
        "id": row.external_id,
        "features": row.features,
        "title": row.title,
        "available": row.available,
        "created": row.created,
        "updated": row.updated,
        "trained_by": list(trained_by),
    }


def save_items(session: Session, kind: str, items: Sequence[NewItem], now: datetime | None = None) -> list[ItemOutcome]:
    """Store items and return one outcome for each: what is given replaces what was stored. Of several with the same id
    the last counts. Raises ValueError for features that are not JSON, or a text that cannot be stored."""
    if not items:
        return []
    at, revision = utcnow(now), _next_revision(session, kind)
    last = {item.item: item for item in items}
    before = {row.external_id: row for row in _stored(session, kind, list(last))}
    outcomes: dict[str, ItemOutcome] = {}
    changed: list[dict[str, Any]] = []
    for name, item in last.items():
        row = before.get(name)
        is_new = row is None or row.deleted is not None
        outcomes[name] = "new" if is_new else "unchanged" if _content(row) == _content(item) else "changed"
        if outcomes[name] != "unchanged":
            created = at if row is None or is_new else row.created
            values = {"features": dict(item.features), "title": item.title, "available": item.available}
            times = {"created": created, "updated": at, "deleted": None}
            changed.append({"kind": kind, "external_id": name, "revision": revision, **values, **times})
    if changed:
        _upsert(session, changed)
    else:
        _return_revision(session, kind)
    return [outcomes[item.item] for item in items]


def set_available(
    session: Session, kind: str, items: Sequence[str], available: bool, now: datetime | None = None
) -> list[str]:
    """Let lists hold items, or not; return the ids that are stored."""
    revision = _next_revision(session, kind)
    rows = [row for row in _stored(session, kind, unique(items)) if row.deleted is None]
    other = [row.external_id for row in rows if row.available is not available]
    if other:
        _update(session, kind, other, {"available": available, "revision": revision, "updated": utcnow(now)})
    else:
        _return_revision(session, kind)
    return [row.external_id for row in rows]


def switch_items(
    session: Session,
    kind: str,
    items: Sequence[str],
    available: bool,
    trained: Collection[str] = (),
    now: datetime | None = None,
) -> list[str]:
    """Let lists hold items, or not: stored ones, and those that models were `trained` on, for which a row is made.
    Return the ids that are neither."""
    stored = set(set_available(session, kind, items, available, now))
    others = [item for item in unique(items) if item not in stored]
    save_items(session, kind, [NewItem(item, available=available) for item in others if item in trained], now)
    return [item for item in others if item not in trained]


def delete_items(session: Session, kind: str, items: Sequence[str], now: datetime | None = None) -> list[str]:
    """Delete items; return the ids that were stored. Their ids stay for a time, without anything else."""
    at = utcnow(now)
    values: dict[str, Any] = {"features": {}, "title": None, "available": True}
    values["revision"] = _next_revision(session, kind)
    ids = _update(session, kind, items, {**values, "updated": at, "deleted": at})
    if not ids:
        _return_revision(session, kind)
    old = ItemRecord.deleted < at - timedelta(days=TRACE_DAYS)
    session.execute(delete(table_of(ItemRecord)).where(ItemRecord.kind == kind, old))
    return ids


def find_item(session: Session, kind: str, item: str) -> ItemRecord:
    """Return an item. Raises NotFoundError where it is not stored, or was deleted."""
    row = session.get(ItemRecord, (kind, item), populate_existing=True)
    if row is None or row.deleted is not None:
        raise NotFoundError(f"no item with this id is stored for newcomers of kind '{kind}'")
    return row


def page_items(
    session: Session,
    kind: str,
    *,
    available: bool | None = None,
    since: datetime | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> KeysetPage[ItemRecord]:
    """Return a page of items, those that were changed last first, and of those changed at `since` or later only.

    Raises ValueError for a limit outside 1 to 1000 or a cursor of another list.
    """
    query = select(ItemRecord).where(ItemRecord.kind == kind, ItemRecord.deleted.is_(None))
    if available is not None:
        query = query.where(ItemRecord.available.is_(available))
    if since is not None:
        query = query.where(ItemRecord.updated >= since)
    keys = {ItemRecord.updated: datetime, ItemRecord.external_id: str}
    return newest_page(session, query, "items", keys, limit, cursor)


def count_items(session: Session, kind: str) -> int:
    """Return the number of items that are stored."""
    query = select(func.count()).select_from(ItemRecord)
    return session.scalar(query.where(ItemRecord.kind == kind, ItemRecord.deleted.is_(None))) or 0


def item_revisions(session: Session) -> dict[str, int]:
    """Return the number of the last change by kind."""
    rows = session.execute(select(ItemRevisionRecord.kind, ItemRevisionRecord.revision))
    return {row.kind: row.revision for row in rows}


def changed_items(session: Session, kind: str, after: int) -> tuple[list[Row[Any]], bool]:
    """Return items that were changed after a number, the oldest change first, deleted ones among them; and whether
    these are all. Rows have external_id, features, title, available, revision, created and deleted."""
    names = ("external_id", "features", "title", "available", "revision", "created", "deleted")
    columns = [getattr(ItemRecord, name) for name in names]
    query = select(*columns).where(ItemRecord.kind == kind).order_by(ItemRecord.revision)
    rows = session.execute(query.where(ItemRecord.revision > after).limit(CHANGE_ROWS)).all()
    if len(rows) < CHANGE_ROWS:
        return list(rows), True
    # A change may have been cut: all of it is read, however large it is.
    last = rows[-1].revision
    whole = [row for row in rows if row.revision < last]
    return whole + list(session.execute(query.where(ItemRecord.revision == last)).all()), False


def _next_revision(session: Session, kind: str) -> int:
    """Take the next number of a kind, and hold its row until the transaction ends."""
    new = insert_into(session, ItemRevisionRecord).values(kind=kind, revision=1)
    statement = new.on_conflict_do_update(
        index_elements=["kind"], set_={"revision": ItemRevisionRecord.revision + 1}
    ).returning(ItemRevisionRecord.revision)
    return int(session.execute(statement).scalar_one())


def _return_revision(session: Session, kind: str) -> None:
    """Give back the number that this transaction took and used for nothing: servers have nothing to make anew."""
    own = table_of(ItemRevisionRecord).c
    statement = update(table_of(ItemRevisionRecord)).where(own.kind == kind).values(revision=own.revision - 1)
    session.execute(statement)


def _stored(session: Session, kind: str, items: Sequence[str]) -> list[ItemRecord]:
    rows: list[ItemRecord] = []
    for chunk in in_chunks(items):
        query = select(ItemRecord).where(ItemRecord.kind == kind, ItemRecord.external_id.in_(chunk))
        rows += session.scalars(query.execution_options(populate_existing=True)).all()
    return rows


def _content(item: Any) -> tuple[Any, ...]:
    return dict(item.features), item.title, item.available


def _upsert(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    new = insert_into(session, ItemRecord)
    names = ("features", "title", "available", "revision", "created", "updated", "deleted")
    statement = new.on_conflict_do_update(
        index_elements=["kind", "external_id"], set_={name: new.excluded[name] for name in names}
    )
    session.execute(statement, list(rows))


def _update(session: Session, kind: str, items: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    ids: list[str] = []
    for chunk in in_chunks(unique(items)):
        statement = update(table_of(ItemRecord)).where(
            ItemRecord.kind == kind, ItemRecord.external_id.in_(chunk), ItemRecord.deleted.is_(None)
        )
        ids += session.scalars(statement.values(**values).returning(ItemRecord.external_id)).all()
    return ids
