"""Alerts: versions in service that are worse than popularity for those who are served.

Revises: 0012
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID, NAME, TIME = sa.String(200), sa.String(100), sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "alerts",
        _column("model", ID),
        _column("model_version", ID),
        _column("rule", NAME),
        _column("opened", TIME),
        sa.Column("ended", TIME),
        _column("checked", TIME),
        _column("difference", sa.Double()),
        _column("low", sa.Double()),
        _column("high", sa.Double()),
        _column("events", KEY),
        _column("entities", KEY),
        sa.PrimaryKeyConstraint("model", "model_version", "rule", name="pk_alerts"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_alerts_model", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table("alerts")


def _column(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, autoincrement=False)
