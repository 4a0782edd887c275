"""Conformance: what every learner and every baseline promises, as checks that the tests and the command line share."""

from recsys_meta.evaluation.conformance.conformance_report import CheckResult, check_baseline, check_learner

__all__ = ["CheckResult", "check_baseline", "check_learner"]
