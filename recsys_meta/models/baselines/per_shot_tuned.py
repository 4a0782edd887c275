"""A tuned baseline: for each support size the setting that did best on meta-validation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.types import IntArray, Interactions, Params, State, Support
from recsys_meta.models.baselines.base import BaselineConfig
from recsys_meta.models.baselines.registry import BASELINES, make_baseline
from recsys_meta.models.protocols import ChoicePredictor, PredictorConfig


class PerShotTuned(PredictorConfig):
    """Settings of one baseline and the support size each is for; a predictor like any other.

    `choice[j]` is the setting for supports of `shots[j]` rows. Sizes between are served by the nearest, by
    log(1 + rows); an empty support is nearest to another size only if 0 was not tuned, and the reverse.
    """

    name: ClassVar[str] = "tuned"
    baseline: ClassVar[str] = ""

    settings: tuple[dict[str, Any], ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)
    choice: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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
        """The baseline under each setting."""
        kind = make_baseline(self.baseline)
        return tuple(kind.model_validate(s) for s in self.settings)

    def fit(self, data: Dataset, entities: IntArray) -> Params:
        """Parameters of all settings from the given entities: `<index of the fit>/<name>`."""
        params: Params = {}
        for j, predictor in self._firsts("fit_key"):
            params |= _prefixed(j, predictor.fit(data, entities))
        return params

    def body(self, params: Params) -> Params:
        fits = self._index("fit_key")
        bodies: Params = {}
        for j, predictor in self._firsts("body_key"):
            bodies |= _prefixed(j, predictor.body(_within(params, fits[j])))
        return bodies

    def adapt(self, body: Params, support: Support) -> State:
        chosen = self._chosen(support.rows.mask.sum(1))
        parts = []
        for j, tasks in _groups(chosen):
            part = support if tasks is None else _subset(support, tasks)
            parts.append((tasks, self.predictors[j].adapt(self._body(body, j), part)))
        return _joined(parts, support.size) | {"setting": chosen}

    def score(self, body: Params, state: State, rows: Interactions) -> Tensor:
        parts = []
        for j, tasks in _groups(state["setting"]):
            own = _rows(rows, tasks)
            parts.append((tasks, self.predictors[j].score(self._body(body, j), _tasks(state, tasks), own)))
        return _merged(parts, len(rows.item))

    def choose(self, body: Params, state: State, rows: Interactions, candidates: Tensor) -> Tensor:
        """See `predictor.Chooser`. Raises ConfigError for a baseline that does not choose."""
        parts = []
        for j, tasks in _groups(state["setting"]):
            chooser = self.predictors[j]
            if not isinstance(chooser, ChoicePredictor):
                raise ConfigError(f"baseline '{self.baseline}' ranks or scores, it does not choose")
            asked = candidates if tasks is None else candidates[tasks]
            own = _tasks(state, tasks)
            parts.append((tasks, chooser.choose(self._body(body, j), own, _rows(rows, tasks), asked)))
        return _merged(parts, len(rows.item))

    def rank(self, body: Params, state: State) -> Tensor:
        parts = []
        for j, tasks in _groups(state["setting"]):
            parts.append((tasks, self.predictors[j].rank(self._body(body, j), _tasks(state, tasks))))
        return _merged(parts, len(state["setting"]))

    def support_loss(self, body: Params, state: State, support: Support) -> Tensor:
        parts = []
        for j, tasks in _groups(state["setting"]):
            own = support if tasks is None else _subset(support, tasks)
            loss = self.predictors[j].support_loss(self._body(body, j), _tasks(state, tasks), own)
            parts.append((tasks, loss))
        return _merged(parts, support.size)

    def _chosen(self, size: Tensor) -> Tensor:
        """The setting for each support size [T]."""
        tuned = torch.tensor(self.shots, device=size.device)
        far = (torch.log1p(size[:, None].double()) - torch.log1p(tuned.double())).abs()
        far = far + 1e3 * ((size[:, None] > 0) != (tuned > 0))
        return torch.tensor(self.choice, device=size.device)[far.argmin(1)]

    def _index(self, key: str) -> list[int]:
        """For each setting the first one with the same key."""
        keys = [getattr(p, key)() for p in self.predictors]
        return [keys.index(k) for k in keys]

    def _firsts(self, key: str) -> list[tuple[int, BaselineConfig]]:
        return [(j, p) for j, p in enumerate(self.predictors) if self._index(key)[j] == j]

    @cached_property
    def _bodies(self) -> list[int]:
        return self._index("body_key")

    def _body(self, body: Params, setting: int) -> Params:
        return _within(body, self._bodies[setting])


def make_per_shot(
    name: str, settings: Sequence[BaselineConfig], shots: Sequence[int], choice: Sequence[int]
) -> PerShotTuned:
    """The tuned form of a baseline, under the baseline's own name; settings that no size uses are left out.
    Raises NotFoundError for an unknown one."""
    make_baseline(name)
    used = sorted(set(choice))
    return TUNED[name](
        settings=tuple(settings[j].model_dump() for j in used),
        shots=tuple(shots),
        choice=tuple(used.index(j) for j in choice),
    )


TUNED: dict[str, type[PerShotTuned]] = {
    name: type(f"Tuned{kind.__name__}", (PerShotTuned,), {"name": name, "baseline": name, "__module__": __name__})
    for name, kind in BASELINES.items()
}
"""The tuned form of each baseline."""


def _prefixed(j: int, params: Params) -> Params:
    return {f"{j}/{k}": v for k, v in params.items()}


def _within(params: Params, j: int) -> Params:
    return {k.removeprefix(f"{j}/"): v for k, v in params.items() if k.startswith(f"{j}/")}


def _groups(chosen: Tensor) -> list[tuple[int, Tensor | None]]:
    """Settings met in a batch with their tasks; None stands for all of them."""
    met = torch.unique(chosen).tolist() or [0]
    if len(met) == 1:
        return [(met[0], None)]
    return [(j, torch.nonzero(chosen == j).flatten()) for j in met]


def _rows(rows: Interactions, tasks: Tensor | None) -> Interactions:
    return rows if tasks is None else rows.of(tasks)


def _subset(support: Support, tasks: Tensor) -> Support:
    return support.of(tasks)


def _tasks(state: State, tasks: Tensor | None) -> State:
    own = {k: v for k, v in state.items() if k != "setting"}
    return own if tasks is None else {k: v[tasks] for k, v in own.items()}


def _merged(parts: list[tuple[Tensor | None, Tensor]], size: int) -> Tensor:
    """Results of the groups in the order of the tasks."""
    if len(parts) == 1 and parts[0][0] is None:
        return parts[0][1]
    first = parts[0][1]
    whole = first.new_zeros(size, *first.shape[1:])
    for tasks, part in parts:
        whole[tasks] = part
    return whole


def _joined(parts: list[tuple[Tensor | None, State]], size: int) -> State:
    if not parts:
        return {}
    return {k: _merged([(tasks, state[k]) for tasks, state in parts], size) for k in parts[0][1]}
