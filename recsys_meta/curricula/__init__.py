"""Curricula by name: which tasks meet training next. A new one is one class and one line in the dictionary."""

from __future__ import annotations

from collections.abc import Callable

from recsys_meta.curricula.curriculum import Curriculum
from recsys_meta.curricula.uniform import Uniform

__all__ = ["CURRICULA", "Curriculum", "Uniform"]

CURRICULA: dict[str, Callable[..., Curriculum]] = {
    "uniform": Uniform,
}
