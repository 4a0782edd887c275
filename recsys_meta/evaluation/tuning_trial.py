"""Trial of a baseline's settings: the metric of each on meta-validation episodes, entity by entity.

Values are kept for each entity, so that a choice can leave some of them out without a second trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray, IntArray, Params, TaskBatch
from recsys_meta.evaluation.evaluate_batch import evaluate_batch
from recsys_meta.evaluation.search_range import RangeEnd, open_ends, wider_settings
from recsys_meta.evaluation.validation_episodes import affordable
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.models.baselines import BaselineConfig

BoolArray = npt.NDArray[np.bool_]

SCREENING_ENTITIES, LEAST_SCREENING = 100, 32
"""Entities that every setting is tried on, and how few they may be for a large catalogue; the best FINAL_SHARE of the
settings, FINALISTS at least, go on."""
FIT_ROWS = 40_000_000
"""Rows that all fits of a trial together may be to. The ranges of fields that need another fit grow no further then,
beyond what the grid has."""
FINALISTS, FINAL_SHARE = 6, 0.15
WIDENING_ROUNDS = 8
"""Most times that ranges grow."""


class TuningTrial:
    """Trial of settings on the episodes of each support size: all on the first SCREENING_ENTITIES, the best on all.

    Settings are numbered in the order of `settings`, support sizes in that of `episodes`: K sizes, J settings, V_k
    entities with an episode of size k. `folds` are entities that a choice each is made without. Parameters are kept for
    settings that are somewhere best.
    """

    def __init__(
        self,
        settings: Sequence[BaselineConfig],
        data: Dataset,
        train: IntArray,
        metric: str,
        seed: int,
        episodes: Mapping[int, Sequence[TaskBatch]],
        folds: Sequence[IntArray] = (),
    ) -> None:
        self.settings = list(settings)
        self._number = {s.model_dump_json(): j for j, s in enumerate(self.settings)}
        self.fits: dict[str, Params] = {}
        self._data, self._train, self._metric, self._seed = data, train, metric, seed
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self._episodes, self._folds = episodes, folds
        self._screening = affordable(SCREENING_ENTITIES, data, LEAST_SCREENING)
        self._fit_keys = {s.fit_key() for s in self.settings}
        rows = int(data.events.counts[train].sum())
        self._most_fits = max(len(self._fit_keys), FIT_ROWS // max(rows, 1))
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
        return [len(np.unique(e)) for e in self._entities.values()]

    def run(self) -> None:
        """Try every setting on the entities of the screening, those that are best there on all; then widen the ranges.

        Raises ConfigError if no setting predicts only numbers at some support size.
        """
        distinct = np.array([[self._is_distinct(j, k) for j in range(len(self.settings))] for k in self.shots])
        self._evaluate(distinct, screening=True)
        values = np.stack([self._signed_means(k, self._is_screening(k)) for k in self.shots])
        values = np.where(np.isnan(values), -np.inf, values)
        finalists = min(max(FINALISTS, round(FINAL_SHARE * len(self.settings))), len(self.settings))
        limit = -np.sort(-values, axis=1)[:, [finalists - 1]]
        self._evaluate(distinct & (values >= limit) & np.isfinite(values))
        self._drop_fits()
        for _ in range(WIDENING_ROUNDS):
            if not self._widen():
                break

    def signed_values(self) -> FloatArray:
        """Metric of every setting at every support size over all entities there, [K, J], the higher the better.

        NaN where screening left a setting out, -inf where a prediction is not a number.
        """
        return np.stack([self._signed_means(k, np.ones(len(e), np.bool_)) for k, e in self._entities.items()])

    def metric_values(self) -> FloatArray:
        """Metric itself of every setting at every support size over all entities there, [K, J]."""
        return self.signed_values() * self._sign

    def choose(self, fold: int | None = None) -> list[int]:
        """Choose for each support size the setting with the best metric, over all entities but those of a fold, [K].

        Only settings that were tried on all entities, and that predict numbers for all of them, are chosen. Where no
        other entity is left the choice is that over all entities. Raises ConfigError if no setting predicts only
        numbers at some support size.
        """
        choice = []
        for k, values in zip(self.shots, self.signed_values(), strict=True):
            if not np.isfinite(values).any():
                name = self.settings[0].name
                raise ConfigError(f"no setting of '{name}' predicts only numbers at {k} shots; leave this baseline out")
            part = values
            if fold is not None:
                others = self._signed_means(k, ~np.isin(self._entities[k], self._folds[fold]))
                part = others if np.isfinite(others[np.isfinite(values)]).any() else values
            choice.append(int(np.nanargmax(np.where(np.isfinite(values), part, np.nan))))
        return choice

    def open_ends(self) -> list[list[RangeEnd]]:
        """Ends of what was tried at which the choice of each support size lies, [K]; see `search_range.open_ends`."""
        return [open_ends(*tried, k) for k, tried in zip(self.shots, self._tried_settings(), strict=True)]

    def _widen(self) -> bool:
        """Try values beyond the ends at which choices lie, on all entities. False where there is none to try."""
        wanted = [
            (i, setting)
            for i, (k, tried) in enumerate(zip(self.shots, self._tried_settings(), strict=True))
            for setting in wider_settings(*tried, k)
        ]
        wanted = [pair for pair in wanted if self._is_fit_affordable(pair[1])]
        # Settings that share a fit or a body follow one another.
        wanted.sort(key=lambda pair: (pair[1].fit_key(), pair[1].body_key()))
        self._append([setting for _, setting in wanted])
        mask = np.zeros((len(self.shots), len(self.settings)), np.bool_)
        for i, setting in wanted:
            mask[i, self._number[setting.model_dump_json()]] = True
        self._evaluate(mask)
        self._drop_fits()
        return bool(wanted)

    def _is_fit_affordable(self, setting: BaselineConfig) -> bool:
        """True for a setting that needs no new fit, or one that may still be made."""
        if setting.fit_key() in self._fit_keys:
            return True
        if len(self._fit_keys) >= self._most_fits:
            return False
        self._fit_keys.add(setting.fit_key())
        return True

    def _append(self, settings: Sequence[BaselineConfig]) -> None:
        """Number settings that are not there yet."""
        for setting in settings:
            if setting.model_dump_json() not in self._number:
                self._number[setting.model_dump_json()] = len(self.settings)
                self.settings.append(setting)
        for k, sums in self._sums.items():
            rows = (0, len(self.settings) - len(sums)), (0, 0)
            self._sums[k] = np.pad(sums, rows, constant_values=np.nan)
            self._counts[k] = np.pad(self._counts[k], rows)

    def _tried_settings(self) -> list[tuple[list[BaselineConfig], FloatArray, int]]:
        """List for each support size the settings tried there, if only in the screening, their values and the best one.

        Values are those of `signed_values`, the best one is a position in the list.
        """
        tried_settings = []
        for k, values, best in zip(self.shots, self.signed_values(), self.choose(), strict=True):
            tried = np.flatnonzero(~np.isnan(self._sums[k][:, 0]))
            settings = [self.settings[j] for j in tried]
            tried_settings.append((settings, values[tried], int(np.searchsorted(tried, best))))
        return tried_settings

    def _drop_fits(self) -> None:
        """Forget the parameters that no choice needs. A setting that is best nowhere will not be: values stay."""
        chosen = {j for fold in (None, *range(len(self._folds))) for j in self.choose(fold)}
        keys = {self.settings[j].fit_key() for j in chosen}
        self.fits = {key: fit for key, fit in self.fits.items() if key in keys}

    def _is_distinct(self, setting: int, shots: int) -> bool:
        """False at 0 shots for a setting that predicts as an earlier one does from an empty support."""
        if shots > 0:
            return True
        keys = [s.empty_key() for s in self.settings[: setting + 1]]
        return keys.index(keys[-1]) == setting

    def _is_screening(self, shots: int) -> BoolArray:
        """Mask of the entities of the batches that hold those of the screening, [V_k]."""
        sizes = np.array([len(b.entity) for b in self._episodes[shots]])
        first = np.cumsum(sizes) - sizes
        return np.repeat(first < self._screening, sizes)

    def _evaluate(self, mask: BoolArray, *, screening: bool = False) -> None:
        """Evaluate the settings of mask [K, J] on the entities that they were not tried on yet."""
        body: Params = {}
        body_key = None
        for j in np.flatnonzero(mask.any(0)).tolist():
            setting = self.settings[j]
            try:
                if setting.body_key() != body_key:
                    body, body_key = setting.body(self._fit(setting)), setting.body_key()
                for i in np.flatnonzero(mask[:, j]).tolist():
                    self._evaluate_at(j, body, self.shots[i], screening=screening)
            except (np.linalg.LinAlgError, LinAlgError):
                # A matrix that cannot be factored predicts no number.
                for i in np.flatnonzero(mask[:, j]).tolist():
                    self._sums[self.shots[i]][j], self._counts[self.shots[i]][j] = -self._sign * np.inf, 1
                body_key = None

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
            if screening and start >= self._screening:
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
