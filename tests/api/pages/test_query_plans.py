"""Plans of PostgreSQL for what pages and views ask: none reads a large table from end to end."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from api.handlers.entity_document import entity_document
from api.pages import adaptations, entities, home, models
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.entities import outcome_summary
from recsys_meta.store.entities.adaptations import newest_answers, page_adaptations
from recsys_meta.store.entities.daily_sums import sum_next_day
from recsys_meta.store.entities.entities import erase_entity
from recsys_meta.store.entities.tables import EntityRecord
from recsys_meta.store.items.item_events import item_fate
from recsys_meta.store.model_registry import registry
from recsys_meta.store.tracking.run_course import bucket_course, curriculum_buckets, metric_course
from recsys_meta.store.tracking.runs import page_runs
from tests.fixtures.migrated_databases import migrated_schema, schema_pool  # noqa: F401  (fixtures)
from tests.fixtures.services import postgres_server, postgres_url  # noqa: F401  (fixtures)
from tests.store.samples import NOON

LARGE = ("adaptations", "impressions", "outcomes", "events", "metrics", "curriculum", "runs")
ROWS, DAYS = 12_000, 8
AT = f"TIMESTAMPTZ '2024-05-17 12:00Z' + n * interval '{DAYS} days' / {ROWS}"
FILLS = (
    f"""INSERT INTO outcomes (kind, event_id, entity, model, model_version, support_size, hit_1, hit_5, hit_10,
        reciprocal_rank, popular_hit_10, loss, loss_unadapted, created, day)
        SELECT 'user', 'e' || n, 'u' || n % 900, 'm', 'v1', n % 9, 0, 0, n % 2, 0, 0, 1, 2, {AT},
        CAST(({AT}) AT TIME ZONE 'UTC' AS DATE) FROM generate_series(1, {ROWS}) AS n""",
    f"""INSERT INTO adaptations (model_version, kind, entity, support_size, steps, ms, served_by, created)
        SELECT 'v1', 'user', 'u' || n % 900, n % 9, 1, 1, 'adapted', {AT} FROM generate_series(1, {ROWS}) AS n""",
    f"""INSERT INTO impressions (request_id, model, model_version, kind, entity, served_by, support_size, first_rank,
        items, propensity, sample_rate, answers, created)
        SELECT 'r' || n, 'm', 'v1', 'user', 'u' || n % 900, 'adapted', 1, 1, '["i1"]', 1, 1, 1, {AT}
        FROM generate_series(1, {ROWS}) AS n""",
    f"""INSERT INTO events (kind, event_id, entity, item, label, time, received)
        SELECT 'user', 'e' || n, 'u' || n % 900, 'i' || n % 500, 1, {AT}, {AT} FROM generate_series(1, {ROWS}) AS n""",
    f"""INSERT INTO runs (id, recipe, dataset, learner, config, seed, status, started)
        SELECT 'run ' || n, 'r', 'd', 'l', '{{}}', n, 'finished', {AT} FROM generate_series(1, {ROWS}, 10) AS n""",
    "INSERT INTO metrics (run, key, step, value) SELECT id, 'loss', n, 1 FROM runs, generate_series(1, 10) AS n",
    "INSERT INTO latest_metrics (run, key, step, value, at) SELECT id, 'loss', 10, 1, now() FROM runs",
    "INSERT INTO curriculum (run, step, bucket, hardness, weight) SELECT run, step, 'b', 1, 1 FROM metrics",
    f"ANALYZE {', '.join(LARGE)}, latest_metrics",
)  # fmt: skip


@pytest.fixture
def engine(migrated_schema: str):  # noqa: F811
    made = connect(migrated_schema)
    with session(made) as s:
        registry.publish_version(s, "m", "v1", "/", now=NOON)
        s.add(EntityRecord(kind="user", external_id="u7", features={}, created=NOON, updated=NOON))
        for statement in FILLS:
            s.execute(text(statement))
    is_left = True
    while is_left:
        with session(made) as s:
            is_left = sum_next_day(s) is not None
    yield made
    made.dispose()


def plans(engine: Engine, work: Callable[[Session], object]) -> list[tuple[str, list[str]]]:
    """Run some work; return its queries and the large tables that each reads from end to end."""
    asked: list[tuple[str, object]] = []

    def note(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    with reading(engine) as s:
        event.listen(engine, "before_cursor_execute", note)
        try:
            work(s)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        found = []
        for statement, parameters in [one for one in asked if one[0].lstrip().startswith(("SELECT", "WITH"))]:
            rows = s.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
            lines = [line.strip(" ->") for line in rows]
            found.append((statement, [line for line in lines if line.startswith(SCANS)]))
    return found


SCANS = tuple(f"{way}Seq Scan on {table} " for way in ("", "Parallel ") for table in LARGE)


def deep_page(list_page: Callable[..., object]) -> Callable[[Session], object]:
    def work(s: Session) -> object:
        cursor = list_page(s, limit=600).next
        return list_page(s, limit=20, cursor=cursor)

    return work


WORK: dict[str, Callable[[Session], object]] = {
    "home": lambda s: home._read(s, [{"name": "m", "live": "v1"}]),
    "adaptations": lambda s: adaptations._read(s, "m", None),
    "a model": lambda s: models._read(s, "m", None, None),
    "a model that nobody asked for": lambda s: models._read(s, "m", "v1", None),
    "an entity": lambda s: (entities._read(s, "user", "u7"), entity_document(s, "user", "u7", 20)),
    "an item": lambda s: item_fate(s, "user", "i7"),
    "a run": lambda s: (
        metric_course(s, "run 11", "loss"),
        bucket_course(s, "run 11"),
        curriculum_buckets(s, "run 11"),
    ),
    "answers": lambda s: newest_answers(s, 100),
    "a deep page of runs": deep_page(page_runs),
    "a deep page of adaptations": deep_page(page_adaptations),
    "days of outcomes": lambda s: s.execute(text("SELECT * FROM online_quality")).all(),
    "days of adaptations": lambda s: s.execute(text("SELECT * FROM adaptation_daily")).all(),
    "sums of outcomes": lambda s: s.execute(text("SELECT * FROM outcome_sums")).all(),
    "hardest tasks": lambda s: s.execute(text("SELECT * FROM hardest_tasks")).all(),
    "hardest tasks of a run": lambda s: s.execute(text("SELECT * FROM hardest_tasks WHERE run = 'run 11'")).all(),
    "curves": lambda s: s.execute(text("SELECT * FROM cold_start_curve")).all(),
    "arms of splits": lambda s: s.execute(text("SELECT * FROM split_results")).all(),
}


@pytest.mark.slow
def test_no_page_reads_a_large_table_from_end_to_end(engine: Engine, monkeypatch) -> None:
    # Of few rows the newest thousands would be all: then reading from end to end is right.
    monkeypatch.setattr(outcome_summary, "MOST_OUTCOMES", 300)
    monkeypatch.setattr(newest_answers, "__defaults__", (100,))
    scans = {name: [one for one in plans(engine, work) if one[1]] for name, work in WORK.items()}
    ((_, of_hardest),) = scans.pop("hardest tasks")
    assert all("Seq Scan on runs " in line for line in of_hardest), (
        "it shows every run, and of each no step but the last"
    )
    assert {name: found for name, found in scans.items() if found} == {}
    with session(engine) as s:
        assert erase_entity(s, "user", "u7").outcomes > DAYS
    assert plans(engine, WORK["days of outcomes"])[0][1] == []
    with reading(engine) as s:
        sources = set(s.execute(text("SELECT source FROM unsummed_days")).scalars())
    assert "outcomes" not in sources, "an erasure leaves no day to be computed"
    with session(engine) as s:
        s.execute(text("INSERT INTO unsummed_days (source, day) VALUES ('outcomes', '2024-05-20')"))
    assert plans(engine, WORK["days of outcomes"])[0][1] == [], "one day that changed is found by its index"
    ((_, scan),) = plans(engine, lambda s: s.execute(text("SELECT avg(loss) FROM outcomes")).all())
    assert scan, "a query that reads all is seen"
