"""Random intercept: an effect of the item and one of the entity, each shrunk according to its number of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import scipy.sparse as sp
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import Params
from recsys_meta.models.baselines.click.mixed_logit import AdditiveEffects, MixedLogit
from recsys_meta.models.baselines.click.solvers.click_rows import ClickRows
from recsys_meta.models.baselines.click.solvers.laplace_em import FixedSide, learn_click_prior


class RandomIntercept(MixedLogit):
    """Effects of item and context plus one of the entity, whose prior mean is a ridge regression on its features."""

    name: ClassVar[str] = "two-means"

    def search_space(self) -> Mapping[str, tuple[Any, ...]]:
        return {"squared": (False, True), "content": (1.0, 5.0), "trust": (0.5, 1.0, 2.0, 4.0)}

    def fit_entity_prior(
        self, data: Dataset, rows: ClickRows, additive: AdditiveEffects, content: sp.csr_matrix
    ) -> Params:
        vectors = torch.ones(rows.catalogue, 1)
        offset = additive.params["base"].double()[rows.item] + additive.context
        prior = learn_click_prior(rows, FixedSide(offset, vectors), content, self.content, self.likelihood)
        return {"vectors": vectors, **prior.to_params()}
