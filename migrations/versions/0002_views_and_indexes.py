"""Indexes for the lists that are paged and filtered, and the views that people read.

Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("runs", ("started", "id")),
    ("runs", ("status", "started")),
    ("latest_metrics", ("key", "value")),
    ("evaluations", ("dataset", "scenario", "metric", "method", "shots")),
    ("evaluations", ("model", "created")),
    ("model_versions", ("version",)),
    ("model_versions", ("run",)),
    ("alias_history", ("model", "version")),
    ("events", ("kind", "entity", "time", "event_id")),
    ("events", ("kind", "received")),
    ("adaptations", ("created", "id")),
    ("adaptations", ("kind", "entity", "created")),
    ("adaptations", ("model_version", "created")),
    ("erasures", ("entity_digest", "at")),
)

# Rows saved together share `created`: the newest set counts, and within it the mean over seeds where there is one.
COLD_START_CURVE = """
CREATE VIEW cold_start_curve AS
SELECT model, model_version, dataset, scenario, method, role, metric, shots, value, low, high, n, created
FROM (
    SELECT evaluations.*, ROW_NUMBER() OVER (
        PARTITION BY model, dataset, scenario, method, metric, shots
        ORDER BY created DESC, CASE WHEN seed IS NULL THEN 0 ELSE 1 END, id DESC
    ) AS place
    FROM evaluations
) AS ranked
WHERE place = 1
"""

# {day} is the one expression that the dialects spell differently. `improved` is the share whose loss went down.
ADAPTATION_DAILY = """
CREATE VIEW adaptation_daily AS
SELECT
    {day} AS day,
    model_version,
    kind,
    served_by,
    COUNT(*) AS adaptations,
    COUNT(DISTINCT entity) AS entities,
    AVG(CAST(support_size AS DOUBLE PRECISION)) AS support_size,
    AVG(loss_before) AS loss_before,
    AVG(loss_after) AS loss_after,
    AVG(CASE WHEN loss_after < loss_before THEN 1.0E0 WHEN loss_after >= loss_before THEN 0.0E0 END) AS improved,
    AVG(gradient_norm) AS gradient_norm,
    AVG(ms) AS ms,
    MAX(ms) AS slowest_ms
FROM adaptations
GROUP BY {day}, model_version, kind, served_by
"""
DAY = {"sqlite": "DATE(created)", "postgresql": "CAST(created AT TIME ZONE 'UTC' AS DATE)"}

# Each bucket as its run last saw it; the curriculum need not report every bucket at every step.
HARDEST_TASKS = """
CREATE VIEW hardest_tasks AS
SELECT
    seen.run, runs.dataset, runs.learner, seen.bucket, seen.step, seen.hardness, seen.weight,
    RANK() OVER (
        PARTITION BY seen.run
        ORDER BY CASE WHEN seen.hardness IS NULL THEN 1 ELSE 0 END, seen.hardness DESC
    ) AS rank
FROM (
    SELECT curriculum.*, ROW_NUMBER() OVER (PARTITION BY run, bucket ORDER BY step DESC) AS place
    FROM curriculum
) AS seen
JOIN runs ON runs.id = seen.run
WHERE seen.place = 1
"""


def upgrade() -> None:
    for table, columns in INDEXES:
        op.create_index(_name(table, columns), table, list(columns))
    op.execute(COLD_START_CURVE)
    op.execute(ADAPTATION_DAILY.format(day=DAY[op.get_bind().dialect.name]))
    op.execute(HARDEST_TASKS)


def downgrade() -> None:
    for view in ("hardest_tasks", "adaptation_daily", "cold_start_curve"):
        op.execute(f"DROP VIEW {view}")
    for table, columns in reversed(INDEXES):
        op.drop_index(_name(table, columns), table_name=table)


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"
