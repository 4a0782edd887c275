"""Predictions of an ensemble's members on meta-validation episodes, cross-fitted.

Settings of tuned baselines were chosen on meta-validation entities. An entity's predictions come from the setting that
was chosen without the entity's fold, so that weights do not trust a baseline for having been tuned on the very episodes
that it is weighed by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys_meta.core.types import IntArray, Interactions, Params, State, TaskBatch
from recsys_meta.evaluation.baseline_tuning import TunedBaseline
from recsys_meta.models.baselines import BaselineConfig
from recsys_meta.models.protocols import Predictor


class MemberPredictions(Protocol):
    """A member as the source of predictions for weighing."""

    def predict(self, batch: TaskBatch, shots: int) -> Tensor:
        """Scores of the catalogue [T, C] of a ranking, or of the query's rows [T, Q] otherwise."""


@dataclass(frozen=True)
class LearnerPredictions:
    """Predictions of the learner; its parameters are not fitted to meta-validation entities."""

    predictor: Predictor
    body: Params
    is_ranking: bool

    def predict(self, batch: TaskBatch, shots: int) -> Tensor:
        """See `MemberPredictions`."""
        state = self.predictor.adapt(self.body, batch.support)
        return _predict(self.predictor, self.body, state, batch.query, self.is_ranking)


@dataclass
class BaselinePredictions:
    """Predictions of a tuned baseline, each entity's from the setting that was chosen without its fold."""

    tuned: TunedBaseline
    is_ranking: bool
    _bodies: dict[str, Params] = field(default_factory=dict)

    def predict(self, batch: TaskBatch, shots: int) -> Tensor:
        """See `MemberPredictions`."""
        fold = self._folds(batch.entity.numpy())
        setting_by_fold = {f: self._setting(f, shots) for f in np.unique(fold).tolist()}
        if len(set(setting_by_fold.values())) == 1:
            return self._predict(next(iter(setting_by_fold.values())), batch, None)
        parts = {
            f: self._predict(setting, batch, torch.from_numpy(np.flatnonzero(fold == f)))
            for f, setting in setting_by_fold.items()
        }
        first = next(iter(parts.values()))
        result = first.new_empty(len(fold), first.shape[1])
        for f, part in parts.items():
            result[torch.from_numpy(fold == f)] = part
        return result

    def _folds(self, entities: IntArray) -> IntArray:
        """Fold of each entity, -1 for those that no setting was chosen on."""
        position = np.searchsorted(self.tuned.entities, entities).clip(max=len(self.tuned.entities) - 1)
        fold: IntArray = np.where(
            self.tuned.entities[position] == entities, position % len(self.tuned.fold_predictors), -1
        )
        return fold

    def _setting(self, fold: int, shots: int) -> BaselineConfig:
        predictor = self.tuned.predictor if fold < 0 else self.tuned.fold_predictors[fold]
        nearest = int(np.argmin([abs(k - shots) for k in predictor.shots]))
        return predictor.predictors[predictor.choice[nearest]]

    def _predict(self, setting: BaselineConfig, batch: TaskBatch, tasks: Tensor | None) -> Tensor:
        key = setting.body_key()
        if key not in self._bodies:
            self._bodies[key] = setting.body(dict(self.tuned.fits[setting.fit_key()]))
        support = batch.support if tasks is None else batch.support.of(tasks)
        query = batch.query if tasks is None else batch.query.of(tasks)
        body = self._bodies[key]
        return _predict(setting, body, setting.adapt(body, support), query, self.is_ranking)


def _predict(predictor: Predictor, body: Params, state: State, query: Interactions, is_ranking: bool) -> Tensor:
    return predictor.rank(body, state) if is_ranking else predictor.score(body, state, query)
