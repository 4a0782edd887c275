"""Impressions: the lists that were shown. Receipts of erasures count what was deleted of them.

Revises: 0009
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID, NAME = sa.String(200), sa.String(100)
INDEXES = (("created", "id"), ("kind", "entity", "created"), ("model_version", "created"))


def upgrade() -> None:
    op.create_table(
        "impressions",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        _column("request_id", NAME),
        _column("model", ID),
        _column("model_version", ID),
        _column("variant", sa.String(50), nullable=True),
        _column("kind", NAME),
        _column("entity", ID),
        _column("served_by", sa.String(20)),
        _column("support_size", KEY),
        _column("first_rank", KEY),
        _column("items", sa.JSON().with_variant(JSONB(), "postgresql")),
        _column("propensity", sa.Double()),
        _column("sample_rate", sa.Double()),
        _column("answers", KEY),
        _column("created", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_impressions"),
    )
    for columns in INDEXES:
        op.create_index(f"ix_impressions_{'_'.join(columns)}", "impressions", list(columns))
    op.add_column("erasures", sa.Column("impressions", KEY, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("erasures", "impressions")
    for columns in reversed(INDEXES):
        op.drop_index(f"ix_impressions_{'_'.join(columns)}", table_name="impressions")
    op.drop_table("impressions")


def _column(name: str, kind: Any, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)
