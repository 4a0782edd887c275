"""Alembic's environment: run the revisions over the connection that `recsys_meta.store.database.migrate` passes in.

A new revision is written by hand: copy the newest one. A test compares the migrated schema with the tables.
"""

from alembic import context
from sqlalchemy import Connection

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database.migrate import VERSION_TABLE
from recsys_meta.store.tables import METADATA


def run() -> None:
    """Run the revisions in the transaction that the connection is in."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise StoreError("run migrations through `recsys-meta db upgrade`, which takes the lock they need")
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
