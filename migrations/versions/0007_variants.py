"""Adaptations name the arm of a split that answered, and the daily view tells arms apart: a version may be two of them.

Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

VIEW = """
CREATE VIEW adaptation_daily AS
SELECT
    {day} AS day,
    {arms},
    kind,
    served_by,
    CAST(SUM(answers) AS BIGINT) AS adaptations,
    COUNT(DISTINCT entity) AS entities,
    SUM(CAST(support_size AS DOUBLE PRECISION) * answers) / SUM(answers) AS support_size,
    AVG(loss_before) AS loss_before,
    AVG(loss_after) AS loss_after,
    AVG(CASE WHEN loss_after < loss_before THEN 1.0E0 WHEN loss_after >= loss_before THEN 0.0E0 END) AS improved,
    AVG(gradient_norm) AS gradient_norm,
    SUM(ms * answers) / SUM(answers) AS ms,
    MAX(ms) AS slowest_ms
FROM adaptations
GROUP BY {day}, {arms}, kind, served_by
"""
DAY = {"sqlite": "DATE(created)", "postgresql": "CAST(created AT TIME ZONE 'UTC' AS DATE)"}


def upgrade() -> None:
    op.execute("DROP VIEW adaptation_daily")
    op.add_column("adaptations", sa.Column("variant", sa.String(50)))
    _create("model_version, variant")


def downgrade() -> None:
    op.execute("DROP VIEW adaptation_daily")
    op.drop_column("adaptations", "variant")
    _create("model_version")


def _create(arms: str) -> None:
    op.execute(VIEW.format(day=DAY[op.get_bind().dialect.name], arms=arms))
