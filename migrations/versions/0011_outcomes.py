"""Outcomes: what became of each event, by the list shown before it and by the state before it.

Revises: 0010
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID, NAME = sa.String(200), sa.String(100)
FIGURES = ("hit_1", "hit_5", "hit_10", "reciprocal_rank", "popular_hit_10", "loss", "loss_unadapted")
INDEXES = (("created",), ("day",), ("kind", "entity", "created"), ("model", "model_version", "variant", "created"))


def upgrade() -> None:
    op.create_table(
        "outcomes",
        _column("kind", NAME, nullable=False),
        _column("event_id", ID, nullable=False),
        _column("entity", ID, nullable=False),
        _column("model", ID, nullable=False),
        _column("model_version", ID, nullable=False),
        _column("variant", sa.String(50)),
        _column("support_size", KEY, nullable=False),
        _column("impression", KEY),
        _column("rank", KEY),
        *(_column(name, sa.Double()) for name in FIGURES),
        _column("created", sa.DateTime(timezone=True), nullable=False),
        _column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "event_id", name="pk_outcomes"),
    )
    for columns in INDEXES:
        op.create_index(f"ix_outcomes_{'_'.join(columns)}", "outcomes", list(columns))
    op.add_column("erasures", sa.Column("outcomes", KEY, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("erasures", "outcomes")
    for columns in reversed(INDEXES):
        op.drop_index(f"ix_outcomes_{'_'.join(columns)}", table_name="outcomes")
    op.drop_table("outcomes")


def _column(name: str, kind: Any, nullable: bool = True) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)
