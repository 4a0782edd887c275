"""Baselines of position and context: click rates by how an item was shown, without its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.click.mixed_logit import (
    CLICK_OBJECTIVES,
    AdditiveEffects,
    MixedLogit,
    fit_additive_effects,
)
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import mean_context_effect, total_context_effect
from recsys_meta.models.baselines.click.solvers.laplace_em import FixedSide, learn_click_prior

POSITION = "position"


class ContextOnly(BaselineConfig):
    """Logistic regression on the context of a row alone, the same for all entities; a constant without context."""

    name: ClassVar[str] = "context"
    objectives: ClassVar[frozenset[Objective]] = CLICK_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"ridge"})

    objective: Objective = "click"
    ridge: float = Field(default=10.0, gt=0, description="shrinkage of an effect, in rows")

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (1.0, 10.0, 100.0)}

    def select_fields(self, names: list[str]) -> list[str]:
        """Return those of the context fields `names` that the model uses."""
        return names

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = ClickRows.of(data, entities)
        names = self.select_fields(list(rows.context))
        rows = replace(rows, context={k: v for k, v in rows.context.items() if k in names})
        return fit_additive_effects(rows, self.ridge, "logistic", items=False, entities=False).params

    def adapt(self, body: Params, support: Support) -> State:
        return {"size": support.rows.counts}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        context = total_context_effect(body, rows)
        base = body["base"][rows.item]
        return base if context is None else base + context.squeeze(2)

    def rank(self, body: Params, state: State) -> Tensor:
        context = mean_context_effect(body)
        base = body["base"] if context is None else body["base"] + context
        return base.expand(len(state["size"]), -1)


class PositionOnly(ContextOnly):
    """Logistic regression on one context field: the one named "position", or else the first."""

    name: ClassVar[str] = "position"

    def select_fields(self, names: list[str]) -> list[str]:
        return [POSITION] if POSITION in names else names[:1]


class PositionRate(MixedLogit):
    """Effects of the context plus one of the entity: its click rate given the context, shrunk to that of training
    entities (a Bernoulli posterior in one dimension)."""

    name: ClassVar[str] = "position-rate"

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (3.0, 30.0), "trust": (0.5, 1.0, 2.0, 4.0)}

    def has_item_effects(self) -> bool:
        return False

    def has_content_prior(self) -> bool:
        return False

    def fit_entity_prior(
        self, data: Dataset, rows: ClickRows, additive: AdditiveEffects, content: sp.csr_matrix
    ) -> Params:
        vectors = torch.ones(rows.catalogue, 1)
        offset = additive.params["base"].double()[rows.item] + additive.context
        prior = learn_click_prior(rows, FixedSide(offset, vectors), content, self.content, self.likelihood)
        return {"vectors": vectors, **prior.to_params()}
