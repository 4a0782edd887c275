"""Simulated data sets and supports for the tests of the baselines."""

from recsys_meta.evaluation.conformance.baseline_case import draw_supports as supports
from recsys_meta.evaluation.conformance.baseline_case import group_world as simulated_dataset
from recsys_meta.evaluation.conformance.baseline_case import make_rows as rows
from recsys_meta.evaluation.conformance.baseline_case import map_rows, single_task
from recsys_meta.models.baselines import BASELINES

__all__ = [
    "baseline_objectives",
    "make_small_baseline",
    "map_rows",
    "rows",
    "simulated_dataset",
    "single_task",
    "supports",
]

SMALL_SETTINGS = {
    "ials": {"dims": 4},
    "ials-prior": {"dims": 4},
    "blr": {"dims": 4, "factors": 2},
    "sasrec": {"dims": 8, "blocks": 1, "negatives": 16, "length": 8, "steps": 12, "batch_rows": 64},
    "blr-content": {"dims": 2},
    "machines": {"dims": 2},
}
"""Settings for data sets of a few dozen items."""


def make_small_baseline(name, objective):
    return BASELINES[name](objective=objective, **SMALL_SETTINGS.get(name, {}))


def baseline_objectives():
    """List every baseline with every objective that it supports, but those of choices, which test_choice.py tests."""
    every = [(name, objective) for name, kind in BASELINES.items() for objective in sorted(kind.objectives)]
    return [(name, objective) for name, objective in every if objective != "choice"]
