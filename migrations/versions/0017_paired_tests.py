"""Paired tests of evaluations, over all newcomers and by group, and results of single newcomers.

Revises: 0016
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")
ID, NAME, TIME = sa.String(200), sa.String(100), sa.DateTime(timezone=True)
INDEXES = (
    ("paired_tests", ("dataset", "created")),
    ("paired_tests", ("created",)),
    ("newcomer_results", ("dataset", "created")),
    ("newcomer_results", ("created",)),
    ("newcomer_results", ("kind", "entity")),
)


def upgrade() -> None:
    op.create_table(
        "paired_tests",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        *(_column(name, ID) for name in ("dataset", "scenario", "method", "against")),
        _column("reference", sa.String(20)),
        *(_column(name, ID, nullable=True) for name in ("segment", "part")),
        *(_column(name, sa.Double(), nullable=True) for name in ("part_from", "part_to")),
        _column("metric", ID),
        _column("shots", KEY),
        *(_column(name, sa.Double(), nullable=True) for name in ("value", "value_against")),
        *(_column(name, sa.Double(), nullable=True) for name in ("difference", "low", "high", "p")),
        _column("verdict", sa.String(20)),
        _column("seeds", KEY),
        _column("n", KEY),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_paired_tests"),
        sa.CheckConstraint("reference IN ('baseline', 'unadapted')", name="reference"),
        sa.CheckConstraint("verdict IN ('better', 'worse', 'open')", name="verdict"),
    )
    op.create_table(
        "newcomer_results",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        *(_column(name, ID) for name in ("dataset", "scenario", "method")),
        _column("seed", KEY),
        _column("kind", NAME),
        _column("entity", ID),
        _column("metric", ID),
        _column("shots", KEY),
        _column("value", sa.Double()),
        *(_column(name, sa.Double(), nullable=True) for name in ("value_unadapted", "value_baseline", "gain")),
        _column("place", KEY, nullable=True),
        _column("is_random", sa.Boolean()),
        _column("support_size", KEY),
        _column("popularity", sa.Double(), nullable=True),
        _column("features_known", KEY),
        _column("features", DOCUMENT),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_newcomer_results"),
    )
    for table, columns in INDEXES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def downgrade() -> None:
    for table, columns in reversed(INDEXES):
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table_name=table)
    op.drop_table("newcomer_results")
    op.drop_table("paired_tests")


def _column(name: str, kind: Any, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable, autoincrement=False)
