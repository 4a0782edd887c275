"""Who asks too often is told when to come back; counted in Redis by all processes, and by each where it is away."""

import asyncio
import socket

import pytest
import redis

from api.app import build_app
from api.http.api_keys import ApiKeyStore, parse_keys
from api.http.rate_limit import RateLimiter, RateLimitMiddleware, caller_identity
from recsys_meta.core.errors import ConfigError
from tests.api.servers import passes, serving, settings, wait

KEYS = "first:read,second:read"


def limited(home, url, limit, redis_url=None, keys=KEYS):
    return settings(home, url, redis_url, keys).model_copy(update={"rate_limit": limit})


def ask(server, key="first", path="/v1/models"):
    return server.client.get(path, headers={"x-api-key": key})


def test_who_asks_too_often_is_told_when_to_come_back(home, light):
    with serving(limited(home, light, "5 per year")) as server:
        assert [ask(server).status_code for _ in range(7)] == [200] * 5 + [429] * 2
        refused = ask(server)
        assert 1 <= int(refused.headers["retry-after"]) <= 366 * 24 * 3600
        assert refused.headers["content-type"] == "application/problem+json"
        assert (refused.json()["status"], refused.json()["request_id"]) == (429, refused.headers["x-request-id"])
        assert ask(server, "second").status_code == 200  # each key has its own


def test_probes_and_figures_are_never_refused(home, light):
    with serving(limited(home, light, "1 per year")) as server:
        for _ in range(5):
            assert [ask(server, path=p).status_code for p in ("/livez", "/readyz", "/metrics")] == [200] * 3


def test_guessing_keys_is_counted_by_address(home, light):
    with serving(limited(home, light, "5 per year")) as server:
        assert [ask(server, f"guess {n}").status_code for n in range(7)] == [401] * 5 + [429] * 2
        assert ask(server).status_code == 200


def test_the_window_moves_on(home, light):
    with serving(limited(home, light, "5 per 2 seconds")) as server:
        wait(lambda: ask(server).status_code == 429)
        wait(lambda: ask(server).status_code == 200)


@pytest.fixture
def pair(home, light, own_redis):
    """Two servers with one Redis, as two workers would be."""
    made = limited(home, light, "20 per year", own_redis.url)
    with serving(made) as one, serving(made) as two:
        yield one, two


def test_processes_count_together(pair, own_redis):
    good = [ask(server).status_code for _ in range(20) for server in pair].count(200)
    assert good == 20
    with redis.Redis.from_url(own_redis.url) as client:
        names = [k for k in client.keys("*") if b"rate" in k]
        assert names
        assert not [k for k in names if b"first" in k]
        assert all(client.ttl(k) > 0 for k in names)


def test_without_redis_each_process_counts_for_itself(pair, own_redis):
    own_redis.stop()
    good = [ask(server).status_code for _ in range(30) for server in pair].count(200)
    assert good == 40
    own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        for server in pair:
            client.flushall()
            wait(lambda server=server: ask(server, "second") and client.keys("*environment-2*"))


def test_a_redis_that_never_was_costs_no_answer(home, light):
    with serving(limited(home, light, "5 per year", "redis://127.0.0.1:1/0")) as server:
        assert [ask(server).status_code for _ in range(7)] == [200] * 5 + [429] * 2


def test_a_redis_that_hangs_or_refuses_costs_no_answer(home, light, own_redis, hasty):
    hasty("redis")
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes connections and says nothing
        url = f"redis://127.0.0.1:{hole.getsockname()[1]}/0"
        with serving(limited(home, light, "5 per year", url)) as server:
            assert [ask(server).status_code for _ in range(7)] == [200] * 5 + [429] * 2
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "secret")
    with serving(limited(home, light, "5 per year", own_redis.url)) as server:
        assert [ask(server).status_code for _ in range(7)] == [200] * 5 + [429] * 2


def spend(limiter, who, times):
    async def walk():
        found = [await limiter.hit(who) for _ in range(times)]
        await limiter.close()
        return found

    return asyncio.run(walk())


def test_a_portion_is_spent_without_asking_redis(own_redis):
    with redis.Redis.from_url(own_redis.url) as client:
        limiter = RateLimiter("1000 per year", own_redis.url)
        found = spend(limiter, "key-a", 1005)
        asked = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert found[:1000] == [None] * 1000
    assert None not in found[1000:]
    assert 50 <= asked < 60


def test_what_is_left_when_no_portion_is_may_be_spent_too():
    found = spend(RateLimiter("149 per year"), "key-a", 200)  # portions are of two
    assert found[:149] == [None] * 149 and None not in found[149:]


def test_those_who_come_together_share_one_portion():
    async def walk():
        limiter = RateLimiter("100 per year")
        found = await asyncio.gather(*(limiter.hit("key-a") for _ in range(150)))
        return [w for w in found if w is None]

    assert len(asyncio.run(walk())) == 100


def test_many_addresses_do_not_fill_the_memory():
    async def walk():
        limiter = RateLimiter("10 per year")
        for n in range(10_500):
            await limiter.hit(f"address-{n}")
        return len(limiter._callers)

    assert asyncio.run(walk()) == 10_000


def test_a_busy_caller_is_remembered_while_many_others_come(monkeypatch):
    """To be forgotten is to lose the rest of a portion: the limit would be spent without being used."""
    monkeypatch.setattr("api.http.rate_limit._MAX_CALLERS", 100)

    async def walk():
        limiter, allowed = RateLimiter("500 per year"), 0  # portions are of ten
        for n in range(1800):
            await limiter.hit(f"address-{n}")
            if n % 3 == 0:
                allowed += await limiter.hit("key-busy") is None
        return allowed, "key-busy" in limiter._callers, len(limiter._callers)

    assert asyncio.run(walk()) == (500, True, 100)


@pytest.mark.parametrize("limit", ["", "many", "0/second", "5", "5 per fortnight", "-1/second"])
def test_a_limit_that_cannot_be_read_is_refused(limit):
    with pytest.raises(ConfigError, match="RATE_LIMIT"):
        RateLimiter(limit)


@pytest.mark.parametrize(
    ("client", "who"),
    [
        (("10.1.2.3", 5), "address-10.1.2.3"),
        (("::ffff:10.1.2.3", 5), "address-10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 5), "address-2001:db8:1:2::"),
        (("2001:db8:1:2:ffff::1", 5), "address-2001:db8:1:2::"),
        (("evil\r\nFLUSHALL", 5), "address-unknown"),
        (None, "address-unknown"),
    ],
)
def test_what_a_caller_is_counted_under(client, who):
    ring = ApiKeyStore(parse_keys(["secret:read"]))
    assert caller_identity(ring, {"client": client, "headers": [(b"x-api-key", b"wrong\xff")]}) == who
    assert caller_identity(ring, {"client": client, "headers": [(b"x-api-key", b"secret")]}) == "key-environment-1"


def test_the_house_is_without_a_limit_unless_told(home, light):
    made = settings(home, light)
    assert not passes(build_app(made), RateLimitMiddleware)
    assert passes(build_app(made.model_copy(update={"rate_limit": "5 per year"})), RateLimitMiddleware)
