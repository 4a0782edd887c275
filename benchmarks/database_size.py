"""Pages, views and documented queries over ten million adaptations, impressions and outcomes in PostgreSQL.

    python -m benchmarks.database_size --rows 10000000 --json benchmarks/results/database-size.json

A database of its own is made, filled by the server itself (`generate_series`), measured and dropped. Newcomers arrive
over ninety days, twenty events each, half of them answered by each arm of a split that stands for all of that time;
10,000 training runs stand beside them. Figures are seconds, the median of several calls after a first one.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url

from benchmarks.bench_servers import api_server, flagship
from benchmarks.machine import machine_facts
from recsys_meta.core.json_text import dump_json
from recsys_meta.models.bundle import save_bundle
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.database.migrate import upgrade_database
from recsys_meta.store.entities.adaptations import page_adaptations
from recsys_meta.store.entities.daily_sums import sum_next_day
from recsys_meta.store.entities.entities import erase_entity, upsert_entity
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split
from recsys_meta.store.schema_check import VIEWS
from recsys_meta.store.tracking.runs import page_runs

EVENTS = 20  # of each newcomer
DAYS = 90
RUNS = 10_000
MODEL = "shop"
CHUNK = 500_000  # rows of one insert
PLACE = "n.at + s.size * interval '1 hour'"  # a newcomer's events are an hour apart
NEWCOMERS = f"""
    (SELECT i, 'u' || lpad(i::text, 9, '0') AS entity, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END AS arm,
            CAST(:start AS timestamptz) + i * (interval '{DAYS} days' - interval '1 day') / :newcomers AS at
     FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS i) AS n
    CROSS JOIN generate_series(0, {EVENTS - 1}) AS s(size)
