"""Base class of the baselines: configuration, grid of settings, support loss.

A baseline is a frozen configuration whose fields fall into three kinds: those that `fit` depends on (`fit_fields`),
those that `body` depends on besides (`body_fields`), and the rest, which only adaptation and scoring use. Tuning
calls `fit` once for all settings that agree in the first kind, and `body` once for all that agree in the first two.

Settings of one grid have states of the same leaves and shapes, so that tasks adapted under different settings can
share a batch.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import product
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support
from recsys_meta.models.functional.losses import logistic_loss, softmax_loss, squared_error
from recsys_meta.models.protocols import EvidenceMixture, PredictorConfig, constant_mixture

RANKING_OBJECTIVES: frozenset[Objective] = frozenset({"ranking"})
LABEL_OBJECTIVES: frozenset[Objective] = frozenset({"rating", "click"})


class BaselineConfig(PredictorConfig, ABC):
    """Base class of all baselines; a subclass defines `name`, `objectives`, `fit`, `adapt` and `rank`."""

    name: ClassVar[str]
    objectives: ClassVar[frozenset[Objective]] = RANKING_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset()
    body_fields: ClassVar[frozenset[str]] = frozenset()
    cold_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that the scores depend on with an empty support; without any, those scores are popularity."""

    reads_order: ClassVar[bool] = False
    """True where the scores depend on the order of the support's rows."""
    requires: ClassVar[str] = ""
    """Module that `fit` needs and that comes with an extra alone."""
    reads_rows: ClassVar[bool] = True
    """False where states do not depend on the rows of a support, beyond their number: many entities share them."""

    objective: Objective = "ranking"

    @property
    def config(self) -> PredictorConfig:
        return self

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        """Return the values to try for each field that is tuned, for this objective."""
        return {}

    def grid(self) -> list[Self]:
        """Return all settings of the search space, where tuning begins; other fields are as in this setting.

        Settings with the same fit key, and among them those with the same body key, follow one another.
        """
        space = dict(self.search_space())
        names = sorted(space, key=lambda f: 0 if f in self.fit_fields else 1 if f in self.body_fields else 2)
        return [
            self.model_copy(update=dict(zip(names, values, strict=True)))
            for values in product(*(space[n] for n in names))
        ]

    def fit_key(self) -> str:
        """Return a key of the fields that `fit` depends on: equal keys mean equal parameters."""
        return json.dumps({n: getattr(self, n) for n in sorted(self.fit_fields)})

    def body_key(self) -> str:
        """Return a key of the fields that `body` depends on: equal keys mean equal bodies."""
        return json.dumps({n: getattr(self, n) for n in sorted(self.fit_fields | self.body_fields)})

    @abstractmethod
    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Fit the parameters on the given (training) entities only. Raises ConfigError for another objective."""

    def empty_key(self) -> str:
        """Return a key of the fields that matter with an empty support: equal keys mean equal scores there."""
        return json.dumps({n: getattr(self, n) for n in sorted(self.cold_fields)})

    def body(self, params: Params) -> Params:
        return params

    @abstractmethod
    def adapt(self, body: Params, support: Support) -> State:
        """Adapt to T supports; see `recsys_meta.models.protocols.Predictor`."""

    @abstractmethod
    def rank(self, body: Params, state: State) -> Tensor:
        """Score the whole catalogue, [T, C]."""

    def mixture_tables(self, body: Params) -> Params:
        return {}

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return mix_evidence(self.rank(body, state), 0.0, gain=1.0)

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self.rank(body, state).gather(1, rows.item)

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        rows = support.rows
        match self.objective:
            case "ranking":
                return softmax_loss(self.rank(body, state), rows)
            case "rating":
                return squared_error(self.score(body, state, rows), rows)
            case _:
                return logistic_loss(self.score(body, state, rows), rows)

    def check_objective(self, data: Dataset) -> None:
        """Raise ConfigError unless this baseline supports the data's objective and is configured for it."""
        objective = data.schema.objective
        if objective not in self.objectives:
            names = ", ".join(sorted(self.objectives))
            raise ConfigError(f"baseline '{self.name}' serves {names}, but the data set's objective is '{objective}'")
        if self.objective != objective:
            raise ConfigError(
                f"baseline '{self.name}' was configured for '{self.objective}', but the data set's objective is "
                f"'{objective}'; give objective='{objective}'"
            )

    def label_to_score(self, label: Tensor) -> Tensor:
        """Convert predicted labels to scores: unchanged, or for clicks the log-odds of the probability."""
        return torch.logit(label.clamp(1e-3, 1 - 1e-3)) if self.objective == "click" else label


def mix_evidence(evidence: Tensor, weight: float, gain: float = math.nan) -> EvidenceMixture:
    """Mixture with the same weight and gain for all entities."""
    return constant_mixture(evidence, weight, gain)
