"""Evaluations say which run, recipe, configuration and split they are of, and over how many seeds; one seed is one row.
`cold_start_curve` takes the newest evaluation of each curve as a whole.

Revises: 0017
"""

import hashlib
import json
import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID, NAME, DIGEST = sa.String(200), sa.String(100), sa.String(16)
INDEXES = (("evaluations", ("run",)), ("evaluations", ("dataset", "created")))

# All points of a curve are of one evaluation: a newer one that measured fewer points does not leave old ones standing.
# Of several seeds their mean stands here, of one its own row.
CURVE = """
CREATE VIEW cold_start_curve AS
SELECT model, model_version, run, recipe, config_digest, dataset, scenario, split, method, role, seed, seeds, metric,
    shots, value, low, high, n, created
FROM (
    SELECT evaluations.*, MAX(created) OVER (
        PARTITION BY model, model_version, run, dataset, scenario, split, method, seed, seeds
    ) AS newest
    FROM evaluations
    WHERE seed IS NULL OR seeds = 1
) AS curves
WHERE created = newest
"""
OLD_CURVE = """
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

# One evaluation is what shares a time. Seeds were counted by nobody; a mean over one seed repeats the row of that seed.
COUNT_SEEDS = """
UPDATE evaluations SET seeds = counted.seeds
FROM (
    SELECT created, dataset, scenario, method, COUNT(DISTINCT seed) AS seeds
    FROM evaluations GROUP BY created, dataset, scenario, method
) AS counted
WHERE counted.created = evaluations.created AND counted.dataset = evaluations.dataset
    AND counted.scenario = evaluations.scenario AND counted.method = evaluations.method AND counted.seeds > 0
"""
DELETE_REPEATED = """
DELETE FROM evaluations WHERE seed IS NULL AND seeds = 1 AND EXISTS (
    SELECT 1 FROM evaluations AS own
    WHERE own.seed IS NOT NULL AND own.created = evaluations.created AND own.dataset = evaluations.dataset
        AND own.scenario = evaluations.scenario AND own.method = evaluations.method
        AND own.metric = evaluations.metric AND own.shots = evaluations.shots
        AND COALESCE(own.model, '') = COALESCE(evaluations.model, '')
        AND COALESCE(own.model_version, '') = COALESCE(evaluations.model_version, '')
)
"""
# The run of a version is known where it was published from one.
FIND_RUNS = """
UPDATE evaluations SET run = (
    SELECT run FROM model_versions
    WHERE model_versions.model = evaluations.model AND model_versions.version = evaluations.model_version
) WHERE model IS NOT NULL
"""
DESCRIBE_RUNS = """
UPDATE evaluations SET
    recipe = (SELECT recipe FROM runs WHERE runs.id = evaluations.run),
    config_digest = (SELECT config_digest FROM runs WHERE runs.id = evaluations.run)
WHERE run IS NOT NULL
"""


def upgrade() -> None:
    op.execute("DROP VIEW cold_start_curve")
    op.add_column("runs", sa.Column("config_digest", DIGEST))
    for name, kind in (("run", NAME), ("recipe", ID), ("config_digest", DIGEST), ("split", ID)):
        op.add_column("evaluations", sa.Column(name, kind))
    op.add_column("evaluations", sa.Column("seeds", KEY, nullable=False, server_default="1"))
    for table, columns in INDEXES:
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))
    op.execute(COUNT_SEEDS)
    op.execute(DELETE_REPEATED)
    _digest_runs()
    _name_splits()
    op.execute(FIND_RUNS)
    op.execute(DESCRIBE_RUNS)
    op.execute(CURVE)


def downgrade() -> None:
    op.execute("DROP VIEW cold_start_curve")
    for table, columns in reversed(INDEXES):
        op.drop_index(f"ix_{table}_{'_'.join(columns)}", table_name=table)
    for name in ("seeds", "split", "config_digest", "recipe", "run"):
        op.drop_column("evaluations", name)
    op.drop_column("runs", "config_digest")
    op.execute(OLD_CURVE)


def _digest_runs() -> None:
    bind = op.get_bind()
    for run, config in bind.execute(sa.text("SELECT id, config FROM runs")).all():
        content: Any = json.loads(config) if isinstance(config, str) else config
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        bind.execute(sa.text("UPDATE runs SET config_digest = :digest WHERE id = :run"), {"digest": digest, "run": run})


def _name_splits() -> None:
    """The rule that splits entities stood in the name of the scenario alone."""
    bind = op.get_bind()
    for scenario in bind.execute(sa.text("SELECT DISTINCT scenario FROM evaluations")).scalars().all():
        named = re.search(r"split-by-([^/]+)", scenario)
        if named is not None:
            update = "UPDATE evaluations SET split = :split WHERE scenario = :scenario"
            bind.execute(sa.text(update), {"split": named[1], "scenario": scenario})
