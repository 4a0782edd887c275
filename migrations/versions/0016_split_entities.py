"""Sums of each entity in each arm of a split, kept by triggers, so that `split_results` does not read all outcomes.

Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

from migrations.outcome_figures import FIGURES, PER_ENTITY, RATES, SUMS

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME, LABEL, ID = sa.String(100), sa.String(50), sa.String(200)

PERIODS = """
SELECT
    model, sequence, place, label, version AS model_version, weight, at AS started,
    (
        SELECT MIN(later.at) FROM splits AS later
        WHERE later.model = splits.model AND later.sequence = splits.sequence + 1
    ) AS ended
FROM splits
WHERE version IS NOT NULL
"""
SPLIT_PERIODS = f"CREATE VIEW split_periods AS {PERIODS}"

ARM = "model, sequence, place"
IDENTITY = f"kind, entity, {ARM}"
FIGURE_NAMES = (
    *("lists", "hits_1", "hits_5", "hits", "reciprocal_ranks", "popular_hits", "compared_hits", "compared"),
    *("losses", "loss", "loss_unadapted", "gain"),
)
MATCH = (
    "periods.model = {rows}.model AND periods.model_version = {rows}.model_version AND periods.label = {rows}.variant"
    " AND {rows}.created >= periods.started AND (periods.ended IS NULL OR {rows}.created < periods.ended)"
)
PARTS = f"""
    SELECT {{rows}}.kind, {{rows}}.entity, periods.model, periods.sequence, periods.place, {PER_ENTITY}
    FROM {{source}} JOIN split_periods AS periods ON {MATCH}
    {{where}}
    GROUP BY {{rows}}.kind, {{rows}}.entity, periods.model, periods.sequence, periods.place
"""  # noqa: S608 (of constants)


def _add(source: str, rows: str, sign: str = "", where: str = "") -> str:
    """Add what rows say of their entities in their arms to what is kept, or take it away; arms in a fixed order, so
    that two writers cannot deadlock."""
    names = ("events", *FIGURE_NAMES)
    sums = ", ".join(f"{name} = split_entities.{name} + excluded.{name}" for name in names)
    return f"""
    INSERT INTO split_entities ({IDENTITY}, {", ".join(names)})
    SELECT {IDENTITY}, {", ".join(sign + name for name in names)}
    FROM ({PARTS.format(source=source, rows=rows, where=where)}) AS parts
    WHERE true ORDER BY {IDENTITY}
    ON CONFLICT ({IDENTITY}) DO UPDATE SET {sums};
"""  # noqa: S608 (of constants)


# A change of the split is recorded a moment after it began: entities with outcomes since then are counted anew, in the
# change before and in this one.
RECOUNT = f"""
    DELETE FROM split_entities
    WHERE model = NEW.model AND sequence IN (NEW.sequence - 1, NEW.sequence) AND EXISTS (
        SELECT 1 FROM outcomes
        WHERE outcomes.model = NEW.model AND outcomes.created >= NEW.at AND outcomes.kind = split_entities.kind
            AND outcomes.entity = split_entities.entity
    );
    {
    _add(
        "outcomes",
        "outcomes",
        where="WHERE periods.model = NEW.model AND periods.sequence IN (NEW.sequence - 1, NEW.sequence)"
        " AND (outcomes.kind, outcomes.entity) IN ("
        "SELECT late.kind, late.entity FROM outcomes AS late WHERE late.model = NEW.model AND late.created >= NEW.at)",
    )
}
"""  # noqa: S608 (of constants)
REMOVE_EMPTY = """
    DELETE FROM split_entities WHERE events <= 0 AND {of_changed};
