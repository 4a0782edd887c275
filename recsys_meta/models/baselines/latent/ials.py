"""iALS (Hu, Koren, Volinsky 2008): item vectors by the `implicit` library, with fold-in of new entities.

There are two fold-ins: that of the library, with a prior around zero and every other item a negative; and one with the
Gaussian of the training users' vectors as the prior and a smaller weight of the negatives.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FIRST, IntArray, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.interaction_matrix import TrainingMatrix, item_counts, log_popularity
from recsys_meta.models.baselines.item_based.item_scores import (
    FactorEvidence,
    distinct_weights,
    factor_evidence,
    factor_tables,
    gather_vectors,
    mix_with_popularity,
)
from recsys_meta.models.functional.gaussian_posterior import fit_gaussian, fold_in, fold_in_tables
from recsys_meta.models.protocols import EvidenceMixture


class Ials(FactorEvidence, BaselineConfig):
    """Fold-in as in the library: (Y'Y + (c - 1) A'A + fold_ridge I) w = c A'1; scores Y w, plus popularity.

    Y are item vectors, A those of the support, c the confidence of a positive. Settings with the same `fit_fields`
    share their parameters.
    """

    name: ClassVar[str] = "ials"
    requires: ClassVar[str] = "implicit"
    fit_fields: ClassVar[frozenset[str]] = frozenset({"dims", "confidence", "ridge", "sweeps", "seed"})
    body_fields: ClassVar[frozenset[str]] = frozenset({"fold_ridge"})

    dims: int = Field(default=64, ge=1)
    confidence: float = Field(default=3.0, gt=1)
    ridge: float = Field(default=10.0, gt=0)
    sweeps: int = Field(default=10, ge=1)
    seed: int = 0
    fold_ridge: float = Field(default=10.0, gt=0)
    popularity: float = Field(default=0.3, ge=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "confidence": (1.1, 3.0),
            "ridge": (10.0, 40.0),
            "fold_ridge": (1_000.0, 10_000.0, 100_000.0),
            "popularity": (0.0, 1.0, 4.0),
        }

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Fit item vectors. Raises ConfigError for another objective, or if the optional library is not installed."""
        self.check_objective(data)
        rows = TrainingMatrix.of(data, entities)
        matrix = rows.matrix
        users, items = _fit_factors(matrix, self)
        return {
            "items": items,
            "gram": items.T @ items,
            "log_popularity": log_popularity(rows.counts),
            **fit_gaussian(users),
        }

    def body(self, params: Params) -> Params:
        gram = params["gram"]
        zero, ridge = gram.new_zeros(len(gram)), torch.eye(len(gram), device=gram.device)
        return params | fold_in_tables(gram, ridge, zero, zeros=1.0, prior=self.fold_ridge)

    def adapt(self, body: Params, support: Support) -> State:
        weight = distinct_weights(support.rows)
        vectors = gather_vectors(body["items"], support.rows)
        return {"vector": fold_in(body, vectors, weight, gain=self.confidence - 1, target=self.confidence)}

    def rank(self, body: Params, state: State) -> Tensor:
        return mix_with_popularity(state["vector"] @ body["items"].T, body["log_popularity"], self.popularity)

    def mixture_tables(self, body: Params) -> Params:
        return factor_tables(body)

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        return self.mix(state, factor_evidence(body, state["vector"]))


class IalsPrior(Ials):
    """Fold-in with a learned prior: (z Y'Y + 10 A'A + t S^-1) w = 11 A'1 + t S^-1 m.

    m and S are the mean and covariance of the training users' vectors; z is `zeros`, the weight of
    items outside the support (0 with an empty one), t is `trust`, the weight of the prior. An empty support scores
    Y m, plus popularity.
    """

    name: ClassVar[str] = "ials-prior"

    body_fields: ClassVar[frozenset[str]] = frozenset({"zeros", "trust"})
    cold_fields: ClassVar[frozenset[str]] = frozenset({"confidence", "ridge", "popularity"})

    zeros: float = Field(default=0.03, ge=0)
    trust: float = Field(default=1.0, gt=0)

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {
            "confidence": (1.1, 3.0),
            "ridge": (10.0, 40.0),
            "zeros": (0.0, 0.01, 0.05),
            "trust": (0.1, 0.4, 1.5),
            "popularity": (0.0, 0.5),
        }

    def body(self, params: Params) -> Params:
        prior = {k: params[k] for k in ("gram", "precision", "mean")}
        return params | fold_in_tables(**prior, zeros=self.zeros, prior=self.trust)

    def adapt(self, body: Params, support: Support) -> State:
        weight = distinct_weights(support.rows)
        vectors = gather_vectors(body["items"], support.rows)
        return {"vector": fold_in(body, vectors, weight, gain=10.0, target=11.0)}


def _fit_factors(matrix: sp.csr_matrix, config: Ials) -> tuple[Tensor, Tensor]:
    """Fit the user vectors [U, D] and item vectors [C, D]; items without interactions have zero vectors."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError:
        raise ConfigError(
            f"baseline '{config.name}' needs the library implicit, which is not installed; "
            "run: pip install 'recsys-meta[baselines]'"
        ) from None
    # The library has threads of its own over rows: BLAS threads within them would oversubscribe the cores.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AlternatingLeastSquares(
            factors=config.dims,
            regularization=config.ridge,
            alpha=config.confidence,
            iterations=config.sweeps,
            num_threads=torch.get_num_threads(),
            random_state=config.seed,
        )
        model.fit(matrix, show_progress=False)
    users = torch.from_numpy(np.array(model.user_factors, np.float32))
    items = torch.from_numpy(np.array(model.item_factors, np.float32))
    items[:FIRST] = 0
    return users, items * (item_counts(matrix) > 0)[:, None]
