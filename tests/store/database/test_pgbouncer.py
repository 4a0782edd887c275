"""Behind PgBouncer in transaction mode nothing fails that does not fail without it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import DatabaseOptions, connect, reading, session
from recsys_meta.store.entities import adaptations, entities, events
from recsys_meta.store.schema_check import check_schema
from recsys_meta.store.tracking import runs
from tests.fixtures.pgbouncer import pgbouncer_url  # noqa: F401  (fixtures are found by name)
from tests.store.samples import a_run, an_adaptation, an_event


@pytest.mark.parametrize("pool_size", [5, 0])
def test_many_callers_write_and_read(pgbouncer_url: str, pool_size: int) -> None:  # noqa: F811
    """Each statement comes again and again on each connection: a driver prepares it then, for one server process."""
    migrate.upgrade_database(pgbouncer_url)
    assert check_schema(pgbouncer_url) == migrate.newest_revision()
    engine = connect(pgbouncer_url, DatabaseOptions(pool_size=pool_size, statement_timeout_s=30))
    with session(engine) as s:
        a_run(s, "r")

    def work(caller: int) -> int:
        stored = 0
        for turn in range(20):
            name = f"{caller}-{turn % 5}"
            with session(engine) as s:
                entities.upsert_entity(s, "user", name, {"turn": turn})
                outcomes = events.insert_events(s, [an_event(f"{caller}-{turn}-{i}", entity=name) for i in range(3)])
                stored += outcomes.count("new")
                adaptations.save_adaptations(s, [an_adaptation(name)])
            with session(engine) as s:
                runs.log_metrics(s, [runs.MetricPoint("r", f"k{caller}", turn, 0.5)])
            with reading(engine) as s:
                assert events.support_events(s, "user", name, 10)
            if turn % 10 == 9:
                with session(engine) as s:
                    entities.erase_entity(s, "user", name)
        return stored

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [60] * 8
    with reading(engine) as s:
        assert s.execute(text("SELECT COUNT(*) FROM metrics")).scalar() == 160
    engine.dispose()
