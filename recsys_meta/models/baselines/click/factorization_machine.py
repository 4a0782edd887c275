"""Factorization machine with fold-in: pairwise interactions of all fields, the new entity's id included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.schema import Objective
from recsys_meta.core.types import FIRST, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.click.mixed_logit import CLICK_OBJECTIVES
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    context_field_effects,
    encode_fields,
    field_effects,
    fill_tables,
    init_all_tables,
    item_indicators,
)
from recsys_meta.models.baselines.click.solvers.fm_solver import fit_factorization_machine
from recsys_meta.models.functional.embeddings import catalogue_features, item_features
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian
from recsys_meta.models.functional.laplace_posterior import newton_laplace_posterior, probit_adjusted_logit


class FactorizationMachine(BaselineConfig):
    """A factorization machine over the ids and features of entity and item and the context (Rendle 2010).

    The id of a new entity has a weight b and a vector v, whose prior is normal with the moments of those of training
    entities. Given all other fields the logit is linear in them: fold-in is a Laplace posterior by Newton steps.
    """

    name: ClassVar[str] = "machines"
    objectives: ClassVar[frozenset[Objective]] = CLICK_OBJECTIVES
    fit_fields: ClassVar[frozenset[str]] = frozenset({"dims", "ridge", "seed"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"trust"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"dims", "ridge", "trust"})

    objective: Objective = "click"
    dims: int = Field(default=8, ge=1)
    ridge: float = Field(default=10.0, gt=0, description="shrinkage of every weight, in rows")
    trust: float = Field(default=1.0, gt=0, description="factor on the covariance of the id's prior")
    seed: int = 0

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (2.0, 10.0, 50.0, 250.0), "trust": (1.0, 3.0, 10.0, 30.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check_objective(data)
        rows = ClickRows.of(data, entities)
        tables = init_all_tables(data, rows, entities)
        features = catalogue_features(item_features(data.items))
        entity_fields = encode_fields(tables, "entity", rows.features)
        item_fields = [item_indicators(rows.catalogue), *encode_fields(tables, "item", features)]
        context = encode_fields(tables, "context", rows.context_features())
        task, item = rows.task.numpy(), rows.item.numpy()
        ids = sp.identity(rows.entities, format="csr")
        constant = sp.csr_matrix(np.ones((len(rows), 1)))
        entity_rows, item_rows = [x[task] for x in (ids, *entity_fields)], [x[item] for x in item_fields]
        weights = fit_factorization_machine(
            [constant, *entity_rows, *item_rows, *context], rows.label, self.dims, self.ridge, self.seed
        )
        id_weights, weights = weights[1], [weights[0], *weights[2:]]
        ends = 1 + len(entity_fields), 1 + len(entity_fields) + len(item_fields)
        item_weights = [
            torch.from_numpy(x @ t.numpy()) for x, t in zip(item_fields, weights[ends[0] : ends[1]], strict=True)
        ]
        level, vectors = _pool_fields(item_weights)
        level[:FIRST], vectors[:FIRST] = 0, 0
        return {
            "base": (weights[0][0, 0] + level).float(),
            "vectors": vectors.float(),
            **fit_gaussian(id_weights if len(id_weights) else torch.zeros(1, 1 + self.dims)),
            **_side_tables(tables, "entity", weights[1 : ends[0]], entity_rows[1:]),
            **_side_tables(tables, "context", weights[ends[1] :], context),
        }

    def body(self, params: Params) -> Params:
        return {**params, "precision": params["precision"] / self.trust}

    def adapt(self, body: Params, support: Support) -> State:
        rows = support.rows
        level, content = _pool_fields(field_effects(body, "entity", support.features), self.dims, body["base"])
        level, content = level.expand(support.size), content.expand(support.size, -1)
        base, vectors = self._row_parts(body, rows)
        # The id interacts with the entity's own features as well: the same term for every row.
        id_inputs = torch.cat([torch.ones_like(base)[:, :, None], vectors + content[:, None]], 2)
        offset = base + level[:, None] + torch.einsum("trd,td->tr", vectors, content)
        weight = rows.mask.to(rows.label.dtype)
        mean = body["mean"].expand(support.size, -1)
        mode, covariance = newton_laplace_posterior(id_inputs, rows.label, weight, offset, mean, body["precision"])
        return {"level": level, "content": content, "mode": mode, "root": torch.linalg.cholesky(covariance)}

    def _row_parts(self, body: Params, rows: Interactions) -> tuple[Tensor, Tensor]:
        """Return the logit of item and context alone [T, R], and their vectors [T, R, D] for the entity."""
        level, vectors = _pool_fields(context_field_effects(body, rows), self.dims, body["base"])
        item_vectors = body["vectors"][rows.item]
        return body["base"][rows.item] + level + (vectors * item_vectors).sum(2), item_vectors + vectors

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self._logit(state, *self._row_parts(body, rows))

    def rank(self, body: Params, state: State) -> Tensor:
        level, vectors = _pool_fields(field_effects(body, "context", {}), self.dims, body["base"])
        item_vectors = body["vectors"]
        return self._logit(
            state, (body["base"] + level + (vectors * item_vectors).sum(1))[None], (item_vectors + vectors)[None]
        )

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Return the standard deviation [T, R] of the logit under the posterior of the entity's id."""
        return self._variance(state, self._row_parts(body, rows)[1]).sqrt()

    @staticmethod
    def _variance(state: State, vectors: Tensor) -> Tensor:
        inputs = vectors + state["content"][:, None]
        return (state["root"][:, None, 0] + inputs @ state["root"][:, 1:]).square().sum(2)

    def _logit(self, state: State, base: Tensor, vectors: Tensor) -> Tensor:
        id_weight = state["mode"][:, :1] + (state["mode"][:, 1:] * state["content"]).sum(1, keepdim=True)
        taste = state["content"] + state["mode"][:, 1:]
        eta = base + state["level"][:, None] + id_weight + (vectors @ taste.unsqueeze(2)).squeeze(2)
        return probit_adjusted_logit(eta, self._variance(state, vectors))


def _pool_fields(parts: list[Tensor], dims: int = 0, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pool fields, each a weight and a vector [..., 1 + D].

    Returns their logit [...], interactions among them included, and the sum of their vectors [..., D]. Without fields
    both are zeros of the type and device of `like`.
    """
    if not parts:
        assert like is not None
        return like.new_zeros(1), like.new_zeros(1, dims)
    total = sum(parts[1:], parts[0])
    vectors = total[..., 1:]
    self_products = sum((p[..., 1:].square().sum(-1) for p in parts), torch.zeros_like(total[..., 0]))
    return total[..., 0] + (vectors.square().sum(-1) - self_products) / 2, vectors


def _side_tables(tables: Params, side: str, weights: list[Tensor], columns: list[sp.csr_matrix]) -> Params:
    if not weights:
        return {}
    return fill_tables(tables, side, torch.cat(weights), sp.hstack(columns, "csr"))
