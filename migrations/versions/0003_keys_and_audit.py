"""Keys of the API, and the record of what administrators did.

Revises: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
ID, NAME = sa.String(200), sa.String(100)

INDEXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("api_keys", ("name",)),
    ("audit", ("at", "id")),
    ("audit", ("action", "at")),
    ("audit", ("actor", "at")),
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        _column("id", NAME),
        _column("name", ID),
        _column("digest", NAME),
        _column("scopes", NAME),
        _column("created", TIME),
        _column("expires", TIME, null=True),
        _column("revoked", TIME, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
    )
    op.create_table(
        "audit",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        _column("at", TIME),
        _column("actor", ID),
        _column("action", NAME),
        _column("target", sa.String(500)),
        _column("request_id", NAME, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    for table, columns in INDEXES:
        op.create_index(_name(table, columns), table, list(columns))


def downgrade() -> None:
    for table, columns in reversed(INDEXES):
        op.drop_index(_name(table, columns), table_name=table)
    op.drop_table("audit")
    op.drop_table("api_keys")


def _column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, autoincrement=False)


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"
