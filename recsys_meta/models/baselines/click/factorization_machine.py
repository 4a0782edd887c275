"""Factorisation machine with fold-in: second-order interactions of all that is known, the newcomer's id included."""

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
from recsys_meta.models.baselines.click.mixed_logit import CLICK
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import (
    encode_fields,
    fill_missing,
    init_fields,
    item_columns,
    parts_of,
    parts_of_rows,
)
from recsys_meta.models.baselines.click.solvers.fm_solver import fit_machine
from recsys_meta.models.functional.embeddings import catalogue_features, item_features
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian
from recsys_meta.models.functional.laplace_posterior import newton_laplace_posterior, probit_adjusted_logit


class FactorizationMachine(BaselineConfig):
    """A factorisation machine over the ids and features of both sides and the context (Rendle 2010).

    A newcomer's id has a weight b and a vector v, normal with the moments of past entities'; given the rest, the logit
    is linear in them, so that they are folded in by Newton steps.
    """

    name: ClassVar[str] = "machines"
    objectives: ClassVar[frozenset[Objective]] = CLICK
    fitted: ClassVar[frozenset[str]] = frozenset({"dims", "ridge", "seed"})
    shaped: ClassVar[frozenset[str]] = frozenset({"trust"})
    noticed: ClassVar[frozenset[str]] = frozenset({"dims", "ridge", "trust"})

    objective: Objective = "click"
    dims: int = Field(default=8, ge=1)
    ridge: float = Field(default=10.0, gt=0, description="shrinkage of every weight, in rows")
    trust: float = Field(default=1.0, gt=0, description="factor on the covariance of the id's prior")
    seed: int = 0

    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        return {"ridge": (2.0, 10.0, 50.0, 250.0), "trust": (1.0, 3.0, 10.0, 30.0)}

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        self.check(data)
        rows = ClickRows.of(data, entities)
        tables = init_fields("entity", data.entities, np.asarray(entities, np.int64))
        tables |= init_fields("item", data.items, rows.item.numpy())
        tables |= init_fields("context", rows.context, np.arange(len(rows)))
        known = catalogue_features(item_features(data.items))
        mine = encode_fields(tables, "entity", rows.features)
        theirs = [item_columns(rows.catalogue), *encode_fields(tables, "item", known)]
        context = encode_fields(tables, "context", rows.given())
        task, item = rows.task.numpy(), rows.item.numpy()
        ids = sp.identity(rows.entities, format="csr")
        constant = sp.csr_matrix(np.ones((len(rows), 1)))
        left, right = [x[task] for x in (ids, *mine)], [x[item] for x in theirs]
        found = fit_machine([constant, *left, *right, *context], rows.label, self.dims, self.ridge, self.seed)
        own, found = found[1], [found[0], *found[2:]]
        split = 1 + len(mine), 1 + len(mine) + len(theirs)
        pooled = [torch.from_numpy(x @ t.numpy()) for x, t in zip(theirs, found[split[0] : split[1]], strict=True)]
        level, vectors = _pairs(pooled)
        level[:FIRST], vectors[:FIRST] = 0, 0
        return {
            "base": (found[0][0, 0] + level).float(),
            "vectors": vectors.float(),
            **fit_gaussian(own if len(own) else torch.zeros(1, 1 + self.dims)),
            **_tables(tables, "entity", found[1 : split[0]], left[1:]),
            **_tables(tables, "context", found[split[1] :], context),
        }

    def body(self, params: Params) -> Params:
        return {**params, "precision": params["precision"] / self.trust}

    def adapt(self, body: Params, support: Support) -> State:
        rows = support.rows
        level, content = _pairs(parts_of(body, "entity", support.features), self.dims, body["base"])
        level, content = level.expand(support.size), content.expand(support.size, -1)
        base, vectors = self._rows(body, rows)
        # The id meets the entity's own features too: a constant for every row.
        seen = torch.cat([torch.ones_like(base)[:, :, None], vectors + content[:, None]], 2)
        offset = base + level[:, None] + torch.einsum("trd,td->tr", vectors, content)
        weight = rows.mask.to(rows.label.dtype)
        mean = body["mean"].expand(support.size, -1)
        mode, covariance = newton_laplace_posterior(seen, rows.label, weight, offset, mean, body["precision"])
        return {"level": level, "content": content, "mode": mode, "root": torch.linalg.cholesky(covariance)}

    def _rows(self, body: Params, rows: Interactions) -> tuple[Tensor, Tensor]:
        """Of item and context: what they say alone [T, R], and the vectors that an entity meets [T, R, D]."""
        level, vectors = _pairs(parts_of_rows(body, rows), self.dims, body["base"])
        other = body["vectors"][rows.item]
        return body["base"][rows.item] + level + (vectors * other).sum(2), other + vectors

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self._logit(state, *self._rows(body, rows))

    def rank(self, body: Params, state: State) -> Tensor:
        level, vectors = _pairs(parts_of(body, "context", {}), self.dims, body["base"])
        other = body["vectors"]
        return self._logit(state, (body["base"] + level + (vectors * other).sum(1))[None], (other + vectors)[None])

    def score_std(self, body: Params, state: State, rows: Interactions) -> Tensor:
        """Standard deviation [T, R] of the logit, by the newcomer's id alone."""
        return self._variance(state, self._rows(body, rows)[1]).sqrt()

    @staticmethod
    def _variance(state: State, vectors: Tensor) -> Tensor:
        seen = vectors + state["content"][:, None]
        return (state["root"][:, None, 0] + seen @ state["root"][:, 1:]).square().sum(2)

    def _logit(self, state: State, base: Tensor, vectors: Tensor) -> Tensor:
        own = state["mode"][:, :1] + (state["mode"][:, 1:] * state["content"]).sum(1, keepdim=True)
        taste = state["content"] + state["mode"][:, 1:]
        eta = base + state["level"][:, None] + own + (vectors @ taste.unsqueeze(2)).squeeze(2)
        return probit_adjusted_logit(eta, self._variance(state, vectors))


def _pairs(parts: list[Tensor], dims: int = 0, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of fields' weights and vectors [..., 1 + D]: what they say among themselves [...], and the sum of vectors."""
    if not parts:
        assert like is not None
        return like.new_zeros(1), like.new_zeros(1, dims)
    whole = sum(parts[1:], parts[0])
    vectors = whole[..., 1:]
    own = sum((p[..., 1:].square().sum(-1) for p in parts), torch.zeros_like(whole[..., 0]))
    return whole[..., 0] + (vectors.square().sum(-1) - own) / 2, vectors


def _tables(tables: Params, side: str, found: list[Tensor], columns: list[sp.csr_matrix]) -> Params:
    if not found:
        return {}
    return fill_missing(tables, side, torch.cat(found), sp.hstack(columns, "csr"))
