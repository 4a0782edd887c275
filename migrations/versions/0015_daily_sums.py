"""Days of the views `online_quality` and `adaptation_daily` are kept once they are over: no view reads all rows.

A day whose rows changed stands in `unsummed_days`, noted by triggers whoever changes them; the views compute such days
from the rows and take all others from `outcome_days` and `adaptation_days`. What is kept of a day is what the view
said of it.

Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

from migrations.outcome_figures import FIGURES, PER_ENTITY, RATES, SUMS

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME, LABEL, ID = sa.String(100), sa.String(50), sa.String(200)

# The rows of a day, and the day of a row, in each dialect. PostgreSQL makes one aggregate a day, by the index of days
# or times, whatever it takes the number of days to be; SQLite joins in the order that is written.
DAY_OF_ROW = {
    "sqlite": {"outcomes": "{row}.day", "adaptations": "DATE({row}.created)"},
    "postgresql": {"outcomes": "day", "adaptations": "CAST(created AT TIME ZONE 'UTC' AS DATE)"},
}
ROWS_OF_DAY = {
    "sqlite": {
        "outcomes": "{table}.day = days.day",
        "adaptations": "{table}.created >= days.day AND {table}.created < DATE(days.day, '+1 day')",
    },
    "postgresql": {
        "outcomes": "day = days.day",
        "adaptations": "created >= CAST(days.day AS TIMESTAMP) AT TIME ZONE 'UTC'"
        " AND created < CAST(days.day + 1 AS TIMESTAMP) AT TIME ZONE 'UTC'",
    },
}
UNSUMMED = {
    "sqlite": "SELECT days.day AS day, {columns} FROM unsummed_days AS days CROSS JOIN {table}"
    " WHERE days.source = '{table}' AND {rows} GROUP BY days.day, {keys}",
    "postgresql": "SELECT days.day AS day, of_day.* FROM unsummed_days AS days"
    " CROSS JOIN LATERAL (SELECT {columns} FROM {table} WHERE {rows} GROUP BY {keys}) AS of_day"
    " WHERE days.source = '{table}'",
}


def _unsummed(dialect: str, table: str, keys: str, figures: str) -> str:
    """Figures of the groups of each day whose rows changed."""
    rows = ROWS_OF_DAY[dialect][table].format(table=table)
    return UNSUMMED[dialect].format(table=table, rows=rows, keys=keys, columns=f"{keys}, {figures}")


SUMMED = "FROM {kept} WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = '{table}')"

ADAPTATION_KEYS = "model_version, variant, kind, served_by"
ADAPTATION_FIGURES = """
    CAST(SUM(answers) AS BIGINT) AS adaptations,
    COUNT(DISTINCT entity) AS entities,
    SUM(CAST(support_size AS DOUBLE PRECISION) * answers) / SUM(answers) AS support_size,
    AVG(loss_before) AS loss_before,
    AVG(loss_after) AS loss_after,
    AVG(CASE WHEN loss_after < loss_before THEN 1.0E0 WHEN loss_after >= loss_before THEN 0.0E0 END) AS improved,
    AVG(gradient_norm) AS gradient_norm,
    SUM(ms * answers) / SUM(answers) AS ms,
    MAX(ms) AS slowest_ms
"""
ADAPTATION_COLUMNS = (
    "day, model_version, variant, kind, served_by, adaptations, entities, support_size, loss_before, loss_after,"
    " improved, gradient_norm, ms, slowest_ms"
)

OUTCOME_KEYS = "model, model_version, variant, kind, support_size"
OUTCOME_COLUMNS = (
    f"day, {OUTCOME_KEYS}, events, entities, lists, hit_1, hit_5, hit_10, hit_10_low, hit_10_high, reciprocal_rank,"
    " compared, compared_hit_10, popular_hit_10, judged, loss, loss_unadapted, gain, gain_low, gain_high"
)


def _online_quality(dialect: str) -> str:
    per_entity = _unsummed(dialect, "outcomes", f"{OUTCOME_KEYS}, entity", PER_ENTITY)
    return f"""
CREATE VIEW online_quality AS
WITH per_entity AS (
    {per_entity}
), sums AS (
    SELECT day, {OUTCOME_KEYS}, {SUMS} FROM per_entity GROUP BY day, {OUTCOME_KEYS}
), rates AS (
    SELECT day, {OUTCOME_KEYS}, {RATES} FROM sums
)
SELECT day, {OUTCOME_KEYS}, events, entities, lists, {FIGURES} FROM rates
UNION ALL
SELECT {OUTCOME_COLUMNS} {SUMMED.format(kept="outcome_days", table="outcomes")}
"""  # noqa: S608 (of constants)


def _adaptation_daily(dialect: str) -> str:
    return f"""
CREATE VIEW adaptation_daily AS
{_unsummed(dialect, "adaptations", ADAPTATION_KEYS, ADAPTATION_FIGURES)}
UNION ALL
SELECT {ADAPTATION_COLUMNS} {SUMMED.format(kept="adaptation_days", table="adaptations")}
"""


# A writer locks the row of its day until it commits, and whoever sums a day does so too: none misses the other's rows.
POSTGRES_FUNCTION = """
CREATE FUNCTION note_{table}_days() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO unsummed_days (source, day)
    SELECT DISTINCT '{table}', {day} FROM changed ORDER BY 2
    ON CONFLICT (source, day) DO UPDATE SET day = excluded.day WHERE false;
    RETURN NULL;
