"""recsys-meta: meta-learning for the cold start of users, ads, cities or any other newcomer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__version__ = "0.1.0"

_API = "pipelines.python_api"
_NAMES = (
    *("Recommender", "adapt", "compare", "evaluate", "load", "prepare", "publish", "recommend", "resume", "train"),
)
"""The Python API (docs/python.md). It stands on all else, so it is a module of the uppermost layer. It is imported when
one of its names is first used, which nothing in this package does: imports point down, and to import this is quick."""


def __getattr__(name: str) -> Any:
    """Return a function or class of the Python API (PEP 562)."""
    if name not in _NAMES:
        raise AttributeError(f"module 'recsys_meta' has no attribute '{name}'")
    return getattr(import_module(_API), name)


def __dir__() -> Sequence[str]:
    return sorted([*globals(), *_NAMES])
