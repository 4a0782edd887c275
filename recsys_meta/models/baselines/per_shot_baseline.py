"""A tuned baseline: for each support size the setting with the best metric on meta-validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import FloatArray, IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.registry import make_baseline
from recsys_meta.models.functional.prefixed_keys import PrefixedTensors, add_prefix, select_prefix
from recsys_meta.models.protocols import ChoicePredictor, EvidenceMixture, FactorPredictor, PredictorConfig


class PerShotBaseline(PredictorConfig):
    """A predictor with several settings of one baseline, each for the support sizes that it was tuned on.

    `choice[j]` is the index in `settings` for supports of `shots[j]` rows. Another size takes the setting of the
    nearest one by log(1 + rows); an empty support takes the setting of a non-empty one, or the reverse, only if `shots`
    has no other.
    """

    name: ClassVar[str] = "tuned"
    baseline: ClassVar[str] = ""

    settings: tuple[dict[str, Any], ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)
    choice: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.shots) != len(self.choice) or list(self.shots) != sorted(set(self.shots)):
            raise ValueError("shots must be distinct, ascending, with one choice each")
        if min(self.choice) < 0 or max(self.choice) >= len(self.settings):
            raise ValueError("a choice points to no setting")
        return self

    @property
    def config(self) -> PredictorConfig:
        return self

    @cached_property
    def predictors(self) -> tuple[BaselineConfig, ...]:
        """The baseline with each setting."""
        kind = make_baseline(self.baseline)
        return tuple(kind.model_validate(s) for s in self.settings)

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Fit all settings on the given entities: keys `<index of the first setting with this fit>/<name>`."""
        return self.collect_params(
            {p.fit_key(): p.fit(data, entities) for _, p in self._representatives("fit_key")},
        )

    def collect_params(self, fits: Mapping[str, Params]) -> Params:
        """Collect the parameters that `fit` returns from those of each fit by its key. Raises KeyError without one."""
        params: Params = {}
        for j, predictor in self._representatives("fit_key"):
            params |= add_prefix(j, fits[predictor.fit_key()])
        return params

    def body(self, params: Params) -> Params:
        fits = self._first_with_key("fit_key")
        bodies: Params = {}
        for j, predictor in self._representatives("body_key"):
            bodies |= add_prefix(j, predictor.body(select_prefix(params, fits[j])))
        return PrefixedTensors(bodies)

    def adapt(self, body: Params, support: Support) -> State:
        setting = self._settings_for(support.rows.mask.sum(1))
        parts = []
        for j, tasks in _group_by_setting(setting):
            state = self.predictors[j].adapt(self._setting_body(body, j), _select_support(support, tasks))
            parts.append((tasks, state))
        return _merge_states(parts, support.size) | {"setting": setting}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        return self._dispatch(body, state, lambda p, b, s, tasks: p.score(b, s, _select_rows(rows, tasks)))

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """Score candidates as `ChoicePredictor.choose` does. Raises ConfigError if the baseline has no `choose`."""

        def compute(predictor: BaselineConfig, body: Params, state: State, tasks: Tensor | None) -> Tensor:
            if not isinstance(predictor, ChoicePredictor):
                raise ConfigError(f"baseline '{self.baseline}' ranks or scores, it does not choose")
            subset = candidates if tasks is None else candidates[tasks]
            return predictor.choose(body, state, _select_rows(rows, tasks), subset)

        return self._dispatch(body, state, compute)

    def rank(self, body: Params, state: State) -> Tensor:
        return self._dispatch(body, state, lambda p, b, s, _: p.rank(b, s))

    def mixture_tables(self, body: Params) -> Params:
        """Tables of the settings, which those of one fit share; see `MixturePredictor`."""
        fits, by_fit = self._first_with_key("fit_key"), dict[int, Params]()
        tables: Params = {}
        for j, predictor in self._representatives("body_key"):
            if fits[j] not in by_fit:
                by_fit[fits[j]] = predictor.mixture_tables(select_prefix(body, j))
            tables |= add_prefix(j, by_fit[fits[j]])
        # All settings were fitted to the same events, so that popularity is the same.
        common = next((t["mixture/popularity"] for t in by_fit.values() if "mixture/popularity" in t), None)
        return tables if common is None else tables | {"mixture/popularity": common}

    def mixture(self, body: Params, state: State) -> EvidenceMixture:
        groups = _group_by_setting(state["setting"])
        parts = [
            (tasks, self.predictors[j].mixture(self._setting_body(body, j), _select_state(state, tasks)))
            for j, tasks in groups
        ]
        return _merge_mixtures(parts, len(state["setting"]))

    def factor_table(self, body: Params) -> Tensor | None:
        """Factors of all fits, one below the other; None where the baseline has none. See `FactorPredictor`."""
        parts = [self._factors_of(j, body) for j, _ in self._representatives("fit_key")]
        tables = [part for part in parts if part is not None]
        if len(tables) < len(parts):
            return None
        return tables[0] if len(tables) == 1 else torch.cat(tables)

    def _factors_of(self, setting: int, body: Params) -> Tensor | None:
        predictor = self.predictors[setting]
        return (
            predictor.factor_table(self._setting_body(body, setting))
            if isinstance(predictor, FactorPredictor)
            else None
        )

    def query(self, body: Params, state: State) -> Tensor:
        """Queries [T, D], which are 0 for the factors of other fits than that of an entity's setting."""
        fits = self._first_with_key("fit_key")
        order = sorted(set(fits))

        def place(predictor: Any, body: Params, state: State, _: Tensor | None) -> Tensor:
            query: Tensor = predictor.query(body, state)
            part = order.index(fits[self.predictors.index(predictor)])
            width = query.shape[1]
            return torch.nn.functional.pad(query, (part * width, (len(order) - 1 - part) * width))

        return self._dispatch(body, state, place)

    def item_evidence(self, body: Params, state: State, items: IntArray) -> FloatArray:
        """Evidence [T, K] of items [T, K]."""

        def compute(predictor: Any, body: Params, state: State, tasks: Tensor | None) -> Tensor:
            own = items if tasks is None else items[tasks.numpy()]
            return torch.from_numpy(predictor.item_evidence(body, state, own))

        return self._dispatch(body, state, compute).numpy()

    def mix(self, state: State, evidence: Tensor) -> EvidenceMixture:
        """Mixture of evidence [T, ...] with the weights and gains of the settings."""
        parts: list[tuple[Tensor | None, EvidenceMixture]] = []
        for j, tasks in _group_by_setting(state["setting"]):
            own, predictor = evidence if tasks is None else evidence[tasks], self.predictors[j]
            if isinstance(predictor, FactorPredictor):
                parts.append((tasks, predictor.mix(_select_state(state, tasks), own)))
        return _merge_mixtures(parts, len(state["setting"]))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        return self._dispatch(body, state, lambda p, b, s, tasks: p.support_loss(b, s, _select_support(support, tasks)))

    def _dispatch(
        self,
        body: Params,
        state: State,
        compute: Callable[[BaselineConfig, Params, State, Tensor | None], Tensor],
    ) -> Tensor:
        """Run `compute(predictor, body, state, tasks)` for each setting; merge results in the order of the tasks."""
        parts = []
        for j, tasks in _group_by_setting(state["setting"]):
            result = compute(self.predictors[j], self._setting_body(body, j), _select_state(state, tasks), tasks)
            parts.append((tasks, result))
        return _merge_results(parts, len(state["setting"]))

    def _settings_for(self, size: Tensor) -> Tensor:
        """Return the index of the setting for each support size [T], [T] int64."""
        table = self._setting_by_size
        return torch.tensor([table[min(n, len(table) - 1)] for n in size.tolist()], device=size.device)

    @cached_property
    def _setting_by_size(self) -> list[int]:
        """Setting of every support size up to twice the largest of `shots`, [N]; larger ones have the last."""
        size, shots = torch.arange(2 * max(self.shots) + 2)[:, None], torch.tensor(self.shots)
        distance = (torch.log1p(size.double()) - torch.log1p(shots.double())).abs()
        distance = distance + 1e3 * ((size > 0) != (shots > 0))
        return [self.choice[j] for j in distance.argmin(1).tolist()]

    @property
    def reads_rows(self) -> bool:
        """False for a baseline whose state does not depend on the rows of a support, beyond their number."""
        return make_baseline(self.baseline).reads_rows

    @property
    def reads_order(self) -> bool:
        """True where the scores depend on the order of the support's rows."""
        return make_baseline(self.baseline).reads_order

    def _first_with_key(self, key: str) -> list[int]:
        """Return for each setting the index of the first one whose key method `key` returns the same."""
        keys = [getattr(p, key)() for p in self.predictors]
        return [keys.index(k) for k in keys]

    def _representatives(self, key: str) -> list[tuple[int, BaselineConfig]]:
        """Return the index and predictor of one setting for each distinct key."""
        return [(j, p) for j, p in enumerate(self.predictors) if self._first_with_key(key)[j] == j]

    @cached_property
    def _body_index(self) -> list[int]:
        return self._first_with_key("body_key")

    def _setting_body(self, body: Params, setting: int) -> Params:
        return select_prefix(body, self._body_index[setting])


