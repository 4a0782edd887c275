"""Days of outcomes are kept as sums and not as rates, so that an erasure takes an entity out of them at once.

Before, a day whose rows changed was computed from its rows until it was summed again: of an entity with events on a
month of days, a month of rows. On PostgreSQL a trigger now subtracts what few deleted rows were worth (of SQLite's
rows a day is still summed again: they are few). `outcome_sums` has the sums of every day, of which `online_quality` is
made.

Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

from migrations.outcome_figures import FIGURES, PER_ENTITY, RATES, SUMS

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME, LABEL, ID = sa.String(100), sa.String(50), sa.String(200)

KEYS = ("model", "model_version", "variant", "kind", "support_size")
# Sums over the rows of an entity, and sums of these over the entities of a day and key.
PARTS = (
    *("events", "lists", "hits_1", "hits_5", "hits", "reciprocal_ranks", "popular_hits", "compared_hits", "compared"),
    *("losses", "loss", "loss_unadapted", "gain"),
)
COUNTS = ("events", "entities", "listed_entities", "judged_entities")
DOUBLES = (
    *("lists", "hits_1", "hits_5", "hits", "reciprocal_ranks", "popular_hits", "compared_hits", "compared"),
    *("hits_hits", "hits_lists", "lists_lists", "losses", "loss", "loss_unadapted"),
    *("gain", "gain_gain", "gain_losses", "losses_losses"),
)
MOST_DELETED = 10_000  # rows of one statement: of more the days are computed anew

# What tells rows apart soonest stands first: grouping sorts, and version and arm are the same in most rows.
GROUPS = "entity, support_size, model, model_version, variant, kind"
COLUMNS = ", ".join(KEYS)
UNSUMMED_SQLITE = f"""
    SELECT days.day AS day, {COLUMNS}, entity, {PER_ENTITY}
    FROM unsummed_days AS days CROSS JOIN outcomes
    WHERE days.source = 'outcomes' AND outcomes.day = days.day
    GROUP BY days.day, {GROUPS}
"""  # noqa: S608 (of constants)
UNSUMMED_POSTGRESQL = f"""
    SELECT days.day AS day, of_day.*
    FROM unsummed_days AS days CROSS JOIN LATERAL (
        SELECT {COLUMNS}, entity, {PER_ENTITY} FROM outcomes WHERE day = days.day GROUP BY {GROUPS}
    ) AS of_day
    WHERE days.source = 'outcomes'
"""  # noqa: S608 (of constants)
UNSUMMED = {"sqlite": UNSUMMED_SQLITE, "postgresql": UNSUMMED_POSTGRESQL}


def _outcome_sums(dialect: str) -> str:
    """Sums of each day: of those whose rows changed from the rows, of the others what is kept."""
    names = ", ".join((*COUNTS, *DOUBLES))
    typed = names.replace("events,", "CAST(events AS BIGINT) AS events,", 1)
    return f"""
CREATE VIEW outcome_sums AS
WITH per_entity AS (
    {UNSUMMED[dialect]}
), sums AS (
    SELECT day, {COLUMNS}, {SUMS} FROM per_entity GROUP BY day, {COLUMNS}
)
SELECT day, {COLUMNS}, {typed} FROM sums
UNION ALL
SELECT day, {COLUMNS}, {names} FROM outcome_days
WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = 'outcomes')
"""  # noqa: S608 (of constants)


ONLINE_QUALITY = f"""
CREATE VIEW online_quality AS
WITH rates AS (
    SELECT day, {COLUMNS}, {RATES} FROM outcome_sums
)
SELECT day, {COLUMNS}, events, entities, lists, {FIGURES} FROM rates
"""  # noqa: S608 (of constants)


def _same(a: str, b: str) -> str:
    equal = [f"{a}.{name} = {b}.{name}" for name in ("day", *KEYS) if name != "variant"]
    return " AND ".join([*equal, f"{a}.variant IS NOT DISTINCT FROM {b}.variant"])


NOTE = """
    INSERT INTO unsummed_days (source, day) {days} ORDER BY 2
    ON CONFLICT (source, day) DO UPDATE SET day = excluded.day WHERE false;