"""
COLUMNS = (
    *("kind", "entity", "model", "model_version", "variant", "created", "hit_1", "hit_5", "hit_10"),
    *("reciprocal_rank", "popular_hit_10", "loss", "loss_unadapted"),
)


def _sqlite_triggers() -> list[str]:
    def changed(side: str) -> str:
        return f"(SELECT {', '.join(f'{side}.{name} AS {name}' for name in COLUMNS)}) AS changed"

    add = _add(changed("NEW"), "changed")
    of_changed = "kind = OLD.kind AND entity = OLD.entity"
    remove = _add(changed("OLD"), "changed", "-") + REMOVE_EMPTY.format(of_changed=of_changed)
    bodies = {"inserted": ("INSERT", add), "deleted": ("DELETE", remove), "updated": ("UPDATE", remove + add)}
    made = [
        f"CREATE TRIGGER keep_{what}_splits AFTER {act} ON outcomes BEGIN {body} END"
        for what, (act, body) in bodies.items()
    ]
    return [*made, f"CREATE TRIGGER keep_begun_splits AFTER INSERT ON splits BEGIN {RECOUNT} END"]


def _postgres_triggers() -> list[str]:
    of_changed = "(kind, entity) IN (SELECT changed.kind, changed.entity FROM changed)"
    remove = _add("changed", "changed", "-") + REMOVE_EMPTY.format(of_changed=of_changed)
    bodies = {"add": _add("changed", "changed"), "remove": remove, "recount": RECOUNT}
    made = [
        f"CREATE FUNCTION {what}_split_entities() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$"
        f" BEGIN {body} RETURN NULL; END $$"
        for what, body in bodies.items()
    ]
    for name, act, side, what in (
        ("inserted", "INSERT", "NEW", "add"),
        ("deleted", "DELETE", "OLD", "remove"),
        ("updated_from", "UPDATE", "OLD", "remove"),
        ("updated_to", "UPDATE", "NEW", "add"),
    ):
        made.append(
            f"CREATE TRIGGER keep_{name}_splits AFTER {act} ON outcomes REFERENCING {side} TABLE AS changed"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {what}_split_entities()"
        )
    made.append(
        "CREATE TRIGGER keep_begun_splits AFTER INSERT ON splits FOR EACH ROW EXECUTE FUNCTION recount_split_entities()"
    )
    return made


# As in 0012: the difference of each arm to the first one, with a 95% confidence sequence (Robbins' normal mixture). The
# first arm is found by a window and not by a join, so that one model is asked for without counting all others.
FIRST = "OVER (PARTITION BY model, sequence ORDER BY place)"
ENOUGH = (
    "place > 0 AND listed_entities >= 30 AND first_entities >= 30 AND hits + first_hits >= 10"
    " AND lists + first_lists - hits - first_hits >= 10"
)


def _arm_variance(variance: str, lists: str) -> str:
    return f"CASE WHEN {variance} > share / {lists} THEN {variance} ELSE share / {lists} END"


SPLIT_RESULTS = f"""
CREATE VIEW split_results AS
WITH sums AS (
    SELECT {ARM}, {SUMS} FROM split_entities GROUP BY {ARM}
), rates AS (
    SELECT arms.model, arms.sequence, arms.place, label, version AS model_version, weight, at AS started, {RATES}
    FROM splits AS arms
    LEFT JOIN sums ON sums.model = arms.model AND sums.sequence = arms.sequence AND sums.place = arms.place
    WHERE version IS NOT NULL
), pairs AS (
    SELECT
        rates.*,
        FIRST_VALUE(hit_10) {FIRST} AS first_hit_10,
        FIRST_VALUE(hits) {FIRST} AS first_hits,
        FIRST_VALUE(lists) {FIRST} AS first_lists,
        FIRST_VALUE(listed_entities) {FIRST} AS first_entities,
        FIRST_VALUE(hit_variance) {FIRST} AS first_variance,
        MAX(place) OVER (PARTITION BY model, sequence) AS arms
    FROM rates
), shares AS (
    SELECT
        pairs.*,
        CASE WHEN {ENOUGH} THEN (hits + first_hits) / (lists + first_lists)
            * (1 - (hits + first_hits) / (lists + first_lists)) END AS share
    FROM pairs
), differences AS (
    SELECT
        shares.*,
        CASE WHEN share IS NOT NULL THEN hit_10 - first_hit_10 END AS difference,
        CASE WHEN share IS NOT NULL THEN {_arm_variance("hit_variance", "lists")}
            + {_arm_variance("first_variance", "first_lists")} END AS variance
    FROM shares
), tests AS (
    SELECT
        differences.*,
        CASE WHEN variance > 0 THEN SQRT(
            variance * (variance + 0.01) / 0.01
            * (2 * LN(arms / 0.05) + LN((variance + 0.01) / variance))
        ) END AS margin,
        CASE WHEN variance > 0 THEN LN(CAST(arms AS DOUBLE PRECISION)) + 0.5 * LN((variance + 0.01) / variance)
            - 0.01 * difference * difference / (2 * variance * (variance + 0.01)) END AS log_p
    FROM differences
)
SELECT
    model, sequence, label, model_version, weight, started,
    (
        SELECT MIN(later.at) FROM splits AS later
        WHERE later.model = tests.model AND later.sequence = tests.sequence + 1
    ) AS ended,
    COALESCE(events, 0) AS events, COALESCE(entities, 0) AS entities, COALESCE(lists, 0) AS lists, {FIGURES},
    difference,
    difference - margin AS difference_low,
    difference + margin AS difference_high,
    CASE WHEN log_p >= 0 THEN 1.0E0 WHEN log_p < -700 THEN 0.0E0 WHEN log_p < 0 THEN EXP(log_p) END AS p,
    CASE
        WHEN place = 0 THEN 'reference'
        WHEN margin IS NULL THEN 'too few'
        WHEN difference > margin THEN 'better'
        WHEN difference < -margin THEN 'worse'
        ELSE 'open'
    END AS verdict