def make_per_shot(
    name: str, settings: Sequence[BaselineConfig], shots: Sequence[int], choice: Sequence[int]
) -> PerShotBaseline:
    """Build the per-shot form of the baseline `name`, without the settings that no size uses.

    Raises NotFoundError for an unknown baseline.
    """
    indices = sorted(set(choice))
    return per_shot_class(name)(
        settings=tuple(settings[j].model_dump() for j in indices),
        shots=tuple(shots),
        choice=tuple(indices.index(j) for j in choice),
    )


def per_shot_class(name: str) -> type[PerShotBaseline]:
    """Return the class of the per-shot form of a baseline. Raises as `make_baseline`."""
    return _derive_class(name, make_baseline(name))


@cache
def _derive_class(name: str, kind: type[BaselineConfig]) -> type[PerShotBaseline]:
    names = {"name": name, "baseline": name, "__module__": __name__}
    return type(f"Tuned{kind.__name__}", (PerShotBaseline,), names)


def _group_by_setting(setting: Tensor) -> list[tuple[int, Tensor | None]]:
    """Return the settings of a batch, each with its tasks; None stands for all tasks."""
    indices = sorted(set(setting.tolist())) or [0]
    if len(indices) == 1:
        return [(indices[0], None)]
    return [(j, torch.nonzero(setting == j).flatten()) for j in indices]


