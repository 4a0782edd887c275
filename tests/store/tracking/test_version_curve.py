"""The curve of a version: of one evaluation, one data set and one number of seeds."""

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.engine import session
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.evaluations import save_evaluations
from recsys_meta.store.tracking.run_course import MOST_POINTS, course_names, curriculum_buckets, metric_course
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint
from recsys_meta.store.tracking.version_curve import version_curve
from tests.store.samples import a_run, an_evaluation, later

OWN = {"model": "m", "model_version": "v1"}


def test_curves_of_other_evaluations_and_seeds_are_not_mixed_in(engine: Engine) -> None:
    popular = {"method": "popularity", "role": "baseline"}
    with session(engine) as s:
        assert version_curve(s, "m", "v1") is None
        old = [an_evaluation(**OWN, value=0.1), an_evaluation(**popular, value=0.9)]
        save_evaluations(s, old, later(0))
        new = [an_evaluation(**OWN, shots=n, value=0.3 + n / 100) for n in (0, 5)]
        new += [an_evaluation(**OWN, metric="mrr", value=0.5), an_evaluation(**OWN, seed=0, value=0.7)]
        new += [an_evaluation(**popular, shots=n, value=0.2) for n in (0, 5)]
        new += [an_evaluation(**popular, seed=0, value=0.8), an_evaluation(**popular, dataset="d2", value=0.6)]
        new += [an_evaluation(model="m", model_version="v2", value=0.65)]
        save_evaluations(s, new, later(10))
        curve = version_curve(s, "m", "v1")
        assert curve is not None
        assert (curve.metric, curve.seed, curve.shots, set(curve.metrics)) == (
            "ndcg@10",
            None,
            [0, 5],
            {"ndcg@10", "mrr"},
        )
        mine, theirs = curve.methods
        assert mine.is_own and not theirs.is_own
        assert {n: point.value for n, point in mine.points.items()} == {0: 0.3, 5: 0.35}
        assert {n: point.value for n, point in theirs.points.items()} == {0: 0.2, 5: 0.2}
        other = version_curve(s, "m", "v1", "mrr")
        assert other is not None and [method.method for method in other.methods] == ["melu"]
        assert version_curve(s, "m", "v1", "no such metric").metric == "ndcg@10"


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 5 * MOST_POINTS - 3])
def test_a_course_is_thinned_and_ends_with_the_newest(engine: Engine, count: int) -> None:
    with session(engine) as s:
        a_run(s, "r")
        runs.log_metrics(s, [MetricPoint("r", "loss", 10 * step, step / 2) for step in range(count)])
        course = metric_course(s, "r", "loss")
        assert course_names(s, "r") == ["loss"]
        assert metric_course(s, "r", "nothing") == []
    assert count / 6 <= len(course) <= MOST_POINTS + 1
    assert (course[0], course[-1]) == ((0, 0.0), (10 * (count - 1), (count - 1) / 2))
    assert course == sorted(course)


def test_a_curriculum_is_shown_as_it_was_last(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        points = [
            CurriculumPoint("r", step, name, hard, 0.5) for step in (1, 9) for name, hard in (("a", 1.0), ("b", 2.0))
        ]
        runs.log_curriculum(s, [*points, CurriculumPoint("r", 9, "unknown", float("nan"), 0.0)])
        assert [(row.step, row.bucket) for row in curriculum_buckets(s, "r")] == [(9, "b"), (9, "a"), (9, "unknown")]
        assert curriculum_buckets(s, "other") == []
        with pytest.raises(NotFoundError):
            runs.get_run(s, "other")
