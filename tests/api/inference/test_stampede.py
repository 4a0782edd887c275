"""Many at once for one newcomer whom nobody knows yet; and what a cached newcomer costs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import redis

from recsys_meta.inference.recommender import Recommender
from recsys_meta.store.cache.keys import LISTS, SLOTS
from recsys_meta.store.items.items import item_revisions
from tests.api.servers import Served, Workers, serving, settings, wait

pytestmark = pytest.mark.slow

THREE = [{"item": i} for i in ("i3", "i14", "i15")]
MANY = 500


def rush(url: str, body: dict, times: int = MANY) -> list[httpx.Response]:
    """The same question, all at once."""

    async def work() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=times, max_keepalive_connections=times)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(client.post("/v1/recommendations", json=body) for _ in range(times)))

    return asyncio.run(work())


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often a model adapted, by size of the support."""
    count: Counter[int] = Counter()
    real = Recommender.adapt_and_serialize

    def adapt_and_serialize(self, known):
        count.update(len(k.items) for k in known)
        time.sleep(0.02)  # so that others come meanwhile where they can
        return real(self, known)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    return count


@pytest.mark.parametrize("slow", [False, True], ids=["in line", "in a thread"])
def test_a_rush_for_a_cold_entity_adapts_once(full: Served, adapted: Counter[int], new_id: str, slow: bool) -> None:
    model = full.container.registry.live["users"]
    full.client.post("/v1/events", json={"events": [{"entity": new_id, **event} for event in THREE]})
    read: list[float] = []
    real = full.container.database.try_read

    async def glance(work):
        if work is not item_revisions:  # which is asked for twice a second, whoever calls
            read.append(time.monotonic())
        return await real(work)

    full.container.database.try_read = glance  # type: ignore[method-assign]
    model.latency.ms = 1000.0 if slow else 0.0
    # Bodies differ, so that lists do: what is shared is the state.
    found = rush(full.url, {"entity": {"id": new_id}, "n": 5})
    assert {r.status_code for r in found} == {200}
    assert {r.json()["support_size"] for r in found} == {3}
    assert len({str(r.json()["items"]) for r in found}) == 1
    assert adapted[3] <= 1
    assert len(read) <= 2


def test_a_rush_without_redis_and_without_an_id(server: Served, adapted: Counter[int]) -> None:
    server.container.registry.live["users"].latency.ms = 1000.0
    found = rush(server.url, {"events": THREE})
    assert {r.status_code for r in found} == {200}
    assert adapted[3] == 1


