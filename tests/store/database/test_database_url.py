"""Urls are read strictly: what is wrong with one is told without a word of the password."""

import pytest

from recsys_meta.core.errors import StoreError
from recsys_meta.store.cache.redis_cache import RedisCache, SyncRedisCache
from recsys_meta.store.database.database_url import parse_url

AMBIGUOUS = [
    "postgresql://app:s3cr@t@db/app",
    "postgresql://app:s3cr@t@db:5432/app",
    "postgresql://app:s3cret/x@db@y/app",
    "postgresql://s3cret@x@db",
    "postgresql+psycopg://app:s3cr@t@db/app",
]
UNREADABLE = ["postgresql://app:s3cret@db:port/app", "s3cret", "", "s3cret://x", "mysql://app:s3cret@db/app"]


@pytest.mark.parametrize("url", [*AMBIGUOUS, *UNREADABLE])
def test_no_part_of_a_password_is_told(url):
    with pytest.raises(StoreError) as refused:
        parse_url(url)
    text = str(refused.value)
    assert "s3cr" not in text and "t@db" not in text
    assert ("%40" in text) == (url in AMBIGUOUS)


def test_what_is_escaped_is_read():
    read = parse_url("postgresql://app:s3cr%40t%2F%3F@db:5433/app")
    assert (read.password, read.host, read.port, read.database) == ("s3cr@t/?", "db", 5433, "app")
    assert parse_url("postgresql://app:12?s3cret@db/app").password == "12?s3cret"
    assert parse_url("postgresql:///app").host is None
    assert parse_url("postgresql://app@db/app").username == "app"


def test_several_hosts_are_read_as_libpq_reads_them():
    read = parse_url("postgresql://app:x@one,two:5433/app?target_session_attrs=read-write")
    assert read.query["host"] == ("one:5432", "two:5433")
    assert (read.database, read.query["target_session_attrs"]) == ("app", "read-write")
    assert parse_url("postgresql://one,two/app").query["host"] == ("one:5432", "two:5432")


@pytest.mark.parametrize("kind", [RedisCache, SyncRedisCache])
@pytest.mark.parametrize(
    "url", ["redis://:12/s3cret@cache:6379/0", "redis://:12?s3cret@cache", "redis://:12#s3c@cache"]
)
def test_a_password_of_redis_is_not_taken_for_its_host(kind, url):
    with pytest.raises(StoreError, match="%2F") as refused:
        kind(url)
    assert "s3c" not in str(refused.value) and "12" not in str(refused.value)