FROM tests
"""  # noqa: S608 (of constants)


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.create_table(
        "split_entities",
        sa.Column("kind", NAME, nullable=False),
        sa.Column("entity", ID, nullable=False),
        sa.Column("model", ID, nullable=False),
        sa.Column("sequence", KEY, nullable=False, autoincrement=False),
        sa.Column("place", KEY, nullable=False, autoincrement=False),
        sa.Column("events", KEY, nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in FIGURE_NAMES),
        sa.PrimaryKeyConstraint("kind", "entity", "model", "sequence", "place", name="pk_split_entities"),
        sa.ForeignKeyConstraint(
            ["model", "sequence", "place"],
            ["splits.model", "splits.sequence", "splits.place"],
            name="fk_split_entities_model_sequence_place",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_split_entities_model_sequence_place", "split_entities", ["model", "sequence", "place"])
    op.execute(SPLIT_PERIODS)
    op.execute(_add("outcomes", "outcomes"))
    for trigger in _sqlite_triggers() if dialect == "sqlite" else _postgres_triggers():
        op.execute(trigger)
    op.execute("DROP VIEW split_results")
    op.execute(SPLIT_RESULTS)


def downgrade() -> None:
    op.execute("DROP VIEW split_results")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER keep_begun_splits ON splits")
        for name in ("updated_to", "updated_from", "deleted", "inserted"):
            op.execute(f"DROP TRIGGER keep_{name}_splits ON outcomes")
        for what in ("recount", "remove", "add"):
            op.execute(f"DROP FUNCTION {what}_split_entities()")
    else:
        for name in ("begun", "updated", "deleted", "inserted"):
            op.execute(f"DROP TRIGGER keep_{name}_splits")
    op.execute("DROP VIEW split_periods")
    op.drop_index("ix_split_entities_model_sequence_place", table_name="split_entities")
    op.drop_table("split_entities")
    op.execute(_split_results_of_0012())


def _split_results_of_0012() -> str:
    """The view over the rows themselves, with the columns of that revision."""
    parts = PARTS.format(source="outcomes", rows="outcomes", where="").replace("split_periods AS", f"({PERIODS}) AS")
    view = SPLIT_RESULTS.replace("FROM split_entities", f"FROM ({parts}) AS parts")
    for added in ("    compared,\n    compared_hit_10,\n", "    judged,\n"):
        view = view.replace(added, "")
    return view
