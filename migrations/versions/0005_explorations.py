"""Explorations: which entity was tried in the first place, and how likely that was.

Revises: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID, NAME = sa.String(200), sa.String(100)


def upgrade() -> None:
    op.create_table(
        "explorations",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        _column("request_id", NAME),
        _column("model", ID),
        _column("model_version", ID),
        _column("kind", NAME),
        _column("entity", ID),
        _column("item", ID),
        _column("candidates", KEY),
        _column("propensity", sa.Double()),
        _column("seed", KEY),
        _column("created", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_explorations"),
    )
    op.create_index("ix_explorations_created_id", "explorations", ["created", "id"])
    op.create_index("ix_explorations_kind_entity_created", "explorations", ["kind", "entity", "created"])


def downgrade() -> None:
    for columns in ("kind_entity_created", "created_id"):
        op.drop_index(f"ix_explorations_{columns}", table_name="explorations")
    op.drop_table("explorations")


def _column(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, autoincrement=False)
