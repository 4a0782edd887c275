"""Comparison of a database with the tables and views of this release."""

from __future__ import annotations

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database.engine import DEFAULT_OPTIONS, DatabaseOptions, connect, translate_error
from recsys_meta.store.database.migrate import check_revision, current_revision, newest_revision
from recsys_meta.store.tables import METADATA

VIEWS = (
    *("adaptation_daily", "cold_start_curve", "hardest_tasks", "online_quality", "outcome_sums", "split_periods"),
    "split_results",
)
"""Views of the database."""


def check_schema(url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> str:
    """Return the revision of a database that has every table, column and view of this release.

    Raises StoreError, with what is missing or what to do, for any other; StoreUnavailable where it cannot be asked.
    """
    revision = current_revision(url)
    if revision is None:
        raise StoreError("the database has no tables of recsys-meta; run `recsys-meta db upgrade`")
    check_revision(revision)
    if revision != newest_revision():
        raise StoreError(
            f"the database is at revision {revision}, not {newest_revision()}; run `recsys-meta db upgrade`"
        )
    missing = missing_objects(url, options)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise StoreError(
            f"the database says that it is at revision {revision}, but lacks {shown}: restore a backup, or start with "
            "an empty database and `recsys-meta db upgrade`"
        )
    return revision


def missing_objects(url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> list[str]:
    """Return the tables, columns and views of this release that a database lacks. Raises StoreUnavailable."""
    engine = connect(url, options)
    try:
        with engine.connect() as connection:
            seen = inspect(connection)
            present = {t: {c["name"] for c in seen.get_columns(t)} for t in seen.get_table_names()}
            views = set(seen.get_view_names())
    except SQLAlchemyError as error:
        raise translate_error(error, engine) from None
    finally:
        engine.dispose()
    missing = [f"table '{t.name}'" for t in METADATA.sorted_tables if t.name not in present]
    missing += [
        f"column '{t.name}.{c.name}'"
        for t in METADATA.sorted_tables
        for c in t.columns
        if t.name in present and c.name not in present[t.name]
    ]
    return missing + [f"view '{view}'" for view in VIEWS if view not in views]