"""
# An entity's part in a sum of squares is not what the deleted rows say, but the difference of all its rows before and
# after. A day of which a group is not kept was never summed, or is being summed meanwhile: it is computed anew.
SUBTRACT = f"""
CREATE FUNCTION take_from_outcome_days() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF (SELECT COUNT(*) FROM changed) > {MOST_DELETED} THEN
        {NOTE.format(days="SELECT DISTINCT 'outcomes', day FROM changed")}
        RETURN NULL;
    END IF;
    PERFORM 1 FROM outcome_days WHERE day IN (SELECT day FROM changed) ORDER BY id FOR UPDATE;
    WITH parts AS (
        SELECT true AS is_gone, day, {COLUMNS}, entity, {PER_ENTITY} FROM changed GROUP BY day, {GROUPS}
        UNION ALL
        SELECT false, day, {COLUMNS}, entity, {PER_ENTITY} FROM outcomes
        WHERE (kind, entity) IN (SELECT kind, entity FROM changed) AND day IN (SELECT day FROM changed)
        GROUP BY day, {GROUPS}
    ), entities AS (
        SELECT day, {COLUMNS}, entity,
            {", ".join(f"SUM({name}) AS {name}" for name in PARTS)},
            {", ".join(f"COALESCE(SUM({name}) FILTER (WHERE NOT is_gone), 0) AS left_{name}" for name in PARTS)}
        FROM parts GROUP BY day, {GROUPS} HAVING bool_or(is_gone)
    ), before AS (
        SELECT day, {COLUMNS}, {SUMS} FROM entities GROUP BY day, {COLUMNS}
    ), after AS (
        SELECT day, {COLUMNS}, {SUMS}
        FROM (
            SELECT day, {COLUMNS}, entity, {", ".join(f"left_{name} AS {name}" for name in PARTS)}
            FROM entities WHERE left_events > 0
        ) AS remaining
        GROUP BY day, {COLUMNS}
    ), updated AS (
        UPDATE outcome_days AS kept
        SET {", ".join(f"{n} = kept.{n} - before.{n} + COALESCE(after.{n}, 0)" for n in (*COUNTS, *DOUBLES))}
        FROM before LEFT JOIN after ON {_same("after", "before")}
        WHERE {_same("kept", "before")}
        RETURNING kept.day, {", ".join(f"kept.{name}" for name in KEYS)}
    )
    {
    NOTE.format(
        days=f"SELECT DISTINCT 'outcomes', before.day FROM before LEFT JOIN updated ON {_same('updated', 'before')}"
        " WHERE updated.day IS NULL"
    )
}
    DELETE FROM outcome_days WHERE events <= 0 AND day IN (SELECT day FROM changed);
    RETURN NULL;
END
$$
"""  # noqa: S608 (of constants)
TRIGGER = """
CREATE TRIGGER note_deleted_outcomes_days AFTER DELETE ON outcomes REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION {function}()
"""
DROP_TRIGGER = "DROP TRIGGER note_deleted_outcomes_days ON outcomes"
# What is kept of days cannot be turned into the other form: a server, or `db sum`, sums them again.
ALL_DAYS = """
INSERT INTO unsummed_days (source, day) SELECT DISTINCT 'outcomes', day FROM outcome_days
WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = 'outcomes')
"""


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.execute(ALL_DAYS)
    op.execute("DROP VIEW online_quality")
    op.drop_table("outcome_days")
    _create_days(COUNTS, DOUBLES, nullable=False)
    op.execute(_outcome_sums(dialect))
    op.execute(ONLINE_QUALITY)
    if dialect == "postgresql":
        op.execute(SUBTRACT)
        op.execute(DROP_TRIGGER)
        op.execute(TRIGGER.format(function="take_from_outcome_days"))


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.execute(ALL_DAYS)
    if dialect == "postgresql":
        op.execute(DROP_TRIGGER)
        op.execute(TRIGGER.format(function="note_outcomes_days"))
        op.execute("DROP FUNCTION take_from_outcome_days()")
    op.execute("DROP VIEW online_quality")
    op.execute("DROP VIEW outcome_sums")
    op.drop_table("outcome_days")
    _create_days(("events", "entities", "lists", "compared", "judged"), RATES_OF_0015, nullable=True)
    op.execute(_online_quality_of_0015(dialect))


def _create_days(counts: tuple[str, ...], doubles: tuple[str, ...], nullable: bool) -> None:
    op.create_table(
        "outcome_days",
        sa.Column("id", KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("model_version", ID, nullable=False),
        sa.Column("variant", LABEL),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("support_size", KEY, nullable=False),
        *(sa.Column(name, KEY, nullable=False) for name in counts),
        *(sa.Column(name, sa.Double(), nullable=nullable) for name in doubles),
        sa.PrimaryKeyConstraint("id", name="pk_outcome_days"),
    )
    op.create_index("ix_outcome_days_day", "outcome_days", ["day"])
    op.create_index("ix_outcome_days_model_day", "outcome_days", ["model", "day"])


RATES_OF_0015 = (
    *("hit_1", "hit_5", "hit_10", "hit_10_low", "hit_10_high", "reciprocal_rank", "compared_hit_10", "popular_hit_10"),
    *("loss", "loss_unadapted", "gain", "gain_low", "gain_high"),
)


def _online_quality_of_0015(dialect: str) -> str:
    columns = (
        f"day, {COLUMNS}, events, entities, lists, hit_1, hit_5, hit_10, hit_10_low, hit_10_high, reciprocal_rank,"
        " compared, compared_hit_10, popular_hit_10, judged, loss, loss_unadapted, gain, gain_low, gain_high"
    )
    return f"""
CREATE VIEW online_quality AS
WITH per_entity AS (
    {UNSUMMED[dialect]}
), sums AS (
    SELECT day, {COLUMNS}, {SUMS} FROM per_entity GROUP BY day, {COLUMNS}
), rates AS (
    SELECT day, {COLUMNS}, {RATES} FROM sums
)
SELECT day, {COLUMNS}, events, entities, lists, {FIGURES} FROM rates
UNION ALL
SELECT {columns} FROM outcome_days WHERE day NOT IN (SELECT day FROM unsummed_days WHERE source = 'outcomes')
"""  # noqa: S608 (of constants)
