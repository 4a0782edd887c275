"""What keeps Redis or the database from serving is told in its own words, without a host, a user or a password."""

import pytest
import redis
from sqlalchemy.engine import make_url

from tests.api import bundles
from tests.api.servers import serving, settings, wait


def check_of(server, name):
    return server.client.get("/readyz").json()["checks"][name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("requirepass", "s3cret"), "Redis refuses: NOAUTH"),
        (("maxmemory", "1"), "Redis refuses: OOM"),
    ],
)
def test_redis_says_itself_what_is_wrong(home, light, own_redis, change, words):
    with serving(settings(home, light, own_redis.url)) as server:
        assert check_of(server, "redis")["ok"]
        own_redis.ask("CONFIG SET", *change)
        with redis.Redis.from_url(own_redis.url) as client, pytest.raises(redis.RedisError):
            client.set("a", "b")
        own_redis_drop(own_redis, change)
        server.recommend("i1", entity={"id": "a"})
        wait(lambda: (check_of(server, "redis")["detail"] or "").startswith(words), 20)
        assert str(own_redis.port) not in server.client.get("/readyz").text
        assert server.recommend("i1", "i2", entity={"id": "a"}).status_code == 200


def own_redis_drop(own_redis, change):
    """Hang up on the server, whose connections were let in before there was a password."""
    password = change[1] if change[0] == "requirepass" else None
    with redis.Redis(port=own_redis.port, password=password) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_a_redis_that_is_away_is_no_redis_that_refuses(home, light, own_redis):
    with serving(settings(home, light, own_redis.url)) as server:
        own_redis.stop()
        wait(lambda: not check_of(server, "redis")["ok"], 20)
        told = check_of(server, "redis")["detail"]
        assert told.startswith("Redis cannot be reached: ")
        assert "127.0.0.1" not in told and str(own_redis.port) not in told


def test_a_database_that_only_reads_is_told_from_one_that_is_away(home, migrated_schema, bundle):
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    url = make_url(migrated_schema)
    query = {"options": f"{url.query['options']} -c default_transaction_read_only=on"}
    with serving(settings(home, url.set(query=query).render_as_string(hide_password=False))) as server:
        refused = server.client.post("/v1/events", json={"events": [{"entity": "a", "item": "i1"}]})
        assert (refused.status_code, refused.json()["detail"]) == (503, "the database takes no writes")
        found = server.recommend("i1", entity={"id": "a"}).json()
        assert (found["missing"], found["served_by"]) == ([], "adapted")
