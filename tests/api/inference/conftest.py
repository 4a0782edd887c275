"""Fixtures that see what a model is asked to adapt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were adapted."""
    sizes: list[int] = []
    real = Recommender.adapt_and_serialize

    def adapt_and_serialize(self: Recommender, entities: Sequence[EncodedEntity]) -> Any:
        sizes.append(len(entities))
        time.sleep(0.02)  # so that other requests come meanwhile
        return real(self, entities)

    monkeypatch.setattr(Recommender, "adapt_and_serialize", adapt_and_serialize)
    return sizes
