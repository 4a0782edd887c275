"""The learner contract, and what every learner has in common with every baseline.

A *predictor* is a frozen, typed configuration plus pure functions of (parameters, state, rows). A *learner* is a
predictor trained by gradient on episodes; a *baseline* is one that is computed by `fit`. Evaluation, serving and
the conformance suite see predictors only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support, TaskBatch


class PredictorConfig(BaseModel):
    """Base of all configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Predictor(Protocol):
    """What can adapt to newcomers and score items for them."""

    name: ClassVar[str]

    @property
    def config(self) -> PredictorConfig: ...

    def body(self, params: Params) -> Params:
        """What all tasks share, worked out once from the parameters (for example item vectors from features).

        All other functions take the result. Depends on parameters only.
        """

    def adapt(self, body: Params, support: Support) -> State:
        """State of T newcomers from their features and support rows. Shared parameters are never touched."""

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Scores [T, R] of given rows: logits for a ranking or clicks, label units for ratings."""

    def rank(self, body: Params, state: State) -> Tensor:
        """Scores [T, C] of the whole catalogue; padding and unknown may score anything finite."""

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Loss of each task's own support under a state, [T]; 0 for an empty support."""


@runtime_checkable
class ChoicePredictor(Protocol):
    """A predictor of the objective "choice". Items are local ids of the state's own catalogue, and `rank` gives scores
    [T, C] over it for an actor of whom nothing is known."""

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """Scores [T, R, K] of the candidates [T, R, K] of each row, given its history and context."""


@runtime_checkable
class UncertainPredictor(Protocol):
    """A predictor that knows how sure it is."""

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the scores of rows, given what is known of the entity."""


@runtime_checkable
class WarmStartPredictor(Protocol):
    """A predictor whose adaptation begins with what depends on features and the number of rows alone. Many newcomers
    share that, so serving keeps it."""

    def start(self, body: Params, support: Support) -> State:
        """What T newcomers with these features and numbers of rows start from; which rows does not matter."""

    def adapt_from(self, body: Params, start: State, support: Support) -> State:
        """The same as `adapt` up to the last bits, from a start that was kept; bit for bit the same for a newcomer
        whoever the others are."""


class Learner(Predictor, Protocol):
    """A predictor that is meta-trained."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Fresh parameters. Statistics may come from the given (training) entities only."""

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Any:
        """What training needs beside parameters and is never published (for example cross-fitted memories)."""

    def meta_loss(
        self, params: Params, batch: TaskBatch, aids: Any, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        """Loss of a meta-batch after adaptation, and figures worth logging."""

    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """The parameters with what is best chosen after training, on meta-validation episodes (a batch for each
        support size). Most learners return them as they are."""

    def is_frozen(self, key: str) -> bool:
        """Whether a parameter is a buffer that no gradient reaches."""

    def param_group(self, key: str) -> ParamGroup:
        """How the outer optimiser treats a parameter."""


class Baseline(Predictor, Protocol):
    """A predictor computed directly from training entities."""

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Parameters from the given (training) entities only."""

    def grid(self) -> list[Any]:
        """Settings of the same baseline to choose from on meta-validation (itself included)."""


@dataclass(frozen=True)
class ParamGroup:
    """Factor on the learning rate, and weight decay, of some parameters."""

    rate: float = 1.0
    decay: float = 0.0
