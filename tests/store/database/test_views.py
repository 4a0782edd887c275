import math
from datetime import date

from sqlalchemy import Engine, text

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import adaptations
from recsys_meta.store.tracking import evaluations, runs
from recsys_meta.store.tracking.runs import CurriculumPoint
from tests.store.database import view_rows
from tests.store.samples import NOON, a_run, an_adaptation, an_evaluation, later


def test_a_curve_is_one_evaluation(engine: Engine) -> None:
    """The newest as a whole: a point that it did not measure is not filled in from an older one. Of several seeds the
    mean is shown, of one its row."""
    popular = {"method": "popular", "role": "baseline"}
    with session(engine) as s:
        assert evaluations.save_evaluations(s, [an_evaluation(shots=n, value=0.1) for n in (0, 5)], now=NOON) == 2
        evaluations.save_evaluations(s, [an_evaluation(shots=n, **popular, value=0.05) for n in (0, 5)], now=NOON)
        newest = [an_evaluation(shots=n, value=n / 10) for n in (1, 5)]
        newest += [an_evaluation(dataset="frappe"), an_evaluation(scenario="item")]
        evaluations.save_evaluations(s, newest, now=later(1))
    with reading(engine) as s:
        rows = view_rows.cold_start_curve(s, dataset="movielens-100k", metric="ndcg@10", scenario="user")
        assert len(view_rows.cold_start_curve(s, dataset="movielens-100k", metric="ndcg@10")) == 5
    assert [(r["method"], r["shots"], r["value"], r["created"]) for r in rows] == [
        ("melu", 1, 0.1, later(1)),
        ("melu", 5, 0.5, later(1)),
        ("popular", 0, 0.05, NOON),
        ("popular", 5, 0.05, NOON),
    ]


def test_curves_of_versions_splits_and_numbers_of_seeds_stay_apart(engine: Engine) -> None:
    """Each evaluated twice: of each the newer one is shown, and none of another's points."""
    curves = [
        {"model": "m", "model_version": "v1", "run": "r1", "seed": 0},
        {"model": "m", "model_version": "v2", "run": "r2", "seed": 0},
        {"model": "m", "model_version": "v2", "run": "r2", "seed": 0, "split": "time"},
        {"model": "m", "model_version": "v2", "run": "r2", "seed": 0, "scenario": "actors"},
        {"model_version": "v3", "run": "r3", "seed": 1},
        {"seed": None, "seeds": 3},
        {"seed": None, "seeds": 5},
    ]
    # Without adapting a version is known by its run alone.
    curves += [{"method": "melu-unadapted", "run": run, "seed": 0} for run in ("r1", "r2")]
    with session(engine) as s:
        for n, curve in enumerate(curves):
            for turn in (0, 1):
                rows = [an_evaluation(**curve, shots=k, value=n + k / 10 + turn / 100) for k in (0, 5)]
                evaluations.save_evaluations(s, rows, now=later(10 * turn + n))
            evaluations.save_evaluations(s, [an_evaluation(**curve, shots=20, value=0.0)], now=later(n - 100))
        seeds = [an_evaluation(seed=seed, seeds=3, value=9.0) for seed in (0, 1, 2)]
        evaluations.save_evaluations(s, seeds, now=later(100))
    with reading(engine) as s:
        found = [row for scenario in ("user", "actors") for row in view_rows.cold_start_curve(
            s, dataset="movielens-100k", metric="ndcg@10", scenario=scenario)]  # fmt: skip
    names = ("model", "model_version", "run", "seed", "seeds", "split", "scenario", "method")
    common = {name: getattr(an_evaluation(), name) for name in names}
    expected = {
        (*({**common, **curve}[name] for name in names), k): n + k / 10 + 0.01
        for n, curve in enumerate(curves)
        for k in (0, 5)
    }
    assert {(*(row[name] for name in names), row["shots"]): row["value"] for row in found} == expected
    assert len(found) == len(expected)


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


def test_hardest_tasks_are_the_last_of_each_bucket_in_whatever_order_they_were_written(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r", now=NOON)
        runs.log_curriculum(s, [CurriculumPoint("r", step, "a", step / 10, 0.1) for step in (3, 5, 4)])
        runs.log_curriculum(s, [CurriculumPoint("r", 2, "a", 9.0, 0.9), CurriculumPoint("r", 2, "b", 0.4, 0.4)])
    with session(engine) as s:
        assert [(r["bucket"], r["step"], r["hardness"]) for r in view_rows.hardest_tasks(s, "r")] == [
            ("a", 5, 0.5),
            ("b", 2, 0.4),
        ]
        runs.log_curriculum(s, [CurriculumPoint("r", 5, "a", 0.3, 0.2)])  # written again
    with session(engine) as s:
        assert [(r["bucket"], r["weight"]) for r in view_rows.hardest_tasks(s, "r")] == [("b", 0.4), ("a", 0.2)]
        runs.set_run_status(s, "r", "finished", now=NOON)
        assert runs.prune_runs(s, later(1)) == 1
    with reading(engine) as s:
        assert s.execute(text("SELECT COUNT(*) FROM latest_curriculum")).scalar_one() == 0
