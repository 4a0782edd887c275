"""Curricula by name: samplers of the tasks of each meta-batch. A new one is a class and a line in `CURRICULA`,
or an entry point `recsys_meta.curricula` of a package of its own: a function of a `TaskPool` and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.plugin_registry import PluginRegistry
from recsys_meta.core.schema import explain_unknown_key
from recsys_meta.training.curricula.base import Curriculum, TaskDraw, TaskFeedback, TaskPool, require_count
from recsys_meta.training.curricula.chaml import ChamlCurriculum
from recsys_meta.training.curricula.hard_task_mining import HardTaskMining
from recsys_meta.training.curricula.hardness_log import HardnessBucket, HardnessLog
from recsys_meta.training.curricula.learning_progress import LearningProgress
from recsys_meta.training.curricula.pacing import Growth, PacedCurriculum
from recsys_meta.training.curricula.self_paced import SelfPacedCurriculum
from recsys_meta.training.curricula.starvation_guard import StarvationGuard
from recsys_meta.training.curricula.uniform import UniformCurriculum

__all__ = [
    "CURRICULA",
    "Curriculum",
    "HardnessBucket",
    "HardnessLog",
    "TaskDraw",
    "TaskFeedback",
    "TaskPool",
    "make_curriculum",
]

STARVATION_EPOCHS = 10
"""Epochs within which every task is drawn, unless a recipe says otherwise."""


def _hardness(pool: TaskPool, *, starve: int = STARVATION_EPOCHS, **config: Any) -> Curriculum:
    return _bound_waiting(pool, HardTaskMining(pool, **config), starve)


def _two_level(pool: TaskPool, *, starve: int = STARVATION_EPOCHS, **config: Any) -> Curriculum:
    return _bound_waiting(pool, ChamlCurriculum(pool, **config), starve)


def _self_paced(pool: TaskPool, *, starve: int = STARVATION_EPOCHS, **config: Any) -> Curriculum:
    return _bound_waiting(pool, SelfPacedCurriculum(pool, **config), starve)


def _progress(pool: TaskPool, *, starve: int = STARVATION_EPOCHS, **config: Any) -> Curriculum:
    return _bound_waiting(pool, LearningProgress(pool, **config), starve)


def _paced(
    pool: TaskPool,
    *,
    of: str = "uniform",
    config: Mapping[str, Any] | None = None,
    first: float = 0.5,
    until: float = 0.5,
    growth: Growth = "step",
    starve: int = STARVATION_EPOCHS,
) -> Curriculum:
    """Build pacing around another curriculum. The bound on waiting is outermost, so that it covers barred tasks too."""
    if of not in PACEABLE:
        raise ConfigError(f"curriculum.config.of: 'paced' can be around {', '.join(PACEABLE)}, not '{of}'")
    return _bound_waiting(
        pool, PacedCurriculum(pool, PACEABLE[of](pool, **(config or {})), first, until, growth), starve
    )


def _bound_waiting(pool: TaskPool, inner: Curriculum, epochs: int) -> Curriculum:
    """Wrap a curriculum so that no task waits longer than `epochs` epochs; 0 leaves it unwrapped."""
    return StarvationGuard(pool, inner, epochs) if require_count("starve", epochs) else inner


PACEABLE: dict[str, Callable[..., Curriculum]] = {
    "uniform": UniformCurriculum,
    "hardness": HardTaskMining,
    "two-level": ChamlCurriculum,
    "self-paced": SelfPacedCurriculum,
    "progress": LearningProgress,
}
"""Curricula that "paced" can wrap."""

_BUILTIN: dict[str, Callable[..., Curriculum]] = {
    "uniform": UniformCurriculum,
    "hardness": _hardness,
    "two-level": _two_level,
    "paced": _paced,
    "self-paced": _self_paced,
    "progress": _progress,
}


def _find_fault(name: str, entry: Any) -> str | None:
    """Fault of what a package registers as a curriculum; None without one."""
    return None if callable(entry) else "it is no class or function that builds a curriculum from a TaskPool"


CURRICULA: PluginRegistry[Callable[..., Curriculum]] = PluginRegistry(
    "recsys_meta.curricula", "curriculum", _BUILTIN, _find_fault
)


def curriculum_settings(name: str) -> list[inspect.Parameter]:
    """Return the settings that a curriculum takes, with their defaults. Raises ConfigError for an unknown name."""
    if name not in CURRICULA:
        raise ConfigError(f"no curriculum '{name}'; there are {', '.join(CURRICULA)}")
    builders: list[Callable[..., Curriculum]] = [CURRICULA[name], *([PACEABLE[name]] if name in PACEABLE else [])]
    settings = {p.name: p for build in builders for p in list(inspect.signature(build).parameters.values())[1:]}
    return [p for p in settings.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def make_curriculum(name: str, pool: TaskPool, config: Mapping[str, Any]) -> Curriculum:
    """Build a curriculum by name. Raises ConfigError for an unknown name or setting, and one that is unusable."""
    if name not in CURRICULA:
        raise ConfigError(f"no curriculum '{name}'; there are {', '.join(CURRICULA)}")
    build = CURRICULA[name]
    takes_any = name not in PACEABLE and any(
        p.kind == p.VAR_KEYWORD for p in inspect.signature(build).parameters.values()
    )
    known = [p.name for p in curriculum_settings(name)]
    if unknown := [key for key in config if key not in known and not takes_any]:
        raise ConfigError(f"curriculum.config of '{name}': {unknown[0]}: {explain_unknown_key(unknown[0], known)}")
    try:
        return build(pool, **config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"curriculum.config of '{name}': {error}") from None
