import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from recsys_meta.core.errors import ConflictError, StoreError
from recsys_meta.store.database.engine import StoreUnavailable, connect, parse_url, ping, reading, session
from recsys_meta.store.entities import entities, events
from recsys_meta.store.tracking import runs
from tests.fixtures.services import free_port
from tests.store.samples import NOON, a_run, an_event

reuse = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def test_sqlite_pragmas(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'deep' / 'x.db'}")
    with engine.connect() as connection:
        wanted = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 10_000}
        assert {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted} == wanted
    engine.dispose()


def test_plain_postgresql_url_means_psycopg_3() -> None:
    for plain in ("postgresql://a:b@h/d", "postgres://a:b@h/d", "postgresql+psycopg2://a:b@h/d"):
        assert parse_url(plain).drivername == "postgresql+psycopg"


@pytest.mark.parametrize("url", ["", "secret", "postgresql://u:secret@h:port/d", "oracle://u:secret@h/d", "sqlite://"])
def test_bad_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        connect(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_outage_is_unavailable_and_shows_no_password() -> None:
    engine = connect(f"postgresql://somebody:pass-word@127.0.0.1:{free_port()}/d")
    with pytest.raises(StoreUnavailable) as caught:
        ping(engine)
    assert "pass-word" not in str(caught.value)


def test_ping(engine: Engine) -> None:
    ping(engine)


def test_session_commits_or_rolls_back(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "kept")
    with pytest.raises(RuntimeError), session(engine) as s:
        a_run(s, "lost")
        raise RuntimeError
    with reading(engine) as s:
        assert [run.id for run in runs.page_runs(s).items] == ["kept"]


def test_foreign_keys_and_checks_hold(engine: Engine) -> None:
    with pytest.raises(ConflictError), session(engine) as s:
        runs.log_metrics(s, [runs.MetricPoint("nobody", "loss", 1, 0.5)])
    with pytest.raises(ConflictError) as caught, session(engine) as s:
        s.execute(text("INSERT INTO models (name, created, updated) VALUES ('hush', '2024-01-01', '2024-01-01')"))
        a_run(s, "r")
        s.execute(text("UPDATE runs SET status = 'sleeping'"))
    assert "UPDATE" not in str(caught.value)


def test_database_without_tables_says_what_to_do(empty_url: str) -> None:
    engine = connect(empty_url)
    with pytest.raises(StoreUnavailable, match="db upgrade"), reading(engine) as s:
        runs.page_runs(s)
    engine.dispose()


def test_writers_wait_for_each_other(engine: Engine) -> None:
    """Read, then write: on SQLite a deferred transaction would fail here instead of waiting."""
    with session(engine) as s:
        entities.upsert_entity(s, "user", "u", {"n": 0})

    def add() -> None:
        for _ in range(20):
            with session(engine) as s:
                s.execute(text("UPDATE entities SET updated = updated"))  # the lock on PostgreSQL
                entities.upsert_entity(s, "user", "u", {"n": entities.load_entity(s, "user", "u").features["n"] + 1})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as s:
        assert entities.load_entity(s, "user", "u").features == {"n": 80}


def test_reader_does_not_wait_for_a_writer(engine: Engine) -> None:
    with session(engine) as writing:
        a_run(writing, "r")
        with reading(engine) as s:
            assert runs.page_runs(s).items == []


@reuse
@given(
    moment=st.datetimes(
        min_value=datetime(1971, 1, 1),
        max_value=datetime(9000, 1, 1),
        timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    )
)
def test_times_come_back_aware_and_equal(engine: Engine, moment: datetime) -> None:
    with session(engine) as s:
        entities.upsert_entity(s, "user", "u", {}, now=moment)
    with reading(engine) as s:
        stored = entities.load_entity(s, "user", "u").updated
    assert stored == moment
    assert stored.tzinfo is UTC


def test_naive_time_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="time zone"), session(engine) as s:
        events.insert_events(s, [an_event(time=datetime(2024, 1, 1))])
    with reading(engine) as s:
        assert events.count_events(s, "user", "u1") == 0


@reuse
@given(word=st.text(max_size=210))
def test_texts_are_kept_or_refused_alike(engine: Engine, word: str) -> None:
    good = len(word) <= 200 and "\x00" not in word and word.encode(errors="replace").decode() == word
    try:
        with session(engine) as s:
            entities.upsert_entity(s, "user", word, {word: [word]})
    except ValueError:
        assert not good
        return
    assert good
    with reading(engine) as s:
        row = entities.load_entity(s, "user", word)
        assert (row.external_id, row.features) == (word, {word: [word]})


@pytest.mark.parametrize("features", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1, 2}}, {"x": ["\x00"]}])
def test_what_is_not_json_is_refused(engine: Engine, features: dict[str, object]) -> None:
    with pytest.raises(ValueError), session(engine) as s:
        entities.upsert_entity(s, "user", "u", features)


def test_numbers_too_large_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError), session(engine) as s:
        a_run(s, "r", seed=2**70)


def test_rows_as_dictionaries(engine: Engine) -> None:
    with session(engine) as s:
        assert a_run(s, "r", now=NOON).as_dict()["started"] == NOON


def test_numbers_beyond_64_bits_stay_numbers_that_json_writers_can_write(database_url: str) -> None:
    """PostgreSQL gives 1e300 back with all its digits, which Python would read as a whole number."""
    numbers = {"huge": 1.7976931348623157e308, "low": -1e19, "tiny": 5e-324, "most": 2**63 - 1, "least": -(2**63)}
    made = connect(database_url)
    with session(made) as s:
        entities.upsert_entity(s, "user", "u", numbers)
    with reading(made) as s:
        found = entities.find_entity(s, "user", "u")
        assert found is not None
        assert found.features == numbers
        assert [type(v) for v in found.features.values()] == [type(numbers[k]) for k in found.features]
    made.dispose()
