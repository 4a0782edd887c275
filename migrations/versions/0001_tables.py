"""The tables of the contract.

Types are spelt out here and not taken from the application: a revision must mean tomorrow what it means today.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
NUMBER: sa.Double[float] = sa.Double()
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")
ID, NAME, SHORT = sa.String(200), sa.String(100), sa.String(20)


def upgrade() -> None:
    _runs()
    _evaluations()
    _models()
    _newcomers()


def downgrade() -> None:
    for name in (
        *("erasures", "adaptations", "events", "entities", "alias_history", "model_versions", "models"),
        *("evaluations", "curriculum", "latest_metrics", "metrics", "runs"),
    ):
        op.drop_table(name)


def _column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, autoincrement=False)


def _number_key() -> sa.Column[Any]:
    return sa.Column("id", KEY, nullable=False, autoincrement=True)


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run"], ["runs.id"], f"fk_{table}_run", ondelete="CASCADE")


def _runs() -> None:
    op.create_table(
        "runs",
        _column("id", NAME),
        _column("recipe", ID),
        _column("dataset", ID),
        _column("learner", ID),
        _column("config", DOCUMENT),
        _column("seed", KEY),
        _column("device", ID, null=True),
        _column("code_version", ID, null=True),
        _column("status", SHORT),
        _column("reason", sa.String(2000), null=True),
        _column("started", TIME),
        _column("finished", TIME, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("status IN ('running', 'finished', 'failed', 'stopped')", name=op.f("ck_runs_status")),
    )
    op.create_table(
        "metrics",
        _column("run", NAME),
        _column("key", ID),
        _column("step", KEY),
        _column("value", NUMBER, null=True),
        sa.PrimaryKeyConstraint("run", "key", "step", name="pk_metrics"),
        _of_run("metrics"),
    )
    op.create_table(
        "latest_metrics",
        _column("run", NAME),
        _column("key", ID),
        _column("step", KEY),
        _column("value", NUMBER, null=True),
        _column("at", TIME),
        sa.PrimaryKeyConstraint("run", "key", name="pk_latest_metrics"),
        _of_run("latest_metrics"),
    )
    op.create_table(
        "curriculum",
        _column("run", NAME),
        _column("step", KEY),
        _column("bucket", ID),
        _column("hardness", NUMBER, null=True),
        _column("weight", NUMBER, null=True),
        sa.PrimaryKeyConstraint("run", "step", "bucket", name="pk_curriculum"),
        _of_run("curriculum"),
    )


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        _number_key(),
        _column("model", ID, null=True),
        _column("model_version", ID, null=True),
        _column("dataset", ID),
        _column("scenario", ID),
        _column("method", ID),
        _column("role", SHORT),
        _column("seed", KEY, null=True),
        _column("shots", KEY),
        _column("metric", ID),
        _column("value", NUMBER, null=True),
        _column("low", NUMBER, null=True),
        _column("high", NUMBER, null=True),
        _column("n", KEY),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.CheckConstraint("role IN ('learner', 'flagship', 'baseline')", name=op.f("ck_evaluations_role")),
    )


def _models() -> None:
    op.create_table(
        "models",
        _column("name", ID),
        _column("created", TIME),
        _column("updated", TIME),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_table(
        "model_versions",
        _column("model", ID),
        _column("version", ID),
        _column("path", sa.String(4000)),
        _column("run", NAME, null=True),
        _column("metrics", DOCUMENT),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], "fk_model_versions_model", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], "fk_model_versions_run", ondelete="SET NULL"),
    )
    op.create_table(
        "alias_history",
        _number_key(),
        _column("model", ID),
        _column("alias", NAME),
        _column("sequence", KEY),
        _column("version", ID),
        _column("previous", ID, null=True),
        _column("action", SHORT),
        _column("actor", ID, null=True),
        _column("at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_alias_history"),
        sa.UniqueConstraint("model", "alias", "sequence", name="uq_alias_history_model_alias_sequence"),
        sa.CheckConstraint("action IN ('publish', 'promote', 'rollback')", name=op.f("ck_alias_history_action")),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            "fk_alias_history_model_version",
            ondelete="CASCADE",
        ),
    )


def _newcomers() -> None:
    op.create_table(
        "entities",
        _column("kind", NAME),
        _column("external_id", ID),
        _column("features", DOCUMENT),
        _column("created", TIME),
        _column("updated", TIME),
        sa.PrimaryKeyConstraint("kind", "external_id", name="pk_entities"),
    )
    op.create_table(
        "events",
        _column("kind", NAME),
        _column("event_id", ID),
        _column("entity", ID),
        _column("item", ID),
        _column("label", NUMBER),
        _column("time", TIME),
        _column("context", DOCUMENT, null=True),
        _column("received", TIME),
        sa.PrimaryKeyConstraint("kind", "event_id", name="pk_events"),
    )
    op.create_table(
        "adaptations",
        _number_key(),
        _column("model_version", ID),
        _column("kind", NAME),
        _column("entity", ID),
        _column("support_size", KEY),
        _column("steps", KEY),
        _column("loss_before", NUMBER, null=True),
        _column("loss_after", NUMBER, null=True),
        _column("gradient_norm", NUMBER, null=True),
        _column("ms", NUMBER),
        _column("served_by", SHORT),
        _column("created", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_adaptations"),
    )
    op.create_table(
        "erasures",
        _column("receipt", NAME),
        _column("kind", NAME),
        _column("entity_digest", NAME),
        _column("entities", KEY),
        _column("events", KEY),
        _column("adaptations", KEY),
        _column("at", TIME),
        _column("confirmed", TIME),
        sa.PrimaryKeyConstraint("receipt", name="pk_erasures"),
    )
