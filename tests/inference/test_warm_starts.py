"""Warm starts: one for all entities of a kind, and the least recently used one makes room."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from recsys_meta.core.types import Support
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.inference.warm_starts import WarmStarts
from recsys_meta.models.protocols import WarmStartPredictor
from tests.fixtures import trained_recommenders


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(trained_recommenders.flagship())


class Encodings:
    """Encodes supports, and counts how often: each start that is computed needs one."""

    def __init__(self, recommender: Recommender) -> None:
        self.encoder, self.count = recommender.encoder, 0

    def __call__(self, entities: Sequence[EncodedEntity]) -> Support:
        self.count += 1
        return self.encoder.support(entities)


@pytest.fixture
def encodings(recommender: Recommender) -> Encodings:
    return Encodings(recommender)


@pytest.fixture
def starts(recommender: Recommender, encodings: Encodings) -> Iterator[WarmStarts]:
    assert isinstance(recommender.bundle.predictor, WarmStartPredictor)
    with torch.no_grad():
        yield WarmStarts(recommender.bundle.predictor, recommender.body, encodings, capacity=3)


def entity(recommender: Recommender, size: int, first: int = 0, age: float | None = None) -> EncodedEntity:
    events = [Interaction(f"i{first + i}") for i in range(size)]
    return recommender.read_support(EntityRequest({} if age is None else {"age": age}, events))


def test_entities_with_equal_features_and_sizes_share_a_start(recommender, starts, encodings):
    one, other = entity(recommender, 2), entity(recommender, 2, first=5)
    first = starts.of([one])
    assert all(torch.equal(first[name], leaf) for name, leaf in starts.of([other]).items()) and encodings.count == 1
    starts.of([entity(recommender, 3)])
    starts.of([entity(recommender, 2, age=30.0)])
    assert encodings.count == 3 == len(starts)


def test_the_least_recently_used_start_makes_room(recommender, starts, encodings):
    for size in (1, 2, 3):
        starts.of([entity(recommender, size)])
    starts.of([entity(recommender, 1)])  # used again: now the start of two rows is the oldest
    starts.of([entity(recommender, 4)])
    assert encodings.count == 4 and len(starts) == 3
    for size in (1, 3, 4):
        starts.of([entity(recommender, size)])
    assert encodings.count == 4, "these were held"
    starts.of([entity(recommender, 2)])
    assert encodings.count == 5


def test_starts_are_the_same_for_threads_that_share_them(recommender, encodings, monkeypatch):
    predictor = recommender.bundle.predictor
    entities = [entity(recommender, size) for size in range(6)]
    with torch.no_grad():
        alone = [predictor.start(recommender.body, encodings([one])) for one in entities]
    # Constant starts, so that the threads meet in the cache and not in the model.
    monkeypatch.setattr(type(predictor), "start", lambda self, body, size: alone[size])
    starts = WarmStarts(predictor, recommender.body, lambda some: len(some[0].items), capacity=2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for size, start in enumerate(pool.map(starts.of, [[one] for one in entities * 3000])):
                assert start is alone[size % 6]
    finally:
        sys.setswitchinterval(interval)
    assert len(starts) == 2
