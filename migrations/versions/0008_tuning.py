"""Tuning studies and their trials: what `recsys-meta tune` searched, and what came of it.

Revises: 0007
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")
ID, NAME, SHORT, LONG = sa.String(200), sa.String(100), sa.String(20), sa.String(2000)
STATES = "status IN ('running', 'finished', 'pruned', 'failed', 'stopped', 'lost')"


def upgrade() -> None:
    op.create_table(
        "tuning_studies",
        _column("name", NAME),
        _column("learner", ID),
        _column("dataset", ID),
        _column("digest", ID),
        _column("objective", SHORT),
        _column("metric", ID),
        _column("direction", SHORT),
        _column("recipe", DOCUMENT),
        _column("space", DOCUMENT),
        _column("settings", DOCUMENT),
        _column("meta_features", DOCUMENT),
        _column("trials", KEY),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("name", name="pk_tuning_studies"),
        sa.CheckConstraint("direction IN ('maximize', 'minimize')", name=op.f("ck_tuning_studies_direction")),
    )
    op.create_index("ix_tuning_studies_created_name", "tuning_studies", ["created", "name"])
    op.create_index(
        "ix_tuning_studies_learner_objective_created", "tuning_studies", ["learner", "objective", "created"]
    )
    op.create_table(
        "tuning_trials",
        _column("study", NAME),
        _column("number", KEY),
        _column("status", SHORT),
        _column("origin", ID),
        _column("params", DOCUMENT),
        _column("value", sa.Double(), null=True),
        _column("validations", DOCUMENT),
        _column("steps", KEY),
        _column("reason", LONG, null=True),
        _column("worker", ID),
        _column("started", TIME),
        _column("heartbeat", TIME),
        _column("finished", TIME, null=True),
        sa.PrimaryKeyConstraint("study", "number", name="pk_tuning_trials"),
        sa.ForeignKeyConstraint(["study"], ["tuning_studies.name"], "fk_tuning_trials_study", ondelete="CASCADE"),
        sa.CheckConstraint(STATES, name=op.f("ck_tuning_trials_status")),
    )


def downgrade() -> None:
    op.drop_table("tuning_trials")
    for columns in ("learner_objective_created", "created_name"):
        op.drop_index(f"ix_tuning_studies_{columns}", table_name="tuning_studies")
    op.drop_table("tuning_studies")


def _column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, autoincrement=False)
