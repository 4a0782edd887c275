"""A request's value says whether it may share a batch with others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from api.inference.cache_writer import CacheWriter
from api.inference.entity_context import EntityContext
from api.inference.loaded_model import LoadedModel
from api.inference.state_resolver import StateRequest, StateResolution, StateResolver
from api.persistence.async_database import AsyncDatabase
from api.persistence.profile_cache import ProfileCache
from api.telemetry.logging import open_log
from recsys_meta.core.types import Interactions, State
from recsys_meta.inference.ranking.list_builder import TopKRequest
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.store.cache.memory_cache import MemoryCache
from tests.fixtures import trained_recommenders

ANONYMOUS = EntityContext("user")


@pytest.fixture
def model(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    recommender = Recommender(trained_recommenders.flagship())
    assert recommender.batch_invariant, "else there are no batches"
    model = LoadedModel("users", recommender, recommender.adapt([entity_of(recommender, 0)]))
    monkeypatch.setattr(model.latency, "record", lambda *_: None)  # else a busy machine makes batches smaller
    model.latency.loop_batch = 16
    return model


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[StateResolver]:
    log = open_log()[0]
    database = AsyncDatabase(f"sqlite:///{tmp_path / 'recsys.db'}", log)
    memory = MemoryCache()
    resolver = StateResolver(memory, None, CacheWriter(memory, None, ProfileCache(database, None)), log)
    yield resolver
    resolver.close()
    database.close()


def entity_of(recommender: Recommender, first: int) -> EncodedEntity:
    return recommender.read_support(EntityRequest(events=[Interaction(f"i{first}"), Interaction(f"i{first + 1}")]))


def score_rows(rows: Interactions, recommender: Recommender, state: State) -> Tensor:
    return recommender.score_rows(state, rows)[0]


def resolve_at_once(resolver: StateResolver, requests: Sequence[StateRequest]) -> list[StateResolution]:
    async def work() -> list[StateResolution]:
        return await asyncio.wait_for(asyncio.gather(*(resolver.resolve(request) for request in requests)), 20)

    return asyncio.run(work())


def test_scores_of_the_whole_catalogue_are_computed_in_one_batch(
    model: LoadedModel, resolver: StateResolver, batch_sizes: list[int]
) -> None:
    requests = [StateRequest(model, entity_of(model.recommender, i), ANONYMOUS) for i in range(4)]
    requests[2] = StateRequest(model, requests[2].entity, ANONYMOUS, top_k=TopKRequest(3))
    assert all(request.batchable for request in requests)
    resolutions = resolve_at_once(resolver, requests)
    assert batch_sizes == [4]
    assert [r.top_k is not None and len(r.top_k) for r in resolutions] == [False, False, 3, False]


def test_scores_of_rows_are_computed_alone(model: LoadedModel, resolver: StateResolver, batch_sizes: list[int]) -> None:
    """The micro-batcher scores whole catalogues, so that it would answer another question."""
    recommender = model.recommender
    entities = [entity_of(recommender, i) for i in range(4)]
    score = partial(score_rows, recommender.queries.rows(entities[0], [("i7", {}), ("i9", {})]))
    requests = [StateRequest(model, entity, ANONYMOUS, score=score) for entity in entities]
    assert not any(request.batchable for request in requests)
    resolutions = resolve_at_once(resolver, requests)
    assert batch_sizes == [1, 1, 1, 1]
    for entity, resolution in zip(entities, resolutions, strict=True):
        assert torch.equal(resolution.scores, score(recommender, recommender.adapt([entity])))


def test_a_model_whose_numbers_depend_on_the_batch_is_asked_alone(
    model: LoadedModel, resolver: StateResolver, batch_sizes: list[int]
) -> None:
    model.recommender.__dict__["batch_invariant"] = False  # as it is on a machine whose products differ by size
    requests = [StateRequest(model, entity_of(model.recommender, i), ANONYMOUS) for i in range(4)]
    assert not any(request.batchable for request in requests)
    resolve_at_once(resolver, requests)
    assert batch_sizes == [1, 1, 1, 1]