"""
FILLS = {
    "adaptations": f"""
        INSERT INTO adaptations (model_version, kind, entity, support_size, steps, loss_before, loss_after,
            gradient_norm, ms, served_by, created, variant)
        SELECT 'v-' || arm, 'user', entity, size, 5, 5 + random(), 4 + random(), random(), 1 + random(),
            CASE WHEN size = 0 THEN 'prior' WHEN random() < .5 THEN 'cache' ELSE 'adapted' END, {PLACE}, arm
        FROM {NEWCOMERS}""",
    "impressions": f"""
        INSERT INTO impressions (request_id, model, model_version, variant, kind, entity, served_by, support_size,
            first_rank, items, propensity, sample_rate, answers, created)
        SELECT md5(entity || size), '{MODEL}', 'v-' || arm, arm, 'user', entity, 'adapted', size, 1,
            '["i1", "i22", "i333", "i44", "i5555", "i66", "i777", "i88", "i9", "i1010"]', 1, 1, 1, {PLACE}
        FROM {NEWCOMERS}""",
    "outcomes": f"""
        INSERT INTO outcomes (kind, event_id, entity, model, model_version, variant, support_size, impression, rank,
            hit_1, hit_5, hit_10, reciprocal_rank, popular_hit_10, loss, loss_unadapted, created, day)
        SELECT 'user', 'e' || entity || ' ' || size, entity, '{MODEL}', 'v-' || arm, arm, size,
            i * {EVENTS} + size, CASE WHEN draw < .3 THEN 1 + floor(draw * 30) END,
            CASE WHEN draw < 1 / 30. THEN 1 ELSE 0 END, CASE WHEN draw < 5 / 30. THEN 1 ELSE 0 END,
            CASE WHEN draw < .3 THEN 1 ELSE 0 END, CASE WHEN draw < .3 THEN 1 / (1 + floor(draw * 30)) ELSE 0 END,
            CASE WHEN random() < .25 THEN 1 ELSE 0 END, 5 - size * .02 + random(), 5 + random(), at,
            CAST(at AT TIME ZONE 'UTC' AS date)
        FROM (SELECT i, entity, arm, size, {PLACE} AS at, random() AS draw FROM {NEWCOMERS}) AS drawn""",
}
RUN_FILLS = (
    """INSERT INTO runs (id, recipe, dataset, learner, config, seed, status, started, finished)
        SELECT 'run-' || lpad(r::text, 6, '0'), 'flagship', 'shop', 'flagship', '{"lr": 0.1}', r,
            CASE WHEN r % 10 = 0 THEN 'failed' ELSE 'finished' END,
            CAST(:start AS timestamptz) + r * interval '10 minutes',
            CAST(:start AS timestamptz) + r * interval '10 minutes' + interval '5 minutes'
        FROM generate_series(1, :runs) AS r""",
    """INSERT INTO metrics (run, key, step, value)
        SELECT id, key, step, random() FROM runs CROSS JOIN unnest(ARRAY['loss', 'valid']) AS key
        CROSS JOIN generate_series(1, 20) AS step""",
    """INSERT INTO latest_metrics (run, key, step, value, at)
        SELECT run, key, step, value, CAST(:start AS timestamptz) FROM metrics WHERE step = 20""",
    """INSERT INTO curriculum (run, step, bucket, hardness, weight)
        SELECT id, step, 'bucket ' || b, random(), random() FROM runs CROSS JOIN generate_series(1, 5) AS step
        CROSS JOIN generate_series(1, 8) AS b""",
    """INSERT INTO evaluations (model, model_version, dataset, scenario, method, role, seed, shots, metric, value, low,
            high, n, created)
        SELECT CASE WHEN method = 'flagship' THEN 'shop' END, CASE WHEN method = 'flagship' THEN 'v-a' END, 'shop',
            'user', method, CASE WHEN method = 'flagship' THEN 'flagship' ELSE 'baseline' END, NULL, shots, 'ndcg@10',
            random(), 0, 1, 500, CAST(:start AS timestamptz) + e * interval '1 hour'
        FROM generate_series(1, 500) AS e CROSS JOIN unnest(ARRAY['flagship', 'ease', 'popularity']) AS method
        CROSS JOIN unnest(ARRAY[0, 1, 3, 5, 10, 20]) AS shots""",
)


@contextmanager
def own_database(server: str, name: str, keep: bool) -> Iterator[str]:
    """Make an empty database of a name, and drop it in the end; yield its URL."""
    with psycopg.connect(server, autocommit=True) as admin:
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        if not keep:
            with psycopg.connect(server, autocommit=True) as admin:
                admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def fill(engine: Engine, rows: int) -> None:
    """Fill all tables; secondary indexes of the large ones are made afterwards."""
    start = datetime.now(UTC).timestamp() - DAYS * 86_400
    given = {"start": datetime.fromtimestamp(start, UTC), "newcomers": rows // EVENTS, "runs": RUNS}
    with session(engine) as s:
        for label in "ab":
            registry.publish_version(s, MODEL, f"v-{label}", "/", now=given["start"])
        arms = [SplitArm(label, f"v-{label}", 1) for label in "ab"]
        start_split(s, MODEL, arms, force=True, now=given["start"])
    with engine.begin() as connection:
        for statement in RUN_FILLS:
            connection.execute(text(statement), given)
    with engine.begin() as connection:
        indexes = _drop_indexes(connection)
    for table, statement in FILLS.items():
        for first in range(0, rows // EVENTS, CHUNK // EVENTS):
            last = min(first + CHUNK // EVENTS, rows // EVENTS) - 1
            with engine.begin() as connection:
                connection.execute(text(statement), {**given, "first": first, "last": last})
        print(f"filled {table}", file=sys.stderr)
    for index in indexes:
        with engine.begin() as connection:
            connection.execute(text(index))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _drop_indexes(connection: Connection) -> list[str]:
    """Drop the secondary indexes of the large tables; return the statements that make them."""
    rows = connection.execute(
        text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(:tables)"),
        {"tables": list(FILLS)},
    ).all()
    secondary = {name: statement for name, statement in rows if name.startswith("ix_")}
    for name in secondary:
        connection.execute(text(f'DROP INDEX "{name}"'))
    return list(secondary.values())


def measure(url: str, calls: int) -> list[dict[str, object]]:
    """Time pages over HTTP, views, documented queries, and what an erasure takes; the rows are summed first."""
    engine = connect(url)
    made = [_row("sum all days that are over", _seconds(lambda: _sum_days(engine)), 1)]
    with tempfile.TemporaryDirectory() as folder:
        made += _pages(engine, url, Path(folder), calls)
    for view in VIEWS:
        made.append(_timed(f"view {view}", partial(_ask, engine, f"SELECT * FROM {view}"), calls))
    of_run = "SELECT * FROM hardest_tasks WHERE run = 'run-000500'"
    made.append(_timed("view hardest_tasks, one run", partial(_ask, engine, of_run), calls))
    for title, query in documented_queries():
        made.append(_timed(f"query: {title}", partial(_ask, engine, query), calls))

    # One that an earlier run on the same database has not erased; its events are of two days.
    first = "SELECT entity FROM outcomes WHERE day < current_date - 1 ORDER BY created, entity LIMIT 1"
    with reading(engine) as s:
        entity = str(s.execute(text(first)).scalar_one())

    def erase() -> None:
        with session(engine) as s:
            erase_entity(s, "user", entity)

    made.append(_row("erasure of a newcomer of 20 events", _seconds(erase), 1))
    for view in ("online_quality", "adaptation_daily", "split_results"):
        made.append(_timed(f"view {view} right after it", partial(_ask, engine, f"SELECT * FROM {view}"), calls))
    made.append(_row("sum the days that it changed", _seconds(lambda: _sum_days(engine)), 1))
    engine.dispose()
    return made


def documented_queries() -> list[tuple[str, str]]:
    """The queries of docs/database.md by the first words of their comments, asked about what was filled in."""
    document = (Path(__file__).parents[1] / "docs" / "database.md").read_text()
    queries = "".join(re.findall(r"```sql\n(.*?)```", document, re.S)).split(";")
    found = []
    for query in filter(str.strip, queries):
        title = query.strip().splitlines()[0].removeprefix("-- ")[:60]
        of_run = "run = '...'" in query
        found.append((title, query.replace("'...'", "'run-000500'" if of_run else f"'{MODEL}'")))
    return found


def _pages(engine: Engine, url: str, home: Path, calls: int) -> list[dict[str, object]]:
    bundle = flagship()
    path = save_bundle(bundle, home / "models" / MODEL)
    with session(engine) as s:
        registry.publish_version(s, MODEL, path.name, str(path), end_split=True)
        upsert_entity(s, "user", "u000000007", {})
    with reading(engine) as s:
        run_cursor = page_runs(s, limit=950)
        for _ in range(9):
            run_cursor = page_runs(s, limit=950, cursor=run_cursor.next)
        deep = page_adaptations(s, limit=1000).next
    paths = {
        "home": "",
        "runs": "runs",
        f"runs, page at {950 * 10}": f"runs?cursor={run_cursor.next}",
        "runs that failed": "runs?status=failed",
        "one run": "runs/run-000500",
        "two runs compared": "runs/compare?run=run-000500&run=run-000600",
        "models": "models",
        "one model": f"models/{MODEL}",
        "adaptations": "adaptations",
        "adaptations, page at 1000": f"adaptations?cursor={deep}",
        "an entity": "entities?kind=user&id=u000000007",
        "items": "items",
        "data": "data",
        "playground": "playground",
    }
    made = []
    with (
        api_server(home, None, settings={"RECSYS_META_DATABASE_URL": url}) as (port, _),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/ui/", headers={"accept": "text/html"}, timeout=120) as client,
    ):
        for name, at in paths.items():

            def get(at: str = at) -> None:
                answer = client.get(at)
                if answer.status_code != 200:
                    raise SystemExit(f"/ui/{at} answered {answer.status_code}: {answer.text[:500]}")

            made.append(_timed(f"page {name}", get, calls))
    return made


def _sum_days(engine: Engine) -> None:
    while True:
        with session(engine) as s:
            if sum_next_day(s) is None:
                return


def _ask(engine: Engine, query: str) -> None:
    with reading(engine) as s:
        s.execute(text(query)).all()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _timed(name: str, work: Callable[[], object], calls: int) -> dict[str, object]:
    first = _seconds(work)
    times = [_seconds(work) for _ in range(calls)]
    return _row(name, statistics.median(times), calls, first=first, slowest=max(times))


def _row(name: str, seconds: float, calls: int, **more: float) -> dict[str, object]:
    print(f"{name:70} {seconds:8.3f} s", file=sys.stderr)
    return {"what": name, "seconds": seconds, "calls": calls, **more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of each of the three tables")
    parser.add_argument("--calls", type=int, default=5, help="after a first one")
    parser.add_argument("--server", default="postgresql://postgres@127.0.0.1:5432/postgres")
    parser.add_argument(
        "--name", default="recsys_meta_size", help="of the database; an existing one is not filled again"
    )
    parser.add_argument("--keep", action="store_true", help="do not drop the database in the end")
    given = parser.parse_args()
    with own_database(given.server, given.name, given.keep) as url:
        upgrade_database(url)
        engine = connect(url)
        with reading(engine) as s:
            is_filled = s.execute(text("SELECT 1 FROM outcomes LIMIT 1")).first() is not None
        if not is_filled:
            fill(engine, given.rows)
        with reading(engine) as s:
            size = int(s.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
            version = str(s.execute(text("SHOW server_version")).scalar_one())
            rows = {t: int(s.execute(text(f"SELECT COUNT(*) FROM {t}")).scalar_one()) for t in (*FILLS, "runs")}
        engine.dispose()
        made = measure(url, given.calls)
    machine = machine_facts(postgresql=version, gigabytes=size / 1e9)
    content = {
        "bench": "database size",
        "command": " ".join(["python -m benchmarks.database_size", *sys.argv[1:]]),
        "machine": machine,
        "rows": rows,
        "measured": made,
    }
    if given.json is not None:
        given.json.write_text(dump_json(content, indent=1))


if __name__ == "__main__":
    main()
