"""Protocols of predictors: the contract of learners and baselines.

A *predictor* is a frozen, typed configuration plus pure functions of (parameters, state, rows). A *learner* is a
predictor trained by gradient on episodes; a *baseline* is computed by `fit` in closed form or by a solver. Evaluation,
serving and the conformance suite see predictors only.

Parameters pass through `body` before anything else: the *body* is all that is precomputed from the parameters and
shared by all tasks, and `adapt`, `score`, `rank` and `support_loss` take it in place of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import (
    FloatArray,
    IntArray,
    Interactions,
    Params,
    RowSelection,
    State,
    Support,
    TaskBatch,
)


class PredictorConfig(BaseModel):
    """Base class of all configurations: frozen; unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Predictor(Protocol):
    """A model that adapts to new entities from their support rows and scores items for them."""

    name: ClassVar[str]

    @property
    def config(self) -> PredictorConfig: ...

    def body(self, params: Params) -> Params:
        """Precompute from the parameters what all tasks share (for example item vectors from their features).

        The result, the body, is the first argument of all other functions. It depends on the parameters only, so that
        a server computes it once for a model; where nothing can be precomputed it is the parameters themselves.
        """

    def adapt(self, body: Params, support: Support) -> State:
        """Adapt to T entities: their states from features and support rows. The body is never changed."""

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Scores [T, R] of rows: logits for rankings and clicks, label units for ratings."""

    def rank(self, body: Params, state: State) -> Tensor:
        """Scores [T, C] of the whole catalogue; the two reserved ids may score anything finite."""

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        """Loss [T] of each task's own support under a state; 0 for an empty support."""


@runtime_checkable
class ChoicePredictor(Protocol):
    """A predictor of the objective "choice". Items are local ids of the entity's own catalogue, and `rank` gives scores
    [T, C] over it for an actor without a history."""

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """Scores [T, R, K] of the candidates [T, R, K] of each row, given its history and context."""


@runtime_checkable
class UncertainPredictor(Protocol):
    """A predictor with a posterior: it gives the uncertainty of its scores."""

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the scores of rows under the posterior that a state holds."""


@runtime_checkable
class WarmStartPredictor(Protocol):
    """A predictor whose adaptation has a first part that depends on features and the number of rows alone. Many new
    entities share it, so a server caches it."""

    def start(self, body: Params, support: Support) -> State:
        """Start state of T entities, from their features and numbers of rows; the content of the rows has no
        influence."""

    def adapt_from(self, body: Params, start: State, support: Support) -> State:
        """Adapt from a precomputed start. Equals `adapt` up to rounding; bit for bit independent of the other entities
        of the batch."""


@dataclass(frozen=True)
class EvidenceMixture:
    """Scores of a ranking as gain * evidence [T, C] + weight * popularity [C], weight and gain [T] float32.

    Where a gain is not a number the evidence is divided by its standard deviation over the catalogue, and constant
    evidence leaves popularity, with weight 1.
    """

    evidence: Tensor
    weight: FloatArray
    gain: FloatArray


def constant_mixture(evidence: Tensor, weight: float = 0.0, gain: float = 1.0) -> EvidenceMixture:
    """Return the mixture with the same weight and gain for all entities; without them, the evidence alone."""
    tasks = evidence.shape[0]
    return EvidenceMixture(evidence, _constant(weight, tasks), _constant(gain, tasks))


@lru_cache(maxsize=256)  # one entity after another is ranked with the same numbers
def _constant(value: float, count: int) -> FloatArray:
    numbers = np.full(count, value, np.float32)
    numbers.flags.writeable = False
    return numbers


@runtime_checkable
class MixturePredictor(Protocol):
    """A predictor of rankings that can leave it to an ensemble to mix evidence with popularity and to standardize the
    result, which costs less for all members at once."""

    def mixture_tables(self, body: Params) -> Params:
        """Precompute, from what is fitted alone, what `mixture` finds in the body beside it, with keys that begin with
        "mixture/"; "mixture/popularity" [C] is what the evidence is mixed with, nothing where weights are 0."""

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        """Scores of the whole catalogue, up to a constant for each entity."""


@runtime_checkable
class FactorPredictor(Protocol):
    """A predictor of rankings whose scores, or whose evidence in an ensemble, are a product: query [T, D] @ factors
    [D, C]. States have size [T], the number of support rows."""

    def factor_table(self, body: Params) -> Tensor | None:
        """Factors [D, C] of the catalogue, of a body that has the tables of `mixture_tables` too; None where scores
        are no product."""

    def query(self, body: Params, state: State) -> Tensor:
        """Queries [T, D] of T states."""

    def item_evidence(self, body: Params, state: State, items: IntArray) -> FloatArray:
        """Products of items [T, K], those of an entity whatever items and entities are beside it."""

    def mix(self, state: State, evidence: Tensor) -> EvidenceMixture:
        """Mixture of evidence [T, ...] with the weight and gain that it has for the states."""


@dataclass(frozen=True)
class FactorScores:
    """Scores of T states from factors. Up to a constant for each entity, and roughly, they are query [T, D] @ the
    factors' table, plus rest [T, C] where there is one; `of_items` gives those of items [T, K], precisely."""

    query: FloatArray
    rest: FloatArray | None
    of_items: Callable[[IntArray], FloatArray]


