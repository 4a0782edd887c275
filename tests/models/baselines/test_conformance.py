"""Contract that every baseline meets, alone and in its per-shot form: the checks that `check-baseline` runs too."""

from functools import cache

import pytest

from recsys_meta.evaluation.conformance.baseline_case import make_baseline_case
from recsys_meta.evaluation.conformance.baseline_checks import FIT_CHECKS, FORM_CHECKS
from recsys_meta.models.baselines import BASELINES, make_per_shot
from tests.models.baselines.cases import baseline_objectives, make_small_baseline


@pytest.fixture(
    scope="module",
    params=[(form, *pair) for form in ("plain", "mixed") for pair in baseline_objectives()],
    ids="-".join,
)
def case(request):
    form, name, objective = request.param
    return case_of(name, objective, form == "mixed")


@cache
def case_of(name, objective, per_shot=False):
    return make_baseline_case(make_small_baseline(name, objective), objective, per_shot)


@pytest.mark.parametrize("check", FORM_CHECKS, ids=lambda check: check.__name__)
def test_conformance(case, check):
    check(case)


@pytest.mark.parametrize(("name", "objective"), baseline_objectives())
@pytest.mark.parametrize("check", FIT_CHECKS, ids=lambda check: check.__name__)
def test_conformance_of_fits(check, name, objective):
    check(case_of(name, objective))


def test_names_are_those_of_the_registry():
    for name, kind in BASELINES.items():
        assert kind.name == name
        assert make_per_shot(name, [kind()], [0], [0]).name == name
