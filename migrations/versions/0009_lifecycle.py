"""The life of a model: retired models, archived and deleted versions, the default of each kind. A secret of the
installation keys the digests of erased entities, which could be tried out before.

Revises: 0008
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ID, NAME = sa.String(200), sa.String(100)
OLD_ACTIONS = "action IN ('publish', 'promote', 'rollback')"
NEW_ACTIONS = "action IN ('publish', 'promote', 'rollback', 'retire')"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", NAME, nullable=False),
        sa.Column("value", NAME, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )
    op.create_table(
        "default_models",
        sa.Column("kind", NAME, nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("actor", ID),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("kind", name="pk_default_models"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_default_models_model", ondelete="CASCADE"),
    )
    op.create_index("ix_default_models_model", "default_models", ["model"])
    op.add_column("model_versions", sa.Column("archived", TIME))
    op.add_column("model_versions", sa.Column("deleted", TIME))
    _set_actions(NEW_ACTIONS)
    key = secrets.token_hex(32)
    insert = sa.text("INSERT INTO secrets (name, value, created) VALUES ('installation', :key, :now)")
    op.get_bind().execute(insert.bindparams(sa.bindparam("now", type_=TIME)), {"key": key, "now": datetime.now(UTC)})
    _key_digests(bytes.fromhex(key))


def downgrade() -> None:
    # A model that was retired has no live version by the newest row of its history: that row goes.
    op.execute("DELETE FROM alias_history WHERE action = 'retire'")
    _set_actions(OLD_ACTIONS)
    op.drop_column("model_versions", "deleted")
    op.drop_column("model_versions", "archived")
    op.drop_index("ix_default_models_model", table_name="default_models")
    op.drop_table("default_models")
    op.drop_table("secrets")


def _set_actions(condition: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_alias_history_action"), "alias_history", type_="check")
        op.create_check_constraint(op.f("ck_alias_history_action"), "alias_history", condition)
        return
    # SQLite cannot change a check: the table is made anew.
    op.drop_index("ix_alias_history_model_version", table_name="alias_history")
    op.create_table(
        "alias_history_new",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("model", ID, nullable=False),
        sa.Column("alias", NAME, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("version", ID, nullable=False),
        sa.Column("previous", ID),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("actor", ID),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_history"),
        sa.UniqueConstraint("model", "alias", "sequence", name="uq_alias_history_model_alias_sequence"),
        sa.CheckConstraint(condition, name=op.f("ck_alias_history_action")),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["model_versions.model", "model_versions.version"],
            "fk_alias_history_model_version",
            ondelete="CASCADE",
        ),
    )
    op.execute("INSERT INTO alias_history_new SELECT * FROM alias_history")
    op.drop_table("alias_history")
    op.rename_table("alias_history_new", "alias_history")
    op.create_index("ix_alias_history_model_version", "alias_history", ["model", "version"])


def _key_digests(key: bytes) -> None:
    """Replace the plain digests of erased entities, in receipts and in the audit log, by keyed digests of them."""
    bind = op.get_bind()
    for table, column, where in (
        ("erasures", "entity_digest", "1 = 1"),
        ("audit", "target", "action = 'delete entity'"),
    ):
        rows = bind.execute(sa.text(f"SELECT DISTINCT {column} FROM {table} WHERE {where}")).scalars().all()  # noqa: S608
        for old in rows:
            new = hmac.new(key, old.encode(), hashlib.sha256).hexdigest()
            update = f"UPDATE {table} SET {column} = :new WHERE {column} = :old AND {where}"  # noqa: S608
            bind.execute(sa.text(update), {"new": new, "old": old})
