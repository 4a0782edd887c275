"""Views over days that were summed say what the rows say, whatever happens to the rows afterwards."""

from datetime import date, timedelta

import pytest
from sqlalchemy import Engine, text

from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.entities.adaptations import prune_adaptations, save_adaptations
from recsys_meta.store.entities.daily_sums import sum_next_day
from recsys_meta.store.entities.entities import erase_entity
from recsys_meta.store.entities.outcomes import prune_outcomes, save_outcomes
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split, stop_split
from tests.store.samples import NOON, an_adaptation, an_outcome, later

DAY = 86_400
VIEWS = ("online_quality", "adaptation_daily", "split_results")


def figures(engine: Engine) -> list[list[object]]:
    """What the views say, in a fixed order, with numbers as they are compared."""
    with reading(engine) as s:
        return [
            [
                pytest.approx(value, rel=1e-12, abs=1e-12) if isinstance(value, float) else value
                for row in sorted(s.execute(text(f"SELECT * FROM {view}")), key=lambda row: str(row[:6]))
                for value in row
            ]
            for view in VIEWS
        ]


def sum_days(engine: Engine) -> list[tuple[str, date]]:
    days = []
    while True:
        with session(engine) as s:
            one = sum_next_day(s)
        if one is None:
            return days
        days.append(one)


def unsummed(engine: Engine) -> int:
    with reading(engine) as s:
        return s.execute(text("SELECT COUNT(*) FROM unsummed_days")).scalar_one()


def some_outcome(n: int, **given):
    hit, arm = float(n % 3 == 0), "ab"[n % 2]
    lists = {"impression": 1, "hit_1": 0.0, "hit_5": 0.0, "hit_10": hit, "reciprocal_rank": 0.1, "popular_hit_10": 0.0}
    names = {"entity": f"u{n % 70}", "variant": arm, "model_version": f"v-{arm}", "support_size": n % 2}
    return an_outcome(f"e{n}", **{"created": later(n * 300), "loss": 1 + n % 7 / 7, **names, **lists, **given})


@pytest.fixture
def days(engine: Engine) -> Engine:
    """Two and a half days of a split's outcomes, and as many adaptations."""
    with session(engine) as s:
        for label in "ab":
            registry.publish_version(s, "m", f"v-{label}", "/", now=NOON)
        start_split(s, "m", [SplitArm(label, f"v-{label}", 1) for label in "ab"], force=True, now=NOON)
        save_outcomes(s, [some_outcome(n) for n in range(600)])
        save_adaptations(s, [an_adaptation(f"u{n % 7}", created=later(n * 3000), ms=1.0 + n) for n in range(60)])
    return engine


def test_a_summed_day_says_the_same(days: Engine) -> None:
    before = figures(days)
    assert [len(view) > 0 for view in before] == [True] * 3
    summed = sum_days(days)
    assert summed == sorted(summed, key=lambda one: one[::-1]) and len(summed) == 6
    assert unsummed(days) == 0 and figures(days) == before
    assert sum_days(days) == []


def test_today_is_not_summed(days: Engine) -> None:
    with session(days) as s:
        assert sum_next_day(s, now=NOON) is None
        assert sum_next_day(s, now=NOON + timedelta(days=1)) == ("adaptations", NOON.date())


def recomputed(engine: Engine) -> list[list[object]]:
    """What the views say after all that is kept is thrown away and made again from the rows."""
    with session(engine) as s:
        for table in ("outcome_days", "adaptation_days", "split_entities"):
            s.execute(text(f"DELETE FROM {table}"))
        for table in ("outcomes", "adaptations"):
            rows = [dict(row) for row in s.execute(text(f"SELECT * FROM {table}")).mappings()]
            s.execute(text(f"DELETE FROM {table}"))
            if rows:
                names = list(rows[0])
                values = ", ".join(f":{name}" for name in names)
                s.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), rows)
    return figures(engine)


def late(engine: Engine) -> None:
    with session(engine) as s:
        save_outcomes(s, [some_outcome(n, created=later(n)) for n in range(600, 640)])
        save_adaptations(s, [an_adaptation("late", created=later(5))])


def erased(engine: Engine) -> None:
    with session(engine) as s:
        receipt = erase_entity(s, "user", "u3")
    assert receipt.outcomes > 5 and receipt.adaptations > 5


def pruned(engine: Engine) -> None:
    with session(engine) as s:
        assert prune_outcomes(s, later(DAY)) > 0 and prune_adaptations(s, later(DAY)) > 0


