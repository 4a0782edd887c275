"""How alembic reaches the database: over the connection that `recsys_meta.store.migrate` hands in.

To write a new revision by hand, copy the newest one; a test says whether it and the tables agree.
"""

from alembic import context
from sqlalchemy import Connection

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database.base import Base


def run() -> None:
    """Run the revisions in the transaction that the connection is in."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise StoreError("run migrations through `recsys-meta db upgrade`, which takes the lock they need")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
