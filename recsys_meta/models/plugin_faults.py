"""Faults of classes that installed packages register as learners or baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_meta.models.protocols import Learner, Predictor, PredictorConfig

_FUNCTIONS = tuple(
    name
    for protocol in (Predictor, Learner)
    for name, value in vars(protocol).items()
    if callable(value) and not name.startswith("_")
)


def learner_fault(name: str, entry: Any) -> str | None:
    """Fault of a class as a learner: what it lacks of `protocols.Learner`; None without one."""
    if not isinstance(entry, type):
        return "it is no class"
    config = getattr(entry, "Config", None)
    if not (isinstance(config, type) and issubclass(config, PredictorConfig)):
        return "its Config is no class derived from recsys_meta.models.protocols.PredictorConfig"
    if "objective" not in config.model_fields:
        return "its Config has no field objective: ranking, rating, click or choice"
    if lacking := [f for f in _FUNCTIONS if not callable(getattr(entry, f, None))]:
        return f"it has no {', '.join(lacking)}; recsys_meta.models.protocols says what a learner offers"
    if not isinstance(getattr(entry, "recipe", {}), Mapping):
        return "its attribute recipe is no mapping of a recipe's sections"
    if abstract := getattr(entry, "__abstractmethods__", None):
        return f"it does not define {', '.join(sorted(abstract))}"
    return name_fault(name, entry)


def name_fault(name: str, entry: type[Any]) -> str | None:
    """Fault of a class whose `name`, which its bundles are read by, is not the one it is registered by, or that does
    not say which objectives it serves."""
    if getattr(entry, "name", None) != name:
        return f"its attribute name is {getattr(entry, 'name', None)!r}, not {name!r}"
    objectives = getattr(entry, "objectives", None)
    if not isinstance(objectives, frozenset | set) or not objectives:
        return "its attribute objectives is no set of objectives, such as frozenset({'ranking'})"
    return None
