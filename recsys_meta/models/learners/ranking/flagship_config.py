"""Configuration of the flagship for rankings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys_meta.models.learners.ranking.memory_gates import MemoryKind
from recsys_meta.models.protocols import PredictorConfig


class FlagshipConfig(PredictorConfig):
    """Configuration of `Flagship`. `dims` is per tower; with `memories` () the towers alone make the scores."""

    objective: Literal["ranking"] = Field(default="ranking", description="objective of the data set")
    dims: int = Field(default=64, ge=1, description="length of vectors, in each tower")
    towers: int = Field(default=3, ge=1, description="towers whose scores are added")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="dropout of item vectors, while training")
    scale: float = Field(default=0.1, gt=0, description="deviation of fresh item vectors")
    size_weight: float = Field(default=0.5, ge=0, le=1, description="a task weighs (query rows)^this")
    decay: float = Field(default=1e-2, ge=0, description="weight decay of vectors")
    negatives: int = Field(default=0, ge=0, description="sampled softmax with so many items; 0: the whole catalogue")
    most_values: int = Field(
        default=80, ge=1, description="features with more values are left out: their rows are met too rarely"
    )
    memories: tuple[MemoryKind, ...] = Field(
        default=("posterior", "ease", "cosine", "recent"), description="item-item memories beside the towers"
    )
    neighbours: int = Field(default=512, ge=1, description="neighbours of each item in an item-item memory")
    drift_width: float = Field(default=1.0, gt=0, description="bins of arrivals that count as the same time")
    subspace: int = Field(default=64, ge=1, description="dimensions of the posterior")
    trust: float = Field(default=0.008, gt=0, description="weight of the posterior's prior, for each support row")
    zeros: float = Field(default=0.0007, ge=0, description="how far items not met count as refused, for each row")
    ridge: float = Field(default=5000.0, gt=0, description="ridge penalty of the EASE memory")

    @property
    def steps(self) -> int:
        """Number of inner steps."""
        return 1