END
$$
"""
POSTGRES_TRIGGER = """
CREATE TRIGGER note_{name}_days AFTER {act} ON {table} REFERENCING {side} TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION note_{table}_days()
"""
SQLITE_TRIGGER = """
CREATE TRIGGER note_{name}_days AFTER {act} ON {table} BEGIN
    INSERT OR IGNORE INTO unsummed_days (source, day) VALUES ('{table}', {day});
END
"""
CHANGES = (
    ("inserted", "INSERT", "NEW"),
    ("deleted", "DELETE", "OLD"),
    ("changed_from", "UPDATE", "OLD"),
    ("changed_to", "UPDATE", "NEW"),
)
TABLES = ("adaptations", "outcomes")


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _create_tables()
    op.create_index("ix_outcomes_model_created", "outcomes", ["model", "created"])
    for table in TABLES:
        day = DAY_OF_ROW[dialect][table]
        op.execute(
            f"INSERT INTO unsummed_days (source, day) SELECT DISTINCT '{table}', {day.format(row=table)} FROM {table}"  # noqa: S608
        )
        if dialect == "postgresql":
            op.execute(POSTGRES_FUNCTION.format(table=table, day=day))
        for what, act, side in CHANGES:
            trigger = POSTGRES_TRIGGER if dialect == "postgresql" else SQLITE_TRIGGER
            given = {"table": table, "act": act, "side": side, "name": f"{what}_{table}", "day": day.format(row=side)}
            op.execute(trigger.format(**given))
    op.execute("DROP VIEW online_quality")
    op.execute(_online_quality(dialect))
    op.execute("DROP VIEW adaptation_daily")
    op.execute(_adaptation_daily(dialect))


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.execute("DROP VIEW adaptation_daily")
    op.execute("DROP VIEW online_quality")
    for table in TABLES:
        for what, _, _ in CHANGES:
            on = f" ON {table}" if dialect == "postgresql" else ""
            op.execute(f"DROP TRIGGER note_{what}_{table}_days{on}")
        if dialect == "postgresql":
            op.execute(f"DROP FUNCTION note_{table}_days()")
    op.drop_index("ix_outcomes_model_created", table_name="outcomes")
    for name in ("outcome_days", "adaptation_days", "unsummed_days"):
        op.drop_table(name)
    op.execute(_online_quality_of_0012())
    op.execute(_adaptation_daily_of_0007(dialect))


def _online_quality_of_0012() -> str:
    keys, added = f"day, {OUTCOME_KEYS}", ("    compared,\n    compared_hit_10,\n", "    judged,\n")
    figures = FIGURES
    for columns in added:
        figures = figures.replace(columns, "")
    return f"""
CREATE VIEW online_quality AS
WITH per_entity AS (
    SELECT {keys}, entity, {PER_ENTITY} FROM outcomes GROUP BY {keys}, entity
), sums AS (
    SELECT {keys}, {SUMS} FROM per_entity GROUP BY {keys}
), rates AS (
    SELECT {keys}, {RATES} FROM sums
)
SELECT {keys}, events, entities, lists, {figures} FROM rates
"""  # noqa: S608 (of constants)


def _adaptation_daily_of_0007(dialect: str) -> str:
    day = {"sqlite": "DATE(created)", "postgresql": "CAST(created AT TIME ZONE 'UTC' AS DATE)"}[dialect]
    keys = f"{day}, {ADAPTATION_KEYS}"
    return f"""
CREATE VIEW adaptation_daily AS
SELECT {day} AS day, {ADAPTATION_KEYS}, {ADAPTATION_FIGURES} FROM adaptations GROUP BY {keys}
"""  # noqa: S608 (of constants)


def _create_tables() -> None:
    op.create_table(
        "unsummed_days",
        sa.Column("source", sa.String(20), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("source", "day", name="pk_unsummed_days"),
    )
    op.create_table(
        "outcome_days",
        sa.Column("id", KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("model_version", ID, nullable=False),
        sa.Column("variant", LABEL),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("support_size", KEY, nullable=False),
        *(sa.Column(name, KEY, nullable=False) for name in ("events", "entities", "lists", "compared", "judged")),
        *(sa.Column(name, sa.Double()) for name in OUTCOME_DOUBLES),
        sa.PrimaryKeyConstraint("id", name="pk_outcome_days"),
    )
    op.create_index("ix_outcome_days_day", "outcome_days", ["day"])
    op.create_index("ix_outcome_days_model_day", "outcome_days", ["model", "day"])
    op.create_table(
        "adaptation_days",
        sa.Column("id", KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model_version", ID, nullable=False),
        sa.Column("variant", LABEL),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("served_by", sa.String(20), nullable=False),
        *(sa.Column(name, KEY, nullable=False) for name in ("adaptations", "entities")),
        *(sa.Column(name, sa.Double()) for name in ADAPTATION_DOUBLES),
        sa.PrimaryKeyConstraint("id", name="pk_adaptation_days"),
    )
    op.create_index("ix_adaptation_days_day", "adaptation_days", ["day"])


OUTCOME_DOUBLES = (
    *("hit_1", "hit_5", "hit_10", "hit_10_low", "hit_10_high", "reciprocal_rank", "compared_hit_10", "popular_hit_10"),
    *("loss", "loss_unadapted", "gain", "gain_low", "gain_high"),
)
ADAPTATION_DOUBLES = (*("support_size", "loss_before", "loss_after", "improved", "gradient_norm", "ms", "slowest_ms"),)