class FactorRanking(Protocol):
    """Rankings of one predictor and body by factors: what finds the best of many items without scoring all."""

    @property
    def tables(self) -> Sequence[Tensor]:
        """Factors [D, C], in parts one below the other."""

    def scores(self, state: State) -> FactorScores:
        """Scores of T states."""


class Learner(Predictor, Protocol):
    """A predictor that is meta-trained on episodes."""

    def init(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Params:
        """Initialize parameters. Statistics may come from the given (training) entities only."""

    def training_state(self, data: Dataset, entities: IntArray, generator: torch.Generator) -> Any:
        """State that training needs beside the parameters and no bundle holds (for example cross-fitted factors)."""

    def meta_loss(
        self, params: Params, batch: TaskBatch, training_state: Any, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of a meta-batch after adaptation, a scalar, and scalars to log by name, without a graph.

        Nothing is read back from the tensors: on an accelerator a step would wait for each number.
        """

    def calibrate(self, params: Params, episodes: Sequence[TaskBatch]) -> Params:
        """Choose constants after training, on meta-validation episodes (a batch for each support size), and return the
        parameters with them. Most learners return the parameters unchanged."""

    def is_frozen(self, key: str) -> bool:
        """True for a buffer: a parameter that is not trained by gradient."""

    def param_group(self, key: str) -> ParamGroup:
        """Learning rate factor and weight decay of a parameter in the outer optimiser."""


@runtime_checkable
class RowLearner(Protocol):
    """A learner whose step reads few rows of its tables, which are then all that a step costs."""

    def select_rows(self, params: Params, batch: TaskBatch, generator: torch.Generator) -> RowSelection | None:
        """Select the rows that a step on the batch reads; None where it reads whole tables. What the step draws beside
        dropout is drawn here. Of trained tables only shapes may be read: several processes may share their rows."""

    def row_loss(
        self, params: Params, batch: TaskBatch, training_state: Any, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Compute the meta-loss from the parameters and the batch of a selection, rows in place of tables."""


@runtime_checkable
class ScheduledLearner(Protocol):
    """A learner whose meta-loss changes in the course of training."""

    def at_progress(self, progress: float) -> Learner:
        """Return the learner as it is when this share of training is over, from 0 to 1."""


@runtime_checkable
class DislikeLearner(Protocol):
    """A learner whose adaptation reads `Support.dislikes`."""

    def choose_push(self, params: Params, episodes: Sequence[TaskBatch], held_out: IntArray) -> Params:
        """Choose after training how far dislikes push away, on episodes whose supports have some, and return the
        parameters with it; unchanged where pushing does not help. `held_out` are entities that were not trained on,
        which must gain too."""


class Baseline(Predictor, Protocol):
    """A predictor computed directly from training entities."""

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Fit parameters to the given (training) entities only."""

    def grid(self) -> list[Any]:
        """Configurations of the same baseline to choose from on meta-validation, itself included."""


@dataclass(frozen=True)
class ParamGroup:
    """Factor on the learning rate, and weight decay, of some parameters."""

    rate: float = 1.0
    decay: float = 0.0
