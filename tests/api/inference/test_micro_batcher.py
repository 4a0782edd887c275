"""Newcomers who ask at about the same time are adapted in one go, and nobody can tell."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from api.inference.loaded_model import LONGEST_MS, MOST, LatencyTracker
from api.inference.loaded_model import LoadedModel as Model
from api.inference.micro_batcher import BatchResult, MicroBatcher
from recsys_meta.inference.recommender import EncodedEntity, EntityRequest, Interaction, Recommender
from recsys_meta.store.database import migrate
from tests.api import bundles
from tests.api.servers import Served, change_state, cut_short, serving, settings, wait
from tests.fixtures import trained_recommenders

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def flagship(home: Path, sqlite_url: str, own_redis: Any) -> Iterator[Served]:
    migrate.upgrade_database(sqlite_url)
    bundles.publish(sqlite_url, home / "models", "users", trained_recommenders.flagship())
    with serving(settings(home, sqlite_url, own_redis.url)) as made:
        assert made.container.registry.live["users"].recommender.batch_invariant, "else nobody has company"
        yield made


@pytest.fixture
def parties(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were adapted at once, each time."""
    found: list[int] = []
    real = Recommender.adapt_and_serialize

    def adapt_and_serialize(self: Recommender, known: Sequence[EncodedEntity]) -> Any:
        found.append(len(known))
        time.sleep(0.02)  # so that others come meanwhile
        return real(self, known)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    return found


