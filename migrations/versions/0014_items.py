"""Items: features, titles and availability, with the number of the last change; events by their item.

Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
ID, NAME = sa.String(200), sa.String(100)


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("kind", NAME, nullable=False),
        sa.Column("external_id", ID, nullable=False),
        sa.Column("features", DOCUMENT, nullable=False),
        sa.Column("title", ID),
        sa.Column("available", sa.Boolean(), nullable=False),
        sa.Column("revision", KEY, nullable=False, autoincrement=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("updated", TIME, nullable=False),
        sa.Column("deleted", TIME),
        sa.PrimaryKeyConstraint("kind", "external_id", name="pk_items"),
    )
    op.create_index("ix_items_kind_revision", "items", ["kind", "revision"])
    op.create_index("ix_items_kind_updated_external_id", "items", ["kind", "updated", "external_id"])
    op.create_table(
        "item_revisions",
        sa.Column("kind", NAME, nullable=False),
        sa.Column("revision", KEY, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("kind", name="pk_item_revisions"),
    )
    op.create_index("ix_events_kind_item_received", "events", ["kind", "item", "received"])


def downgrade() -> None:
    op.drop_index("ix_events_kind_item_received", table_name="events")
    op.drop_table("item_revisions")
    for columns in ("kind_updated_external_id", "kind_revision"):
        op.drop_index(f"ix_items_{columns}", table_name="items")
    op.drop_table("items")
