"""Log of impressions: a row for each list that was shown, written outside of requests."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import table_of
from recsys_meta.store.entities.adaptations import ServedBy, drop_erased
from recsys_meta.store.entities.entities import hold_erasure_lock
from recsys_meta.store.entities.tables import ImpressionRecord

MOST_ITEMS = 100
"""Items of a list that are kept, its first ones."""


class NewImpression(NamedTuple):
    """A list that was shown. `content`: the JSON object of the response, whose `items` have `rank` and `item`; it is
    read when the row is written, not while somebody waits. The rest is as in `ImpressionRecord`."""

    request_id: str
    model: str
    model_version: str
    variant: str | None
    kind: str
    entity: str
    served_by: ServedBy
    support_size: int
    content: bytes
    created: datetime
    sample_rate: float = 1.0
    propensity: float = 1.0
    answers: int = 1


def save_impressions(session: Session, rows: Sequence[NewImpression]) -> int:
    """Write rows in bulk, merged by `merge_impressions`; return how many were written.

    Lists without an item are left out, and rows of entities that were erased after their creation.
    """
    if not rows:
        return 0
    hold_erasure_lock(session, exclusive=False)
    impressions = merge_impressions(drop_erased(session, rows))
    records = [columns for impression in impressions if (columns := _columns(impression))["items"]]
    if records:
        session.execute(insert(table_of(ImpressionRecord)), records)
    return len(records)


def merge_impressions(rows: Sequence[NewImpression]) -> list[NewImpression]:
    """Return one row for all answers that showed the same list to the same entity: it has the first one's request."""
    groups: dict[tuple[object, ...], list[NewImpression]] = {}
    for row in rows:
        key = (row.model, row.model_version, row.variant, row.kind, row.entity, row.served_by, row.content)
        groups.setdefault(key, []).append(row)
    return [_merge_group(group) for group in groups.values()]


def is_sampled(kind: str, entity: str, rate: float) -> bool:
    """Return whether the lists of an entity are kept: the same in every process, and for all of its lists."""
    if rate >= 1 or rate <= 0:
        return rate >= 1
    digest = blake2b(f"{kind}\0{entity}".encode(errors="surrogatepass"), digest_size=8, person=b"impression").digest()
    return int.from_bytes(digest, "big") < rate * 2**64


def recent_impressions(
    session: Session, kind: str, entity: str, since: datetime, until: datetime, limit: int = 100
) -> list[ImpressionRecord]:
    """Return the newest lists shown to an entity between two times, both included, newest first."""
    table = ImpressionRecord
    query = select(table).where(table.kind == kind, table.entity == entity, table.created.between(since, until))
    return list(session.scalars(query.order_by(table.created.desc(), table.id.desc()).limit(limit)))


def prune_impressions(session: Session, before: datetime) -> int:
    """Delete impressions created before a time; return how many."""
    old = ImpressionRecord.created < before
    count = session.scalar(select(func.count()).select_from(ImpressionRecord).where(old)) or 0
    session.execute(delete(table_of(ImpressionRecord)).where(old))
    return count


def _merge_group(rows: Sequence[NewImpression]) -> NewImpression:
    # An erasure removes older rows, so the merged row is as old as its oldest answer.
    return rows[0]._replace(answers=sum(row.answers for row in rows), created=min(row.created for row in rows))


def _columns(row: NewImpression) -> dict[str, Any]:
    columns = row._asdict()
    items = orjson.loads(columns.pop("content"))["items"][:MOST_ITEMS]
    first_rank = items[0]["rank"] if items else 1
    return {**columns, "first_rank": first_rank, "items": [one["item"] for one in items]}
