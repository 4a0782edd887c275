import math
from datetime import date

from sqlalchemy import Engine

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import adaptations
from recsys_meta.store.tracking import evaluations, runs
from recsys_meta.store.tracking.runs import CurriculumPoint
from tests.store.database import view_rows
from tests.store.samples import NOON, a_run, an_adaptation, an_evaluation, later


def test_cold_start_curve_takes_the_mean_of_the_newest_set(engine: Engine) -> None:
    with session(engine) as s:
        old = [an_evaluation(shots=n, value=0.1) for n in (0, 5)]
        assert evaluations.save_evaluations(s, old, now=NOON) == 2
        seeds = [an_evaluation(shots=5, seed=seed, value=0.2 + seed) for seed in (1, 2)]
        evaluations.save_evaluations(s, [an_evaluation(shots=5, value=0.5), *seeds], now=later(1))
        evaluations.save_evaluations(
            s, [an_evaluation(method="popular", role="baseline", seed=1, value=0.05)], now=later(1)
        )
        evaluations.save_evaluations(s, [an_evaluation(dataset="frappe"), an_evaluation(scenario="item")], now=later(1))
    with reading(engine) as s:
        rows = view_rows.cold_start_curve(s, dataset="movielens-100k", metric="ndcg@10", scenario="user")
        assert len(view_rows.cold_start_curve(s, dataset="movielens-100k", metric="ndcg@10")) == 4
    assert [(r["method"], r["shots"], r["value"]) for r in rows] == [
        ("melu", 0, 0.1),
        ("melu", 5, 0.5),
        ("popular", 5, 0.05),
    ]
    assert rows[1]["created"] == later(1)


def test_adaptation_daily(engine: Engine) -> None:
    with session(engine) as s:
        rows = [
            an_adaptation("u1", support_size=2, loss_before=1.0, loss_after=0.5, ms=1.0),
            an_adaptation("u1", support_size=3, loss_before=1.0, loss_after=2.0, ms=3.0, created=later(11 * 3600)),
            an_adaptation("u2", support_size=0, loss_before=None, loss_after=math.nan, gradient_norm=None, ms=2.0),
            an_adaptation("u3", created=later(13 * 3600)),
        ]
        adaptations.save_adaptations(s, rows)
    with reading(engine) as s:
        newest, day = view_rows.adaptation_daily(s)
        assert [row["day"] for row in view_rows.adaptation_daily(s, since=date(2024, 5, 18))] == [date(2024, 5, 18)]
    assert newest["day"] == date(2024, 5, 18)
    assert day["day"] == date(2024, 5, 17)
    assert (day["adaptations"], day["entities"], day["slowest_ms"]) == (3, 2, 3.0)
    means = {key: float(day[key]) for key in ("support_size", "loss_before", "loss_after", "improved", "ms")}
    assert means == {"support_size": 5 / 3, "loss_before": 1.0, "loss_after": 1.25, "improved": 0.5, "ms": 2.0}
    assert all(isinstance(day[key], float) for key in means)


def test_adaptation_daily_counts_every_answer_of_a_row(engine: Engine) -> None:
    with session(engine) as s:
        rows = [an_adaptation(served_by="cache", support_size=n, ms=float(n)) for n in (1, 1, 1, 4)]
        assert adaptations.save_adaptations(s, rows) == 2
    with reading(engine) as s:
        (day,) = view_rows.adaptation_daily(s)
        listed = adaptations.page_adaptations(s).items
    assert (day["adaptations"], float(day["support_size"]), float(day["ms"])) == (4, 7 / 4, 7 / 4)
    assert sorted((row.support_size, row.answers) for row in listed) == [(1, 3), (4, 1)]


def test_arms_of_one_version_are_told_apart(engine: Engine) -> None:
    """A/A: rows of the two arms are neither put together nor counted together."""
    with session(engine) as s:
        cached = [an_adaptation(served_by="cache", variant=arm) for arm in ("a", "b", "b", None)]
        assert adaptations.save_adaptations(s, [*cached, an_adaptation(variant="b")]) == 4
    with reading(engine) as s:
        days = view_rows.adaptation_daily(s)
        listed = adaptations.page_adaptations(s, served_by="cache").items
    found = [(row["variant"], row["served_by"], row["adaptations"]) for row in days]
    assert found == [(None, "cache", 1), ("a", "cache", 1), ("b", "adapted", 1), ("b", "cache", 2)]
    assert {(row.variant, row.answers) for row in listed} == {(None, 1), ("a", 1), ("b", 2)}


def test_hardest_tasks(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        a_run(s, "other")
        points = [
            CurriculumPoint("r", 1, "a", 0.9, 0.1),
            CurriculumPoint("r", 2, "a", 0.2, 0.1),
            CurriculumPoint("r", 1, "b", 0.5, 0.1),
            CurriculumPoint("r", 2, "c", math.nan, 0.1),
            CurriculumPoint("other", 2, "d", 0.5, 0.1),
        ]
        runs.log_curriculum(s, points)
    with reading(engine) as s:
        rows = view_rows.hardest_tasks(s, "r")
        assert view_rows.hardest_tasks(s, "r", limit=1) == rows[:1]
    found = [(r["rank"], r["bucket"], r["step"], r["hardness"]) for r in rows]
    assert found == [(1, "b", 1, 0.5), (2, "a", 2, 0.2), (3, "c", 2, None)]
    assert {r["learner"] for r in rows} == {"melu"}
