"""Requests of about the same time are adapted in one batch, and get the answers that each gets alone."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from api.inference.loaded_model import MAX_BATCH, MAX_BATCH_MS, LatencyTracker, LoadedModel
from api.inference.micro_batcher import BatchResult, MicroBatcher
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from tests.api import bundles
from tests.api.servers import Served, change_state, cut_short, serving, settings, wait
from tests.fixtures import trained_recommenders

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def flagship(home: Path, migrated_sqlite: str, own_redis: Any) -> Iterator[Served]:
    bundles.publish(migrated_sqlite, home / "models", "users", trained_recommenders.flagship())
    with serving(settings(home, migrated_sqlite, own_redis.url)) as server:
        assert server.container.registry.live["users"].recommender.batch_invariant, "else there are no batches"
        yield server


@pytest.fixture
def support_sizes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Numbers of events of the entities of each batch that was adapted."""
    batches: list[list[int]] = []
    real = Recommender.adapt_and_serialize

    def adapt_and_serialize(self: Recommender, entities: Sequence[EncodedEntity]) -> Any:
        batches.append([len(entity.items) for entity in entities])
        return real(self, entities)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    return batches


def newcomers(many: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    draw = [rng.sample(range(40), rng.choice((0, 1, 3, 3, 3))) for _ in range(many)]
    return [{"events": [{"item": f"i{i}"} for i in items], "n": 12} for items in draw]


def at_once(url: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    async def work() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/recommendations", json=body) for body in bodies))

    responses = asyncio.run(work())
    assert {response.status_code for response in responses} == {200}
    return [response.json() for response in responses]


def fix_latency(server: Served, ms: float) -> None:
    """Let a model pass for one that takes so long, whatever the machine is like."""
    server.container.registry.live["users"].latency.record = lambda ms, newcomers: None  # type: ignore[method-assign]
    server.container.registry.live["users"].latency.ms = ms


def shown(answers: Sequence[dict[str, Any]]) -> list[Any]:
    return [(answer["items"], answer["support_size"]) for answer in answers]


@pytest.mark.parametrize("ms", [0.1, 1000.0], ids=["in line", "in a thread"])
def test_answers_of_a_batch_are_those_of_each_alone(
    flagship: Served, own_redis: Any, batch_sizes: list[int], ms: float
) -> None:
    fix_latency(flagship, ms)
    bodies = newcomers(120)
    alone = [flagship.client.post("/v1/recommendations", json=body).json() for body in bodies]
    assert set(batch_sizes) == {1}
    wait(lambda: not flagship.container.cache_writer.pending)
    flagship.container.memory.close()
    own_redis.ask("FLUSHALL")
    together = at_once(flagship.url, bodies)
    assert max(batch_sizes) > 1
    assert shown(together) == shown(alone)
    # Other lists, from states that Redis holds.
    wait(lambda: not flagship.container.cache_writer.pending)
    flagship.container.memory.close()
    kept = at_once(flagship.url, [{**body, "n": 5} for body in bodies])
    assert {answer["served_by"] for answer in kept} == {"cache", "prior"}
    assert [items[:5] for items, _ in shown(alone)] == [items for items, _ in shown(kept)]


def test_whoever_cannot_be_adapted_spoils_it_for_nobody(flagship: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = newcomers(60, seed=1)
    whole = shown(at_once(flagship.url, bodies))
    flagship.container.memory.close()
    bodies = [{**body, "n": 11} for body in bodies]
    real, sick = (
        Recommender.adapt_and_serialize,
        flagship.container.registry.live["users"].recommender.catalog.known_item_ids(["i7"])[0],
    )

    def adapt_and_serialize(self: Recommender, known: Sequence[EncodedEntity]) -> Any:
        if any(sick in one.items for one in known):
            raise RuntimeError("no")
        return real(self, known)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    monkeypatch.setattr(flagship.container.redis, "request", nothing)
    for body, answer, (items, _) in zip(bodies, at_once(flagship.url, bodies), whole, strict=True):
        failed = {"item": "i7"} in body["events"]
        assert (answer["served_by"] == "popular") == failed
        assert failed or answer["items"] == items[:11]


def nothing(key: str) -> asyncio.Future[bytes | None]:
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    answer.set_result(None)
    return answer


def test_whose_scores_are_no_numbers_is_answered_by_popularity_and_nobody_else(
    flagship: Served, batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = newcomers(60, seed=1)
    whole = shown(at_once(flagship.url, bodies))
    flagship.container.memory.close()
    bodies = [{**body, "n": 11} for body in bodies]
    real, sick = (
        Recommender.adapt_and_serialize,
        flagship.container.registry.live["users"].recommender.catalog.known_item_ids(["i7"])[0],
    )

    def adapt_and_serialize(self: Recommender, known: Sequence[EncodedEntity]) -> Any:
        state, raw = real(self, known)
        for leaf in state.values():
            if leaf.is_floating_point():
                leaf[[sick in one.items for one in known]] = torch.nan
        return state, raw

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    monkeypatch.setattr(flagship.container.redis, "request", nothing)
    batch_sizes.clear()
    answers = at_once(flagship.url, bodies)
    assert max(batch_sizes) > 1
    failed = [{"item": "i7"} in body["events"] for body in bodies]
    assert 0 < sum(failed) < len(failed)
    assert [answer["served_by"] == "popular" for answer in answers] == failed
    assert all(f or a["items"] == items[:11] for f, a, (items, _) in zip(failed, answers, whole, strict=True))


def test_a_cached_state_that_does_not_fit_is_made_anew(flagship: Served) -> None:
    body = {"events": [{"item": "i3"}, {"item": "i9"}], "n": 12}
    first = flagship.client.post("/v1/recommendations", json=body).json()
    change_state(flagship, cut_short)
    again = flagship.client.post("/v1/recommendations", json=body).json()
    assert (again["served_by"], again["items"]) == ("adapted", first["items"])


def test_a_cached_state_of_older_events_that_does_not_fit_is_not_made_of_newer_ones(flagship: Served) -> None:
    body = {"events": [{"item": "i3"}, {"item": "i9"}], "n": 12}
    first = flagship.client.post("/v1/recommendations", json=body).json()
    page = {"events": [{"item": "i3"}], "n": 12, "cursor": first["next"]}
    assert flagship.client.post("/v1/recommendations", json=page).status_code == 200
    change_state(flagship, cut_short)
    page["n"] = 11  # else Redis may have the page itself
    assert flagship.client.post("/v1/recommendations", json=page).status_code == 409


def test_equal_newcomers_of_different_forms_are_all_answered() -> None:
    """One who has a state already, and one of the same events who has none; and more than are worked out at once."""
    recommender = Recommender(trained_recommenders.flagship())
    known = recommender.read_support(EntityRequest(events=[Interaction("i3"), Interaction("i9")]))
    state = recommender.adapt([known])
    model, batcher = LoadedModel("users", recommender, state), MicroBatcher(ThreadPoolExecutor(1))

    async def work() -> list[BatchResult | None]:
        asked = [
            batcher.adapt_and_score(model, known, given)
            for given in (None, state, None, *(copy.deepcopy(state) for _ in range(40)))
        ]
        return await asyncio.wait_for(asyncio.gather(*asked), 30)

    results = [result for result in asyncio.run(work()) if result is not None]
    assert len(results) == 43
    assert [result.state_bytes is None for result in results] == [False, True, False, *[True] * 40]
    assert all(torch.equal(result.scores, results[0].scores) for result in results)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on a loop of each kind: their timers have no type in common."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


@pytest.fixture
def without_server(batch_sizes: list[int], one_thread: None) -> tuple[LoadedModel, EncodedEntity]:
    """A model in service and a newcomer, without a server; `batch_sizes` tells who was worked out together."""
    recommender = Recommender(trained_recommenders.flagship())
    known = recommender.read_support(EntityRequest(events=[Interaction("i3"), Interaction("i9")]))
    model = LoadedModel("users", recommender, recommender.adapt([known]))
    assert recommender.batch_invariant  # tried once, with a batch of its own
    batch_sizes.clear()
    return model, known


def test_a_batch_waits_for_requests_under_way(
    without_server: tuple[LoadedModel, EncodedEntity], batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr("api.inference.micro_batcher.MAX_WAIT_S", 30.0)
    (model, known), batcher = without_server, MicroBatcher(ThreadPoolExecutor(1))

    async def come(steps: int) -> BatchResult | None:
        with batcher.announce():
            for _ in range(steps):
                await asyncio.sleep(0.01)
        return await batcher.adapt_and_score(model, known, None)

    async def goes_away() -> None:
        with batcher.announce():
            await asyncio.sleep(0.01)

    async def work() -> None:
        await asyncio.wait_for(asyncio.gather(come(0), come(3), goes_away(), come(5)), 20)
        assert batch_sizes == [3]
        await asyncio.wait_for(come(1), 20)  # alone again: nobody is waited for
        assert batch_sizes == [3, 1]

    run(work())


def test_a_batch_waits_no_longer_than_its_limit_nor_for_more_than_fit(
    without_server: tuple[LoadedModel, EncodedEntity], batch_sizes: list[int], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (model, known), batcher = without_server, MicroBatcher(ThreadPoolExecutor(1))
    model.latency.loop_batch = 4

    async def ask(many: int) -> None:
        with batcher.announce():  # somebody who never comes
            await asyncio.wait_for(
                asyncio.gather(*(batcher.adapt_and_score(model, known, None) for _ in range(many))), 20
            )

    run(ask(2))
    assert batch_sizes == [2]
    monkeypatch.setattr("api.inference.micro_batcher.MAX_WAIT_S", 30.0)
    batch_sizes.clear()
    model.latency.loop_batch = 4
    run(ask(4))
    assert batch_sizes == [4]


@pytest.mark.parametrize("ms", [0.1, 1000.0], ids=["in line", "in a thread"])
def test_a_batch_holds_no_more_than_the_model_takes_at_once(
    without_server: tuple[LoadedModel, EncodedEntity],
    batch_sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    ms: float,
) -> None:
    (model, entity), batcher = without_server, MicroBatcher(ThreadPoolExecutor(1))
    monkeypatch.setattr(model.latency, "record", lambda ms, entities: None)
    model.latency.ms, model.latency.loop_batch, model.latency.limit = ms, 4, 4

    async def work() -> None:
        asked = [batcher.adapt_and_score(model, entity, None) for _ in range(15)]
        results = await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert all(result is not None for result in results)

    run(work())
    assert batch_sizes == [4, 4, 4, 3]


def test_supports_of_different_sizes_are_never_in_one_batch(
    without_server: tuple[LoadedModel, EncodedEntity],
    support_sizes: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    """None is padded to the size of another, which costs time, and may cost a last bit."""
    (model, _), batcher = without_server, MicroBatcher(ThreadPoolExecutor(1))
    monkeypatch.setattr(model.latency, "record", lambda ms, entities: None)
    model.latency.ms, model.latency.loop_batch = 0.1, 16
    sizes = [1, 3, 2, 1, 2, 3, 0, 1, 0]
    entities = [
        model.recommender.read_support(EntityRequest(events=[Interaction(f"i{i + j}") for i in range(size)]))
        for j, size in enumerate(sizes)
    ]
    alone = [model.recommender.scores(model.recommender.adapt([entity]))[0] for entity in entities]
    support_sizes.clear()

    async def work() -> None:
        asked = [batcher.adapt_and_score(model, entity, None) for entity in entities]
        results = await asyncio.wait_for(asyncio.gather(*asked), 20)
        assert all(r is not None and torch.equal(r.scores, own) for r, own in zip(results, alone, strict=True))

    run(work())
    assert sorted(support_sizes) == [[0, 0], [1, 1, 1], [2, 2], [3, 3]]


def test_a_batch_grows_while_it_is_quick_and_shrinks_when_it_is_not() -> None:
    latency = LatencyTracker()
    for _ in range(2 * MAX_BATCH):
        latency.record(1.0, latency.max_batch)
    assert latency.max_batch == MAX_BATCH
    latency.record(MAX_BATCH_MS + 1, MAX_BATCH)
    assert latency.max_batch == MAX_BATCH // 2
    latency.record(1.0, 2)  # fewer than might have come tell nothing
    assert latency.max_batch == MAX_BATCH // 2
    for _ in range(4):
        latency.record(MAX_BATCH_MS + 1, latency.max_batch)
    assert latency.max_batch == 1


def test_of_a_large_catalogue_few_are_worked_out_together() -> None:
    latency = LatencyTracker(limit=3)
    for _ in range(10):
        latency.record(0.1, latency.max_batch)
    assert latency.max_batch == 3
    latency.ms = 1000.0
    assert latency.slow and latency.max_batch == 3