def _select_rows(rows: Interactions, tasks: Tensor | None) -> Interactions:
    return rows if tasks is None else rows.of(tasks)


def _select_support(support: Support, tasks: Tensor | None) -> Support:
    return support if tasks is None else support.of(tasks)


def _select_state(state: State, tasks: Tensor | None) -> State:
    leaves = {k: v for k, v in state.items() if k != "setting"}
    return leaves if tasks is None else {k: v[tasks] for k, v in leaves.items()}


def _merge_results(parts: list[tuple[Tensor | None, Tensor]], size: int) -> Tensor:
    """Put the results [n, ...] of the groups into one tensor [size, ...] in the order of the tasks."""
    if len(parts) == 1 and parts[0][0] is None:
        return parts[0][1]
    first = parts[0][1]
    output = first.new_zeros(size, *first.shape[1:])
    for tasks, result in parts:
        output[tasks] = result
    return output


def _merge_mixtures(parts: list[tuple[Tensor | None, EvidenceMixture]], size: int) -> EvidenceMixture:
    """Put the mixtures of the groups into that of all tasks, in their order."""
    if len(parts) == 1:
        return parts[0][1]
    weight, gain = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for tasks, part in parts:
        rows = slice(None) if tasks is None else tasks.numpy()
        weight[rows], gain[rows] = part.weight, part.gain
    evidence = _merge_results([(tasks, part.evidence) for tasks, part in parts], size)
    return EvidenceMixture(evidence, weight, gain)


def _merge_states(parts: list[tuple[Tensor | None, State]], size: int) -> State:
    if not parts:
        return {}
    return {k: _merge_results([(tasks, state[k]) for tasks, state in parts], size) for k in parts[0][1]}
