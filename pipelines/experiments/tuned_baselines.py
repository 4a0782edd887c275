"""Baselines tuned on the training inputs of a run: each once, for the ensemble of a recipe and for a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from pipelines.experiments.process_timer import ProcessTimer
from pipelines.experiments.training_inputs import TrainingInputs
from recsys_meta.core.dataset import Dataset
from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Order
from recsys_meta.evaluation.baseline_tuning import TunedBaseline, edge_warnings, fit_tuned
from recsys_meta.models.baselines import BASELINES, make_baseline

Notify = Callable[[str], None]
Key = tuple[str, tuple[int, ...], Order]
"""A baseline's name, numbers of shots and order of supports."""


class TunedBaselines:
    """Tuned baselines of one data set, split and seed, by name, numbers of shots and order of supports."""

    def __init__(self, inputs: TrainingInputs, notify: Notify = lambda _: None) -> None:
        self._inputs, self.notify = inputs, notify
        self._tuned: dict[Key, TunedBaseline] = {}
        self._timers: dict[Key, ProcessTimer] = {}

    def tune(self, name: str, shots: Sequence[int], order: Order | None = None) -> TunedBaseline:
        """Tune a baseline on meta-validation, or return it as it was tuned before. Raises as `fit_tuned`."""
        inputs, key = self._inputs, self._key(name, shots, order)
        if key not in self._tuned:
            self.notify(f"tuning {name}")
            with ProcessTimer() as self._timers[key]:
                self._tuned[key] = fit_tuned(
                    name, inputs.train_data, inputs.train_index, inputs.split, key[1], inputs.seed, key[2]
                )
        return self._tuned[key]

    def time_taken(self, name: str, shots: Sequence[int], order: Order | None = None) -> ProcessTimer:
        """Return how long it took to tune and fit a baseline, whoever asked for it first. Raises as `fit_tuned`."""
        self.tune(name, shots, order)
        return self._timers[self._key(name, shots, order)]

    def _key(self, name: str, shots: Sequence[int], order: Order | None) -> Key:
        return name, tuple(sorted(set(shots))), order or self._inputs.data.schema.order

    def warnings(self, name: str) -> list[str]:
        """Warnings of ranges that end too early, of a baseline as far as it was tuned; see `edge_warnings`."""
        tuned = [t for (baseline, _, _), t in self._tuned.items() if baseline == name]
        return list(dict.fromkeys(warning for t in tuned for warning in edge_warnings(t.report)))


def baselines_for(data: Dataset, names: Sequence[str] | None) -> list[str]:
    """Baselines by name; None takes all that serve the objective and have their input.

    Raises ConfigError for a name that does not exist or does not serve the objective.
    """
    objective = data.schema.objective
    if names is None:
        usable = BASELINES.usable().items()
        return [n for n, c in usable if objective in c.objectives and not lacks_input(n, data)]
    for name in names:
        if name not in BASELINES or objective not in BASELINES[name].objectives:
            fitting = [n for n, c in BASELINES.usable().items() if objective in c.objectives]
            raise ConfigError(f"no baseline '{name}' for a {objective}; there are {', '.join(fitting)}")
    return list(names)


def is_installed(name: str) -> bool:
    """True unless a baseline needs a library of an extra that is not installed."""
    module = make_baseline(name).requires
    return not module or find_spec(module) is not None


def lacks_input(name: str, data: Dataset) -> bool:
    """True for a baseline that equals popularity because the data set lacks its input."""
    context = dict.fromkeys(("context", "position"), bool(data.schema.context))
    inputs = {"recent": data.schema.arrival, "content-itemknn": bool(data.items), **context}
    return not inputs.get(name, True)
