"""Answers that needed no adaptation share a row, which says how many they were; the daily view counts them all.

Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

VIEW = """
CREATE VIEW adaptation_daily AS
SELECT
    {day} AS day,
    model_version,
    kind,
    served_by,
    {count} AS adaptations,
    COUNT(DISTINCT entity) AS entities,
    {support_size} AS support_size,
    AVG(loss_before) AS loss_before,
    AVG(loss_after) AS loss_after,
    AVG(CASE WHEN loss_after < loss_before THEN 1.0E0 WHEN loss_after >= loss_before THEN 0.0E0 END) AS improved,
    AVG(gradient_norm) AS gradient_norm,
    {ms} AS ms,
    MAX(ms) AS slowest_ms
FROM adaptations
GROUP BY {day}, model_version, kind, served_by
"""
DAY = {"sqlite": "DATE(created)", "postgresql": "CAST(created AT TIME ZONE 'UTC' AS DATE)"}
ROWS = {
    "count": "COUNT(*)",
    "support_size": "AVG(CAST(support_size AS DOUBLE PRECISION))",
    "ms": "AVG(ms)",
}
ANSWERS = {
    "count": "CAST(SUM(answers) AS BIGINT)",
    "support_size": "SUM(CAST(support_size AS DOUBLE PRECISION) * answers) / SUM(answers)",
    "ms": "SUM(ms * answers) / SUM(answers)",
}


def upgrade() -> None:
    op.execute("DROP VIEW adaptation_daily")
    op.add_column("adaptations", sa.Column("answers", _key(), nullable=False, server_default="1"))
    _create(ANSWERS)


def downgrade() -> None:
    op.execute("DROP VIEW adaptation_daily")
    op.drop_column("adaptations", "answers")
    _create(ROWS)


def _create(columns: dict[str, str]) -> None:
    op.execute(VIEW.format(day=DAY[op.get_bind().dialect.name], **columns))


def _key() -> sa.BigInteger:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")
