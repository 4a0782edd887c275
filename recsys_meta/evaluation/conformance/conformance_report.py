"""Conformance of a learner or baseline by name: every check on every objective that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recsys_meta.core.errors import ConfigError, describe_unexpected
from recsys_meta.evaluation.conformance.baseline_case import BaselineCase, make_baseline_case
from recsys_meta.evaluation.conformance.baseline_checks import FIT_CHECKS, FORM_CHECKS
from recsys_meta.evaluation.conformance.check_failure import CheckFailure
from recsys_meta.evaluation.conformance.learner_case import WORLDS, LearnerCase, make_learner_case
from recsys_meta.evaluation.conformance.learner_checks import LEARNER_CHECKS
from recsys_meta.models.baselines import BASELINES
from recsys_meta.models.factory import build_predictor
from recsys_meta.models.learners import LEARNERS

Case = TypeVar("Case", LearnerCase, BaselineCase)


@dataclass(frozen=True)
class CheckResult:
    """Result of a check on a world: what was checked, and what went wrong; None: nothing."""

    world: str
    check: str
    promise: str
    problem: str | None = None


def check_learner(
    name: str, config: Mapping[str, Any] | None = None, objective: str | None = None
) -> Iterator[CheckResult]:
    """Check a learner by name with a configuration, on its own objectives or one of them; results come one by one.

    Raises ConfigError for a name that is no learner, cannot be used, is wrongly configured or lacks the objective.
    """
    if name not in LEARNERS:
        raise ConfigError(f"no learner '{name}'; there are {', '.join(sorted(LEARNERS))}")
    kind = LEARNERS[name]
    own = getattr(kind, "recipe", {}).get("config", {})
    cases = [
        (served, build_predictor(name, {**own, **(config or {}), "objective": served}))
        for served in _objectives(name, kind.objectives, objective)
    ]
    return _learner_results(cases)


def _learner_results(cases: Sequence[tuple[str, Any]]) -> Iterator[CheckResult]:
    for objective, learner in cases:
        yield from _run_checks(
            objective,
            LEARNER_CHECKS,
            lambda ln=learner, o=objective: make_learner_case(ln, WORLDS[o]()),  # type: ignore[misc]
        )


def check_baseline(
    name: str, config: Mapping[str, Any] | None = None, objective: str | None = None
) -> Iterator[CheckResult]:
    """Check a baseline by name, alone and in its per-shot form; see `check_learner`. Those of choices have no checks.

    Raises ConfigError as `check_learner` does.
    """
    if name not in BASELINES:
        raise ConfigError(f"no baseline '{name}'; there are {', '.join(sorted(BASELINES))}")
    served = [o for o in _objectives(name, BASELINES[name].objectives, objective) if o != "choice"]
    if not served:
        raise ConfigError(f"'{name}' serves choices only, and there are no checks of such baselines")
    return _baseline_results([(o, build_predictor(name, {**(config or {}), "objective": o})) for o in served])


def _baseline_results(cases: Sequence[tuple[str, Any]]) -> Iterator[CheckResult]:
    for objective, plain in cases:
        for world, checks, per_shot in (
            (objective, (*FORM_CHECKS, *FIT_CHECKS), False),
            (f"{objective}, per shot", FORM_CHECKS, True),
        ):
            yield from _run_checks(
                world,
                checks,
                lambda p=plain, o=objective, t=per_shot: make_baseline_case(p, o, t),  # type: ignore[misc]
            )


def _objectives(name: str, served: frozenset[Any], objective: str | None) -> list[str]:
    if objective is not None and objective not in served:
        raise ConfigError(f"'{name}' serves {', '.join(sorted(served))}, not '{objective}'")
    return sorted(served) if objective is None else [objective]


def _run_checks(
    world: str, checks: Sequence[Callable[[Case], None]], make_case: Callable[[], Case]
) -> Iterator[CheckResult]:
    """Run checks on a case. Where the case cannot be made, or a check raises anything, that is what went wrong."""
    try:
        case = make_case()
    except Exception as error:
        yield CheckResult(world, "initialization", "Parameters can be made.", describe_unexpected(error))
        return
    for check in checks:
        promise = " ".join((check.__doc__ or "").split())
        yield CheckResult(world, check.__name__.replace("_", " "), promise, _find_problem(check, case))


def _find_problem(check: Callable[[Case], None], case: Case) -> str | None:
    try:
        check(case)
    except CheckFailure as failure:
        return str(failure)
    except Exception as error:  # whatever a method raises is what is wrong with it
        return describe_unexpected(error)
    return None