def changed(engine: Engine) -> None:
    with session(engine) as s:
        s.execute(text("UPDATE outcomes SET hit_10 = 1.0, support_size = 5 WHERE entity IN ('u1', 'u2')"))
        s.execute(text("UPDATE adaptations SET ms = 100.0 WHERE entity = 'u1'"))


def ended_before(engine: Engine) -> None:
    with session(engine) as s:
        stop_split(s, "m", now=later(DAY))


def removed(engine: Engine) -> None:
    with session(engine) as s:
        s.execute(text("DELETE FROM outcomes")), s.execute(text("DELETE FROM adaptations"))


def test_views_follow_the_rows_at_once(days: Engine) -> None:
    for change in (late, erased, changed, ended_before, pruned, removed):
        sum_days(days)
        before = figures(days)
        change(days)
        now = figures(days)
        assert now != before, change
        assert recomputed(days) == now, change
        sum_days(days)
        assert figures(days) == now, change


def unsummed_outcomes(engine: Engine) -> list[date]:
    with reading(engine) as s:
        days = s.execute(text("SELECT day FROM unsummed_days WHERE source = 'outcomes' ORDER BY day")).scalars()
        return [day if isinstance(day, date) else date.fromisoformat(day) for day in days]


def delete_outcomes(engine: Engine, condition: str) -> None:
    with session(engine) as s:
        assert s.execute(text(f"DELETE FROM outcomes WHERE {condition}")).rowcount > 0  # type: ignore[attr-defined]


def postgres_only(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("of SQLite's rows a day is summed again")


def test_what_is_deleted_is_taken_out_of_the_sums_at_once(days: Engine) -> None:
    """On PostgreSQL: an entity as a whole, some of its events, the last ones of a key. No day is computed anew."""
    postgres_only(days)
    sum_days(days)
    erased(days)
    assert unsummed_outcomes(days) == []
    for condition in ("event_id IN ('e7', 'e77', 'e147')", "support_size = 1 AND day = '2024-05-17'", "variant = 'a'"):
        before = figures(days)[0]
        delete_outcomes(days, condition)
        after = figures(days)[0]
        assert unsummed_outcomes(days) == [] and after != before and recomputed(days)[0] == after, condition
        sum_days(days)
    delete_outcomes(days, "true")
    with reading(days) as s:
        assert s.execute(text("SELECT COUNT(*) FROM outcome_days")).scalar_one() == 0


def test_a_day_that_is_not_kept_whole_is_computed_anew(days: Engine) -> None:
    """On PostgreSQL: another process may be summing it, or have taken it out."""
    postgres_only(days)
    sum_days(days)
    with session(days) as s:
        s.execute(text("DELETE FROM outcome_days WHERE day = '2024-05-18' AND support_size = 1"))
    erased(days)
    assert unsummed_outcomes(days) == [date(2024, 5, 18)]
    assert figures(days) == recomputed(days)


def test_many_deleted_rows_are_left_to_the_next_summation(days: Engine) -> None:
    postgres_only(days)
    with session(days) as s:
        columns = "kind, entity, model, model_version, support_size, created, day"
        s.execute(
            text(f"""INSERT INTO outcomes ({columns}, event_id)
            SELECT {columns}, 'copy ' || n FROM outcomes, generate_series(1, 10001) AS n WHERE event_id = 'e1'""")
        )
    sum_days(days)
    delete_outcomes(days, "event_id LIKE 'copy%'")
    assert unsummed_outcomes(days) == [NOON.date()]
    assert figures(days) == recomputed(days)


def test_a_writer_and_a_summation_of_its_day_do_not_miss_each_other(days: Engine) -> None:
    """On PostgreSQL: a day with rows that are not committed yet is not summed meanwhile."""
    if days.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    other = connect(days.url.render_as_string(hide_password=False))
    with session(days) as writer:
        save_outcomes(writer, [some_outcome(700, created=later(1))])
        assert ("outcomes", NOON.date()) not in sum_days(other)
    other.dispose()
    assert ("outcomes", NOON.date()) in sum_days(days)
    assert recomputed(days) == figures(days)


def test_the_planner_knows_how_many_days_are_left(days: Engine) -> None:
    """Or it plans the views for all days, and compiles that plan, for seconds at ten million rows."""
    if days.dialect.name == "sqlite":
        pytest.skip("SQLite plans without counting")
    with days.begin() as connection:
        connection.execute(text("ANALYZE unsummed_days"))
    assert sum_days(days)
    counted = text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)")
    with reading(days) as s:
        for name in ("unsummed_days", "outcome_days", "adaptation_days"):
            rows = s.execute(text(f"SELECT COUNT(*) FROM {name}")).scalar_one()
            assert s.execute(counted, {"name": name}).scalar_one() == rows, name
