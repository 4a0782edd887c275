"""What every learner promises, whatever it is: one registry entry buys all of these tests, which `check-learner` runs
too."""

from __future__ import annotations

import pytest

from recsys_meta.evaluation.conformance.learner_checks import LEARNER_CHECKS
from recsys_meta.models.functional.embeddings import is_buffer
from recsys_meta.models.learners import LEARNERS
from tests.models.learners.cases import CASES, CONFIGS, NAMES, case_of


@pytest.fixture(params=CASES, ids=NAMES)
def case(request):
    return case_of(*request.param)


def test_every_case_names_a_learner():
    assert set(CONFIGS) <= set(LEARNERS)


@pytest.mark.parametrize("check", LEARNER_CHECKS, ids=lambda check: check.__name__)
def test_conformance(case, check):
    check(case)


def test_buffers_are_frozen(case):
    frozen = {key for key in case.params if case.learner.is_frozen(key)}
    assert frozen or not any(is_buffer(key) for key in case.params)
