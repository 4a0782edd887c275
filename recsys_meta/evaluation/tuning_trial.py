"""Trial of a baseline's settings: the metric of each on meta-validation episodes, entity by entity.

Values are kept for each entity, so that a choice can leave some of them out without a second trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.types import FloatArray, IntArray, Params, TaskBatch
from recsys_meta.evaluation.evaluate_batch import evaluate_batch
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.baselines import BaselineConfig

BoolArray = npt.NDArray[np.bool_]

SCREENING_ENTITIES = 100
"""Entities that every setting is tried on; the best FINAL_SHARE of the settings, FINALISTS at least, go on."""
FINALISTS, FINAL_SHARE = 6, 0.15


class TuningTrial:
    """Trial of settings on the episodes of each support size: all on the first SCREENING_ENTITIES, the best on all.

    Settings are numbered in the order of `settings`, support sizes in that of `episodes`: K sizes, J settings, V_k
    entities with an episode of size k.
    """

    def __init__(
        self,
        settings: Sequence[BaselineConfig],
        data: Dataset,
        train: IntArray,
        metric: str,
        seed: int,
        episodes: Mapping[int, Sequence[TaskBatch]],
    ) -> None:
        self.settings = list(settings)
        self.fits: dict[str, Params] = {}
        self._data, self._train, self._metric, self._seed = data, train, metric, seed
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self._episodes = episodes
        self._device = next(iter(episodes.values()))[0].entity.device
        self._entities = {k: torch.cat([b.entity for b in batches]).cpu().numpy() for k, batches in episodes.items()}
        # Sum and number of the metric's values of each entity, [J, V_k]; NaN where a setting was not tried.
        self._sums = {k: np.full((len(self.settings), len(e)), np.nan) for k, e in self._entities.items()}
        self._counts = {k: np.zeros((len(self.settings), len(e))) for k, e in self._entities.items()}

    @property
    def shots(self) -> list[int]:
        """Support sizes, [K]."""
        return list(self._episodes)

    @property
    def entity_counts(self) -> list[int]:
        """Number of entities with an episode of each support size, [K]."""
        return [len(e) for e in self._entities.values()]

    def run(self) -> None:
        """Try every setting on the entities of the screening, and those that are best there on all entities."""
        distinct = np.array([[self._is_distinct(j, k) for j in range(len(self.settings))] for k in self.shots])
        self._evaluate(distinct, screening=True)
        values = np.stack([self._signed_means(k, self._is_screening(k)) for k in self.shots])
        values = np.where(np.isnan(values), -np.inf, values)
        finalists = min(max(FINALISTS, round(FINAL_SHARE * len(self.settings))), len(self.settings))
        limit = -np.sort(-values, axis=1)[:, [finalists - 1]]
        self._evaluate(distinct & (values >= limit) & np.isfinite(values))

    def signed_values(self) -> FloatArray:
        """Metric of every setting at every support size over all entities there, [K, J], the higher the better.

        NaN where screening left a setting out, -inf where a prediction is not a number.
        """
        return np.stack([self._signed_means(k, np.ones(len(e), np.bool_)) for k, e in self._entities.items()])

    def metric_values(self) -> FloatArray:
        """Metric itself of every setting at every support size over all entities there, [K, J]."""
        return self.signed_values() * self._sign

    def choose(self, without: Iterable[int] = ()) -> list[int]:
        """Choose for each support size the setting with the best metric over the entities but those `without`, [K].

        Only settings that were tried on all entities, and that predict numbers for all of them, are chosen. Where no
        other entity is left the choice is that over all entities.
        """
        values = self.signed_values()
        left_out = np.fromiter(without, np.int64)
        choice = []
        for i, (k, entities) in enumerate(self._entities.items()):
            part = self._signed_means(k, ~np.isin(entities, left_out)) if len(left_out) else values[i]
            part = np.where(np.isfinite(values[i]), part, np.nan)
            choice.append(int(np.nanargmax(part if np.isfinite(part).any() else values[i])))
        return choice

    def _is_distinct(self, setting: int, shots: int) -> bool:
        """False at 0 shots for a setting that predicts as an earlier one does from an empty support."""
        if shots > 0:
            return True
        keys = [s.empty_key() for s in self.settings[: setting + 1]]
        return keys.index(keys[-1]) == setting

    def _is_screening(self, shots: int) -> BoolArray:
        """Mask of the entities of the batches that hold the SCREENING_ENTITIES, [V_k]."""
        sizes = np.array([len(b.entity) for b in self._episodes[shots]])
        first = np.cumsum(sizes) - sizes
        return np.repeat(first < SCREENING_ENTITIES, sizes)

    def _evaluate(self, mask: BoolArray, *, screening: bool = False) -> None:
        """Evaluate the settings of mask [K, J] on the entities that they were not tried on yet."""
        body: Params = {}
        body_key = None
        for j in np.flatnonzero(mask.any(0)).tolist():
            setting = self.settings[j]
            if setting.body_key() != body_key:
                body, body_key = setting.body(self._fit(setting)), setting.body_key()
            for i, k in enumerate(self.shots):
                if mask[i, j]:
                    self._evaluate_at(j, body, k, screening=screening)

    def _fit(self, setting: BaselineConfig) -> Params:
        key = setting.fit_key()
        if key not in self.fits:
            params = setting.fit(self._data, self._train)
            self.fits[key] = {name: value.to(self._device) for name, value in params.items()}
        return self.fits[key]

    def _evaluate_at(self, setting: int, body: Params, shots: int, *, screening: bool) -> None:
        end = 0
        for part, batch in enumerate(self._episodes[shots]):
            start, end = end, end + len(batch.entity)
            if screening and start >= SCREENING_ENTITIES:
                break
            if not np.isnan(self._sums[shots][setting, start]):
                continue
            # Ties are broken at random, in every batch alike whatever the method.
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + part * 31 + shots)
            metrics = evaluate_batch(self.settings[setting], body, self._data, batch, generator)
            values = metrics[self._metric].reshape(len(batch.entity), -1).double()
            self._sums[shots][setting, start:end] = values.nansum(1).cpu().numpy()
            self._counts[shots][setting, start:end] = (~values.isnan()).sum(1).cpu().numpy()

    def _signed_means(self, shots: int, entities: BoolArray) -> FloatArray:
        """Metric of every setting over some entities (mask [V_k]), [J], the higher the better.

        NaN for a setting that was not tried on all of them, and for all without an entity.
        """
        sums, counts = self._sums[shots][:, entities].sum(1), self._counts[shots][:, entities].sum(1)
        means: FloatArray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        return self._sign * (np.sqrt(means) if self._metric == "rmse" else means)
