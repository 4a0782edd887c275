"""A walk over HTTP: events, features, lists and erasures of a few entities, in any order, at two servers that share a
database and a Redis. A model of a few lines says what every answer may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from recsys_meta.store.cache.keys import owner_key
from recsys_meta.store.cache.redis_cache import PREFIX
from tests.api import servers
from tests.api.conftest import Held
from tests.api.routes.test_entities import rows_about
from tests.api.servers import Served, serving, wait
from tests.fixtures.services import OwnRedis

ITEMS = [f"i{n}" for n in range(80)]
SOME = st.lists(st.sampled_from([*ITEMS[:30], "strange"]), max_size=6)
IDS = ["anna 7f3c2a", "b/ärbel 😀 51d0", "carl'; -- 88e4"]
FEATURES: list[dict[str, Any]] = [{}, {"age": 31}, {"age": 70, "group": ["group1"]}]


@pytest.fixture
def pair(home: Path, published: str, own_redis: OwnRedis) -> Iterator[list[Served]]:
    shared = servers.settings(home, published, own_redis.url)
    with ExitStack() as stack:
        yield [stack.enter_context(serving(shared)) for _ in range(2)]


def machine(pair: list[Served], own_redis: OwnRedis) -> type[RuleBasedStateMachine]:
    answers: dict[str, Any] = {}  # of every walk: they never change
    server, entity = st.sampled_from(pair), st.sampled_from(IDS)

    class Walk(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            for one in IDS:
                forget(pair, own_redis, pair[0], one)
            self.events: dict[str, set[str]] = {one: set() for one in IDS}
            self.features: dict[str, dict[str, Any]] = {one: {} for one in IDS}

        @rule(server=server, batch=st.lists(st.tuples(entity, st.sampled_from(ITEMS[:30])), min_size=1, max_size=5))
        def send(self, server: Served, batch: list[tuple[str, str]]) -> None:
            body = {"events": [{"entity": one, "item": item} for one, item in batch]}
            receipt = server.client.post("/v1/events", json=body).json()
            assert receipt["refused"] == [] and receipt["accepted"] + receipt["duplicates"] == len(batch)
            for one, item in batch:
                self.events[one].add(item)

        @rule(server=server, one=entity, features=st.sampled_from(FEATURES))
        def describe(self, server: Served, one: str, features: dict[str, Any]) -> None:
            assert server.client.put(path(one), json={"features": features}).status_code == 200
            self.features[one] = features

        @rule(server=server, one=entity, more=SOME, exclude=SOME, n=st.integers(1, 90), seen=st.booleans())
        def ask(self, server: Served, one: str, more: list[str], exclude: list[str], n: int, seen: bool) -> None:
            body = {"events": [{"item": i} for i in more], "exclude": exclude, "n": n, "include_seen": seen}
            response = recommend(server, {"entity": {"id": one}, **body})
            support = self.events[one].union(more) & set(ITEMS)
            items = [row["item"] for row in response["items"]]
            may = set(ITEMS) - set(exclude) - (set() if seen else support)
            assert len(items) == len(set(items)) == min(n, len(may))
            assert set(items) <= may
            assert response["support_size"] == len(support)
            assert response["served_by"] in (("adapted", "cache") if support else ("prior",))
            scores = [row["score"] for row in response["items"]]
            assert scores == sorted(scores, reverse=True)
            # One answer to one question, whoever is asked, in whatever order the events came, stored or not.
            question = str((sorted(support), self.features[one], sorted(set(exclude)), n, seen, response["model"]))
            assert answers.setdefault(question, response["items"]) == response["items"]
            nameless = {**body, "events": [{"item": i} for i in sorted(support, reverse=True)]}
            assert (
                recommend(server, {"entity": {"features": self.features[one]}, **nameless})["items"]
                == response["items"]
            )

        @rule(server=server, one=entity, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), exclude=SOME)
        def turn_pages(self, server: Served, one: str, sizes: list[int], exclude: list[str]) -> None:
            body = {"entity": {"id": one}, "exclude": exclude}
            whole, pages, cursor = recommend(server, {**body, "n": 200})["items"], [], None
            for turn in range(90):
                request = {**body, "n": sizes[turn % len(sizes)], **({"cursor": cursor} if cursor else {})}
                # Any server goes on where another began.
                page = recommend(pair[turn % 2], request)
                pages += page["items"]
                if (cursor := page["next"]) is None:
                    break
            assert [(p["item"], p["score"]) for p in pages] == [(w["item"], w["score"]) for w in whole]

        @rule(server=server, one=entity)
        def erase(self, server: Served, one: str) -> None:
            receipt = forget(pair, own_redis, server, one)
            assert receipt["entity"] == one
            self.events[one], self.features[one] = set(), {}
            for every in pair:
                response = recommend(every, {"entity": {"id": one}, "n": 80})
                assert (response["support_size"], response["served_by"]) == (0, "prior")
                assert response["items"] == recommend(every, {"n": 80})["items"]

        @rule(server=server)
        def forget_copies(self, server: Served) -> None:
            server.container.memory.close()

    return Walk


def path(entity: str) -> str:
    return f"/v1/entities/user/{quote(entity, safe='')}"


def recommend(server: Served, request: dict[str, Any]) -> Any:
    response = server.client.post("/v1/recommendations", json=request)
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["missing"] == []
    return body


def forget(pair: list[Served], own_redis: OwnRedis, server: Served, entity: str) -> Any:
    """Erase an entity, and see that nothing is left of it anywhere."""
    answer = server.client.delete(path(entity))
    assert answer.status_code == 200, answer.text
    for one in pair:
        wait(lambda one=one: not one.container.cache_writer.pending)
        assert one.container.writer.flush()
    assert rows_about(server, entity) == 0
    with redis.Redis.from_url(own_redis.url) as client:
        owner = (PREFIX + owner_key("user", entity)).encode()
        assert [key for key in client.keys("*") if key.startswith(owner)] == []
    assert server.client.get(path(entity)).status_code == 404
    return answer.json()


@pytest.mark.slow
def test_a_walk(pair: list[Served], own_redis: OwnRedis) -> None:
    # Not shrunk: each step is a request, and a failure may not take longer than the test is allowed.
    few = settings(
        max_examples=12,
        stateful_step_count=20,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(pair, own_redis), settings=few)


def test_what_is_on_its_way_to_redis_while_its_entity_is_erased_does_not_come_back(
    full: Served, keys_of: Callable[[], list[bytes]], new_id: str, held: Held
) -> None:
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i3"}]})
    assert recommend(full, {"entity": {"id": new_id}})["support_size"] == 1
    assert held.there.wait(60)
    assert full.client.delete(path(new_id)).status_code == 200
    held.free.set()
    wait(lambda: not full.container.cache_writer.pending)
    assert keys_of() == []


def test_no_server_goes_on_with_a_list_of_what_was_erased(pair: list[Served], own_redis: OwnRedis, new_id: str) -> None:
    """A cursor names a state of older events, which the memory of a server that erased nothing still has."""
    entity = {"id": new_id}
    pair[0].client.post("/v1/events", json={"events": [{"entity": new_id, "item": i} for i in ITEMS[:3]]})
    cursors = [recommend(one, {"entity": entity, "n": 5})["next"] for one in pair]
    more = {"events": [{"entity": new_id, "item": ITEMS[3]}]}
    pair[0].client.post("/v1/events", json=more)
    for one in pair:
        assert recommend(one, {"entity": entity, "n": 5, "cursor": cursors[0]})["support_size"] == 3, "of the old list"
    forget(pair, own_redis, pair[0], new_id)
    for events in (None, more):  # also once it has events again
        if events is not None:
            pair[0].client.post("/v1/events", json=events)
        for one, cursor in zip(pair, cursors, strict=True):
            answer = one.client.post("/v1/recommendations", json={"entity": entity, "n": 5, "cursor": cursor})
            assert answer.status_code == 409, answer.text
    forget(pair, own_redis, pair[1], new_id)