def test_whoever_makes_the_state_may_fail(full: Served, adapted: Counter[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait for it then go on by themselves, and nobody waits for ever."""

    def broken(self, known):
        adapted.update([len(known[0].items)])
        raise RuntimeError("no")

    monkeypatch.setattr(Recommender, "adapt_and_serialize", broken)
    found = rush(full.url, {"events": THREE}, 20)
    assert {(r.status_code, r.json()["served_by"]) for r in found} == {(200, "popular")}
    assert not full.container.resolver._in_flight


@pytest.mark.slow
def test_a_rush_at_two_workers_adapts_at_most_twice(home: Path, light: str, own_redis, new_id: str) -> None:
    workers = Workers(home, light, own_redis.url).start()
    try:
        stored = [{"entity": new_id, **event} for event in THREE]
        assert httpx.post(workers.url + "/v1/events", json={"events": stored}, timeout=20).json()["accepted"] == 3
        found = rush(workers.url, {"entity": {"id": new_id}, "n": 5})
        assert {r.status_code for r in found} == {200}
        # So many at once may be too many for a busy machine: who then goes without the stored events says so.
        whole = [r.json() for r in found if not r.json()["missing"]]
        assert len(whole) > MANY // 10
        assert len({str(one["items"]) for one in whole}) == 1
        by = Counter(one["served_by"] for one in whole)
        assert by["adapted"] <= 2
        assert by["adapted"] + by["cache"] == len(whole)

        # Erased, it is gone from Redis and from both processes, wherever the erasure was asked for.
        wait(lambda: httpx.delete(f"{workers.url}/v1/entities/user/{new_id}", timeout=20).is_success)
        asked = {"url": workers.url + "/v1/recommendations", "json": {"entity": {"id": new_id}}, "timeout": 20}
        after = [httpx.post(**asked) for _ in range(30)]
        assert {(r.json()["support_size"], r.json()["served_by"]) for r in after} == {(0, "prior")}
    finally:
        workers.stop()


def test_what_redis_holds_of_an_entity(full: Served, own_redis, new_id: str) -> None:
    """A state, a list and a word, under names that are known beforehand; nothing else, and nothing of it for ever. The
    list of who asks again: a newcomer who asks once leaves none."""
    full.recommend("i3", "i14", entity={"id": new_id})
    wait(lambda: not full.container.cache_writer.pending)
    with redis.Redis.from_url(own_redis.url) as client:
        assert not [key for key in client.keys("*") if chr(key[-1]) in LISTS]
        full.recommend("i3", "i14", entity={"id": new_id}, n=3)
        wait(lambda: not full.container.cache_writer.pending)
        keys = client.keys("*")
        word, *derived = sorted(keys, key=len)
        assert {key[:-1] for key in derived} == {word}
        (state,), (made,) = ([k for k in derived if chr(k[-1]) in slots] for slots in (SLOTS, LISTS))
        assert all(0 < client.ttl(key) <= 24 * 3600 for key in (word, state))
        assert 0 < client.ttl(made) <= 300
        names = client.memory_usage(word)
        assert names < 100
    full.client.delete(f"/v1/entities/user/{new_id}")
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.keys("*") == []


def test_a_list_that_another_process_made_is_not_made_again(
    home: Path, light: str, own_redis, adapted: Counter[int], new_id: str
) -> None:
    made = settings(home, light, own_redis.url)
    asked = {"entity": {"id": new_id}, "events": THREE, "n": 4}
    with serving(made) as one:
        one.client.post("/v1/recommendations", json={**asked, "n": 9})  # the list of who asks once is kept at home
        fresh = one.client.post("/v1/recommendations", json=asked)
        wait(lambda: not one.container.cache_writer.pending)
    with redis.Redis.from_url(own_redis.url) as client:
        client.delete(*(key for key in client.keys("*") if chr(key[-1]) in SLOTS))  # no state is left to rank by
    with serving(made) as two:
        adapted.clear()
        far, near = (two.client.post("/v1/recommendations", json=asked) for _ in range(2))
        assert [r.headers["x-cache"] for r in (far, near)] == ["redis", "process"]
        assert not adapted
        assert fresh.json()["items"] == far.json()["items"] == near.json()["items"]
        two.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i1"}]})
        assert two.client.post("/v1/recommendations", json=asked).headers["x-cache"] == "miss"


def test_a_rush_where_only_one_of_the_lists_is_in_redis_adapts_once(
    home: Path, light: str, own_redis, adapted: Counter[int], new_id: str
) -> None:
    made = settings(home, light, own_redis.url)
    asked = {"entity": {"id": new_id}, "events": THREE}
    with serving(made) as one:
        for n in (9, 4):  # the list of who asks once is kept at home
            one.client.post("/v1/recommendations", json={**asked, "n": n})
        wait(lambda: not one.container.cache_writer.pending)
    with redis.Redis.from_url(own_redis.url) as client:
        client.delete(*(key for key in client.keys("*") if chr(key[-1]) in SLOTS))
    with serving(made) as two:
        adapted.clear()
        two.container.registry.live["users"].latency.ms = 1000.0

        async def ask() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=two.url, timeout=30) as client:
                every = [{**asked, "n": n} for n in [4, *[5, 6] * 20]]
                return await asyncio.gather(*(client.post("/v1/recommendations", json=body) for body in every))

        found = asyncio.run(ask())
    assert {r.status_code for r in found} == {200}
    assert adapted[3] == 1


def test_fresh_and_cached_answers_are_equal(home: Path, light: str, own_redis) -> None:
    """Bit for bit: from the model, from Redis in another process, and from this process."""
    made = settings(home, light, own_redis.url)
    with serving(made) as one:
        fresh = one.client.post("/v1/recommendations", json={"events": THREE})
        near = one.client.post("/v1/recommendations", json={"events": THREE, "n": 11})
        wait(lambda: not one.container.cache_writer.pending)
    with serving(made) as two:
        far = two.client.post("/v1/recommendations", json={"events": THREE})
    assert [r.headers["x-cache"] for r in (fresh, near, far)] == ["miss", "process", "redis"]
    assert fresh.json()["items"] == far.json()["items"] == near.json()["items"][:10]