def newcomers(many: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    draw = [rng.sample(range(40), rng.choice((0, 1, 3, 3, 3))) for _ in range(many)]
    return [{"events": [{"item": f"i{i}"} for i in items], "n": 12} for items in draw]


def at_once(url: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    async def work() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return await asyncio.gather(*(client.post("/v1/recommendations", json=body) for body in bodies))

    found = asyncio.run(work())
    assert {response.status_code for response in found} == {200}
    return [response.json() for response in found]


def keep_pace(server: Served, ms: float) -> None:
    """Let a model pass for one that takes so long, whatever the machine is like."""
    server.container.registry.live["users"].pace.record = lambda ms, newcomers: None  # type: ignore[method-assign]
    server.container.registry.live["users"].pace.ms = ms


def shown(answers: Sequence[dict[str, Any]]) -> list[Any]:
    return [(answer["items"], answer["support_size"]) for answer in answers]


@pytest.mark.parametrize("ms", [0.1, 1000.0], ids=["in line", "in a thread"])
def test_in_company_answers_are_those_of_each_alone(
    flagship: Served, own_redis: Any, parties: list[int], ms: float
) -> None:
    keep_pace(flagship, ms)
    bodies = newcomers(120)
    alone = [flagship.client.post("/v1/recommendations", json=body).json() for body in bodies]
    assert set(parties) == {1}
    wait(lambda: not flagship.container.resolver.writing)
    flagship.container.memory.close()
    own_redis.ask("FLUSHALL")
    together = at_once(flagship.url, bodies)
    assert max(parties) > 1
    assert shown(together) == shown(alone)
    # Other lists, from states that Redis holds.
    wait(lambda: not flagship.container.resolver.writing)
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
        flagship.container.registry.live["users"].recommender.known_item_ids(["i7"])[0],
    )

    def adapt_and_serialize(self: Recommender, known: Sequence[EncodedEntity]) -> Any:
        if any(sick in one.items for one in known):
            raise RuntimeError("no")
        return real(self, known)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    monkeypatch.setattr(flagship.container.redis, "get", nothing)
    for body, answer, (items, _) in zip(bodies, at_once(flagship.url, bodies), whole, strict=True):
        failed = {"item": "i7"} in body["events"]
        assert (answer["served_by"] == "popular") == failed
        assert failed or answer["items"] == items[:11]


async def nothing(key: str) -> None:
    return None


def test_whose_scores_are_no_numbers_is_answered_by_popularity_and_nobody_else(
    flagship: Served, parties: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = newcomers(60, seed=1)
    whole = shown(at_once(flagship.url, bodies))
    flagship.container.memory.close()
    bodies = [{**body, "n": 11} for body in bodies]
    real, sick = (
        Recommender.adapt_and_serialize,
        flagship.container.registry.live["users"].recommender.known_item_ids(["i7"])[0],
    )

    def adapt_and_serialize(self: Recommender, known: Sequence[EncodedEntity]) -> Any:
        state, raw = real(self, known)
        for leaf in state.values():
            if leaf.is_floating_point():
                leaf[[sick in one.items for one in known]] = torch.nan
        return state, raw

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    monkeypatch.setattr(flagship.container.redis, "get", nothing)
    parties.clear()
    answers = at_once(flagship.url, bodies)
    assert max(parties) > 1
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
    model, batcher = Model("users", recommender, state), MicroBatcher(ThreadPoolExecutor(1))

    async def work() -> list[BatchResult | None]:
        asked = [
            batcher.solve(model, known, given)
            for given in (None, state, None, *(copy.deepcopy(state) for _ in range(40)))
        ]
        return await asyncio.wait_for(asyncio.gather(*asked), 30)

    found = [solved for solved in asyncio.run(work()) if solved is not None]
    assert len(found) == 43
    assert [solved.fresh is None for solved in found] == [False, True, False, *[True] * 40]
    assert all(torch.equal(solved.scores, found[0].scores) for solved in found)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on a loop of each kind: their timers have no type in common."""
    if request.param == "asyncio":
        return asyncio.run
    return pytest.importorskip("uvloop").run  # type: ignore[no-any-return]


@pytest.fixture
def lonely(parties: list[int], one_thread: None) -> tuple[Model, EncodedEntity]:
    """A model in service and a newcomer, without a server; `parties` tells who was worked out together."""
    recommender = Recommender(trained_recommenders.flagship())
    known = recommender.read_support(EntityRequest(events=[Interaction("i3"), Interaction("i9")]))
    model = Model("users", recommender, recommender.adapt([known]))
    assert recommender.batch_invariant  # tried once, with a party of its own
    parties.clear()
    return model, known


def test_a_party_waits_for_who_is_on_the_way(
    lonely: tuple[Model, EncodedEntity], parties: list[int], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr("api.inference.micro_batcher.PATIENCE_S", 30.0)
    (model, known), batcher = lonely, MicroBatcher(ThreadPoolExecutor(1))

    async def come(steps: int) -> BatchResult | None:
        with batcher.announce():
            for _ in range(steps):
                await asyncio.sleep(0.01)
        return await batcher.solve(model, known, None)

    async def goes_away() -> None:
        with batcher.announce():
            await asyncio.sleep(0.01)

    async def work() -> None:
        await asyncio.wait_for(asyncio.gather(come(0), come(3), goes_away(), come(5)), 20)
        assert parties == [3]
        await asyncio.wait_for(come(1), 20)  # alone again: nobody is waited for
        assert parties == [3, 1]

    run(work())


def test_a_party_waits_no_longer_than_its_patience_nor_for_more_than_fit(
    lonely: tuple[Model, EncodedEntity], parties: list[int], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (model, known), batcher = lonely, MicroBatcher(ThreadPoolExecutor(1))
    model.pace.party = 4

    async def ask(many: int) -> None:
        with batcher.announce():  # somebody who never comes
            await asyncio.wait_for(asyncio.gather(*(batcher.solve(model, known, None) for _ in range(many))), 20)

    run(ask(2))
    assert parties == [2]
    monkeypatch.setattr("api.inference.micro_batcher.PATIENCE_S", 30.0)
    parties.clear()
    model.pace.party = 4
    run(ask(4))
    assert parties == [4]


def test_a_party_grows_while_it_is_quick_and_shrinks_when_it_is_not() -> None:
    pace = LatencyTracker()
    for _ in range(2 * MOST):
        pace.record(1.0, pace.most)
    assert pace.most == MOST
    pace.record(LONGEST_MS + 1, MOST)
    assert pace.most == MOST // 2
    pace.record(1.0, 2)  # fewer than might have come tell nothing
    assert pace.most == MOST // 2
    for _ in range(4):
        pace.record(LONGEST_MS + 1, pace.most)
    assert pace.most == 1


def test_of_a_large_catalogue_few_are_worked_out_together() -> None:
    pace = LatencyTracker(limit=3)
    for _ in range(10):
        pace.record(0.1, pace.most)
    assert pace.most == 3
    pace.ms = 1000.0
    assert pace.slow and pace.most == 3
