"""Bilinear model of clicks: Bayesian weights of an entity on item factors, with a prior from its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FIRST, Params
from recsys_meta.models.baselines.click.mixed_logit import AdditiveEffects, MixedLogit
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.field_encoding import encode_side, init_tables
from recsys_meta.models.baselines.click.solvers.laplace_em import (
    EM_ROUNDS,
    FixedSide,
    LearnedPrior,
    learn_click_prior,
    prior_around,
)
from recsys_meta.models.baselines.interaction_matrix import TrainingRows
from recsys_meta.models.baselines.latent.em_prior import residual_factors
from recsys_meta.models.functional.embeddings import catalogue_features, item_features

ALS_RIDGE = 12.0
ITEM_CONTENT_RIDGE = 10.0
"""Ridge of the regression of item weights on item features."""
LOGIT_SLOPE = 4.0
"""Derivative of the logit at probability 1/2: converts factors of probabilities to factors of logits."""
ROUNDS_PER_TURN = 3
"""EM rounds of each prior in a turn; the first prior has EM_ROUNDS."""


class BilinearModel(MixedLogit):
    """label ~ base(item) + context + a_e + s_e base(item) + z_e . u(item), where (a, s, z) of an entity is normal
    around a linear map of its features.

    The factors u start as `dims` ridge ALS factors of the residuals of the additive effects. Unless `squared`, items
    and entities are then fitted alternately, `turns` times, by Newton steps: each side under a prior from its own
    features and given the posterior covariance of the other (variational Bayes).
    """

    name: ClassVar[str] = "blr-content"
    fit_fields: ClassVar[frozenset[str]] = MixedLogit.fit_fields | {"dims", "turns", "seed"}
    cold_fields: ClassVar[frozenset[str]] = MixedLogit.cold_fields | {"dims", "turns"}

    dims: int = Field(default=12, ge=1)
    turns: int = Field(default=3, ge=0)
    seed: int = 0

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"turns": (0, 3), "content": (1.0, 5.0), "trust": (0.5, 1.0, 2.0, 4.0)}

    def fit_entity_prior(
        self, data: Dataset, rows: ClickRows, additive: AdditiveEffects, content: sp.csr_matrix
    ) -> Params:
        base = additive.params["base"].double()
        level = base[rows.item].mean() if len(rows) else base.new_zeros(())
        context = additive.context + level
        items = torch.cat([(base - level)[:, None], self._initial_factors(rows, additive)], 1)
        prior = self._fit_entities(rows, context, items, content)
        item_content = _item_content(data, rows)
        for _ in range(0 if self.squared else self.turns):
            entity_side = FixedSide(context + prior.weight[rows.task, 0], *_entity_vectors(prior))
            item_prior = learn_click_prior(
                rows.transpose(),
                entity_side,
                item_content,
                ITEM_CONTENT_RIDGE,
                "logistic",
                prior_around(items, item_content.shape[1]),
                ROUNDS_PER_TURN,
            )
            items = item_prior.weight
            prior = self._fit_entities(rows, context, items, content, prior, item_prior.weight_covariance)
        items[:FIRST] = 0
        vectors = torch.cat([torch.ones(rows.catalogue, 1), items.float()], 1)
        return {"base": (items[:, 0] + level).float(), "vectors": vectors, **prior.to_params()}

    def _initial_factors(self, rows: ClickRows, additive: AdditiveEffects) -> Tensor:
        """Fit factors [C, dims] of the residuals of the additive effects."""
        eta = additive.context + additive.params["base"].double()[rows.item] + additive.entity[rows.task]
        residual = (rows.label - (eta if self.squared else torch.sigmoid(eta))).float()
        training_rows = TrainingRows(rows.task.numpy(), rows.item.numpy(), residual, rows.entities, rows.catalogue)
        factors = residual_factors(training_rows, residual, self.dims, self.seed, ridge=ALS_RIDGE).double()
        return factors if self.squared else factors * LOGIT_SLOPE

    def _fit_entities(
        self,
        rows: ClickRows,
        context: Tensor,
        items: Tensor,
        content: sp.csr_matrix,
        start: LearnedPrior | None = None,
        item_covariance: Tensor | None = None,
    ) -> LearnedPrior:
        """Fit the entities given items [C, 1 + dims] (base and factors).

        item_covariance [C, 1 + dims, 1 + dims] are the items' posterior covariances, `start` the prior of the turn
        before; the first turn has neither.
        """
        vectors = torch.cat([torch.ones_like(items[:, :1]), items], 1)
        covariance = None if item_covariance is None else torch.nn.functional.pad(item_covariance, (1, 0, 1, 0))
        item_side = FixedSide(context + items[rows.item, 0], vectors, covariance)
        rounds = EM_ROUNDS if start is None else ROUNDS_PER_TURN
        return learn_click_prior(rows, item_side, content, self.content, self.likelihood, start, rounds)


def _entity_vectors(entities: LearnedPrior) -> tuple[Tensor, Tensor]:
    """Return 1 + slope and taste of each entity [U, 1 + dims], which multiply item weights, and their covariances."""
    vectors = torch.cat([1 + entities.weight[:, 1:2], entities.weight[:, 2:]], 1)
    return vectors, entities.weight_covariance[:, 1:, 1:].contiguous()


def _item_content(data: Dataset, rows: ClickRows) -> sp.csr_matrix:
    """Return a constant and the columns of item features, [C, F]."""
    tables = init_tables("item", data.items, rows.item.numpy())
    columns = encode_side(tables, "item", catalogue_features(item_features(data.items)), rows.catalogue)
    return sp.hstack([sp.csr_matrix(np.ones((rows.catalogue, 1))), columns], "csr")
