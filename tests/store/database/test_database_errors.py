"""Each failure of a database is told in words of its own, for the log and for anybody."""

import sqlite3

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from recsys_meta.core.errors import StoreError
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import DatabaseOptions, StoreUnavailable, connect, ping, reading, session
from tests.fixtures.services import free_port


def refusal(url, work=None, options=None):
    engine = connect(url, options or DatabaseOptions())
    try:
        with pytest.raises(StoreUnavailable) as refused, session(engine) as s:
            (work or (lambda s: s.execute(text("SELECT 1"))))(s)
    finally:
        engine.dispose()
    assert refused.value.public and refused.value.public in str(refused.value)
    return refused.value


def changed(url, **parts):
    return make_url(url).set(**parts).render_as_string(hide_password=False)


def test_what_keeps_from_connecting(postgres_server):
    """A wrong port, name or user each have their own words."""
    assert "cannot be reached" in refusal(changed(postgres_server, port=free_port())).public
    assert "no database of that name" in refusal(changed(postgres_server, database="nowhere")).public
    assert "login" in refusal(changed(postgres_server, username="nobody")).public
    assert "host is not known" in refusal(changed(postgres_server, host="nowhere.invalid")).public


def test_a_server_that_only_reads_is_no_server_that_is_away(postgres_url):
    engine = connect(postgres_url)
    with session(engine) as s:
        s.execute(text("CREATE TABLE t (a int)"))
    engine.dispose()

    def write(s):
        s.execute(text("SET TRANSACTION READ ONLY"))
        s.execute(text("INSERT INTO t VALUES (1)"))

    refused = refusal(postgres_url, write)
    assert refused.public == "the database takes no writes"


def test_after_a_failover_the_old_connections_are_given_up(postgres_url):
    """A pool that keeps its connections would write to the old server, a standby now, for ever."""
    engine = connect(postgres_url)
    with session(engine) as s:
        s.execute(text("CREATE TABLE t (a int)"))
        before = s.execute(text("SELECT pg_backend_pid()")).scalar()
        s.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(StoreUnavailable, match="takes no writes"), session(engine) as s:
        s.execute(text("INSERT INTO t VALUES (1)"))
    with session(engine) as s:
        s.execute(text("INSERT INTO t VALUES (1)"))
        assert s.execute(text("SELECT pg_backend_pid()")).scalar() != before
    engine.dispose()


def test_statements_may_be_given_a_time(postgres_url):
    options = DatabaseOptions(statement_timeout_s=0.2)
    refused = refusal(postgres_url, lambda s: s.execute(text("SELECT pg_sleep(20)")), options)
    assert "took too long" in refused.public


def test_a_pool_that_is_used_up_names_its_setting(postgres_url):
    engine = connect(postgres_url, DatabaseOptions(pool_size=1, pool_overflow=0, pool_timeout_s=0.1))
    with reading(engine) as s:
        s.execute(text("SELECT 1"))
        with pytest.raises(StoreUnavailable, match="RECSYS_META_DATABASE_POOL_SIZE") as refused:
            ping(engine)
    assert "in use" in refused.value.public
    engine.dispose()


def test_without_a_pool_no_connection_stays(postgres_url):
    engine = connect(postgres_url, DatabaseOptions(pool_size=0))
    with reading(engine) as s:
        first = s.execute(text("SELECT pg_backend_pid()")).scalar()
    with reading(engine) as s:
        assert s.execute(text("SELECT pg_backend_pid()")).scalar() != first


def test_a_server_without_connections_left(postgres_server):
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute("CREATE ROLE recsys_meta_one LOGIN CONNECTION LIMIT 1")
        try:
            url = changed(postgres_server, username="recsys_meta_one")
            held = connect(url)
            with reading(held) as s:
                s.execute(text("SELECT 1"))
                assert "no connection left" in refusal(url).public
            held.dispose()
        finally:
            admin.execute("DROP ROLE recsys_meta_one")


def test_files_of_sqlite_that_cannot_be_used(tmp_path):
    file = tmp_path / "a.db"
    url = f"sqlite:///{file}"
    migrate.upgrade_database(url)

    def write(s):
        s.execute(text("PRAGMA query_only = ON"))
        s.execute(text("DELETE FROM events"))

    assert refusal(url, write).public == "the database takes no writes"
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA max_page_count = 1")
    full = connect(url)
    with pytest.raises(StoreUnavailable, match="disk is full"), session(full) as s:
        s.execute(text("PRAGMA max_page_count = 1"))
        for _ in range(1000):
            s.execute(
                text("INSERT INTO audit (at, actor, action, target) VALUES ('2020-01-01', 'a', 'b', :t)"),
                {"t": "x" * 400},
            )
    full.dispose()
    (tmp_path / "no.db").write_bytes(b"no database at all" * 100)
    assert "none of SQLite" in refusal(f"sqlite:///{tmp_path / 'no.db'}").public
    (tmp_path / "folder").mkdir()
    assert "cannot be opened" in refusal(f"sqlite:///{tmp_path / 'folder'}").public


def test_tables_of_another_program_are_named(empty_url):
    engine = connect(empty_url)
    with session(engine) as s:
        s.execute(text("CREATE TABLE runs (id int)"))
    with pytest.raises(StoreError, match=r"another program.*runs.*of its own"):
        migrate.upgrade_database(empty_url)
    engine.dispose()


def test_sqlite_commits_reach_the_disk_and_deletions_overwrite(sqlite_url):
    engine = connect(sqlite_url)
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert connection.execute(text("PRAGMA secure_delete")).scalar() == 1
    engine.dispose()
