"""Each bucket of a run as it was last seen is kept, so that `hardest_tasks` does not read every step of every run.

Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

NAME, ID = sa.String(100), sa.String(200)
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

RANKED = """
    RANK() OVER (
        PARTITION BY seen.run
        ORDER BY CASE WHEN seen.hardness IS NULL THEN 1 ELSE 0 END, seen.hardness DESC
    ) AS rank
"""
HARDEST_TASKS = f"""
CREATE VIEW hardest_tasks AS
SELECT seen.run, runs.dataset, runs.learner, seen.bucket, seen.step, seen.hardness, seen.weight, {RANKED}
FROM latest_curriculum AS seen JOIN runs ON runs.id = seen.run
"""  # noqa: S608 (of constants)
HARDEST_TASKS_OF_0002 = f"""
CREATE VIEW hardest_tasks AS
SELECT seen.run, runs.dataset, runs.learner, seen.bucket, seen.step, seen.hardness, seen.weight, {RANKED}
FROM (
    SELECT curriculum.*, ROW_NUMBER() OVER (PARTITION BY run, bucket ORDER BY step DESC) AS place
    FROM curriculum
) AS seen
JOIN runs ON runs.id = seen.run
WHERE seen.place = 1
"""  # noqa: S608 (of constants)
COLUMNS = "run, bucket, step, hardness, weight"
REPLACE = """
    ON CONFLICT (run, bucket) DO UPDATE
    SET step = excluded.step, hardness = excluded.hardness, weight = excluded.weight
    WHERE latest_curriculum.step <= excluded.step
"""
# Of the rows of one statement the last step of each bucket: one row may not be upserted twice. In a fixed order, so
# that two writers cannot deadlock.
NEWEST = """
    SELECT run, bucket, step, hardness, weight
    FROM (SELECT {rows}.*, ROW_NUMBER() OVER (PARTITION BY run, bucket ORDER BY step DESC) AS place FROM {rows}) AS seen
    WHERE place = 1 ORDER BY run, bucket
"""
POSTGRES_FUNCTION = f"""
CREATE FUNCTION keep_latest_curriculum() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO latest_curriculum ({COLUMNS}) {NEWEST.format(rows="changed")} {REPLACE};
    RETURN NULL;
END
$$
"""
POSTGRES_TRIGGER = """
CREATE TRIGGER keep_{what}_curriculum AFTER {act} ON curriculum REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION keep_latest_curriculum()
"""
SQLITE_TRIGGER = f"""
CREATE TRIGGER keep_{{what}}_curriculum AFTER {{act}} ON curriculum BEGIN
    INSERT INTO latest_curriculum ({COLUMNS})
    VALUES (NEW.run, NEW.bucket, NEW.step, NEW.hardness, NEW.weight) {REPLACE};
END
"""  # noqa: S608 (of constants)
CHANGES = (("inserted", "INSERT"), ("updated", "UPDATE"))


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.create_table(
        "latest_curriculum",
        sa.Column("run", NAME, nullable=False),
        sa.Column("bucket", ID, nullable=False),
        sa.Column("step", KEY, nullable=False),
        sa.Column("hardness", sa.Double()),
        sa.Column("weight", sa.Double()),
        sa.PrimaryKeyConstraint("run", "bucket", name="pk_latest_curriculum"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name="fk_latest_curriculum_run", ondelete="CASCADE"),
    )
    op.execute(f"INSERT INTO latest_curriculum ({COLUMNS}) {NEWEST.format(rows='curriculum')}")
    if dialect == "postgresql":
        op.execute(POSTGRES_FUNCTION)
    for what, act in CHANGES:
        trigger = POSTGRES_TRIGGER if dialect == "postgresql" else SQLITE_TRIGGER
        op.execute(trigger.format(what=what, act=act))
    op.execute("DROP VIEW hardest_tasks")
    op.execute(HARDEST_TASKS)


def downgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.execute("DROP VIEW hardest_tasks")
    for what, _ in CHANGES:
        op.execute(f"DROP TRIGGER keep_{what}_curriculum{' ON curriculum' if is_postgres else ''}")
    if is_postgres:
        op.execute("DROP FUNCTION keep_latest_curriculum()")
    op.drop_table("latest_curriculum")
    op.execute(HARDEST_TASKS_OF_0002)
