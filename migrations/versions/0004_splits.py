"""Splits: versions of a model that answer side by side.

Revises: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
ID, NAME = sa.String(200), sa.String(100)


def upgrade() -> None:
    op.create_table(
        "splits",
        sa.Column("id", KEY, nullable=False, autoincrement=True),
        _column("model", ID),
        _column("sequence", KEY),
        _column("place", KEY),
        _column("label", sa.String(50)),
        _column("version", ID, null=True),
        _column("weight", sa.Double()),
        _column("salt", NAME),
        _column("actor", ID, null=True),
        _column("at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_splits"),
        sa.UniqueConstraint("model", "sequence", "place", name="uq_splits_model_sequence_place"),
        sa.CheckConstraint("weight >= 0 AND weight <= 1", name=op.f("ck_splits_weight")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_splits_model", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            name="fk_splits_model_version",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_splits_model_version", "splits", ["model", "version"])


def downgrade() -> None:
    op.drop_index("ix_splits_model_version", table_name="splits")
    op.drop_table("splits")


def _column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, autoincrement=False)
