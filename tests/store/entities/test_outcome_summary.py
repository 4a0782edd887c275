"""Summaries of outcomes equal what the documented queries and the view say, on both databases."""

import pytest
from sqlalchemy import Engine, text

from recsys_meta.store.database.engine import session
from recsys_meta.store.entities import outcome_summary, outcomes
from tests.store.samples import NOON, an_outcome, later

DAY = 86_400


@pytest.fixture
def filled(engine: Engine) -> Engine:
    rows = [
        an_outcome(
            f"{n}-{size}",
            entity=f"u{n}",
            support_size=size,
            created=later(n * DAY / 2),
            loss=2.0 - 0.1 * size * (n % 3),
            loss_unadapted=2.0,
            hit_10=float(n % 2),
            popular_hit_10=None if n == 5 else float(n % 4 == 0),
        )
        for n in range(12)
        for size in range(4)
    ]
    rows += [an_outcome(f"worse{n}", entity="worse", support_size=n, loss=3.0 + n, created=NOON) for n in range(1, 4)]
    rows += [an_outcome(f"other{n}", model="other", entity=f"x{n}", loss=9.0) for n in range(3)]
    with session(engine) as s:
        outcomes.save_outcomes(s, rows)
    return engine


def test_a_summary_is_of_one_model_and_of_events_of_which_both_are_known(filled: Engine) -> None:
    with session(filled) as s:
        summary = outcome_summary.summarize_outcomes(s, "m")
        rows = s.execute(
            text("SELECT hit_10, popular_hit_10, loss_unadapted - loss FROM outcomes WHERE model = 'm'")
        ).all()
        empty = outcome_summary.summarize_outcomes(s, "nobody")
    both = [row for row in rows if row[0] is not None and row[1] is not None]
    gains = [row[2] for row in rows]
    assert (summary.events, summary.entities, summary.lists) == (51, 13, 48)
    assert summary.hit_10 == pytest.approx(sum(row[0] for row in both) / len(both))
    assert summary.popular_hit_10 == pytest.approx(sum(row[1] for row in both) / len(both))
    assert summary.gain == pytest.approx(sum(gains) / len(gains))
    assert (empty.events, empty.gain, empty.first_day) == (0, None, None)


def test_gain_by_support_size_has_the_interval_of_the_view(filled: Engine) -> None:
    with session(filled) as s:
        gains = {row.support_size: row for row in outcome_summary.gain_by_support_size(s, "m")}
    assert [gains[size].events for size in sorted(gains)] == [12, 13, 13, 13]
    assert gains[0].gain == 0 == gains[0].low
    values = [0.1 * (n % 3) for n in range(12)] + [-2.0]
    mean = sum(values) / 13
    margin = 1.96 * (sum((v - mean) ** 2 for v in values) / 13 / 12) ** 0.5
    assert gains[1].gain == pytest.approx(mean)
    assert (gains[1].low, gains[1].high) == pytest.approx((mean - margin, mean + margin))


def test_the_view_has_the_same_interval_of_one_day(engine: Engine) -> None:
    rows = [an_outcome(f"e{n}", entity=f"u{n}", loss=1.0 + 0.1 * n, loss_unadapted=2.0) for n in range(15)]
    with session(engine) as s:
        outcomes.save_outcomes(s, rows)
        (row,) = outcome_summary.online_quality(s, "m")
        (gain,) = outcome_summary.gain_by_support_size(s, "m")
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx((gain.gain, gain.low, gain.high))
    assert (row.day, row.model_version, row.events, row.entities) == (NOON.date(), "v1", 15, 15)


def test_days_and_those_who_were_not_helped(filled: Engine) -> None:
    with session(filled) as s:
        days = outcome_summary.quality_by_day(s, "m")
        worse = outcome_summary.entities_not_helped(s, "m")
        assert outcome_summary.newest_model(s) == "m"
        assert [row.day for row in outcome_summary.online_quality(s, "m")] == [later(11 * DAY / 2).date()] * 4
    assert [day.events for day in days] == [7, 8, 8, 8, 8, 8, 4]
    assert days == sorted(days, key=lambda day: day.day)
    assert [(one.entity, one.events) for one in worse] == [("worse", 3)]
    assert worse[0].gain == pytest.approx(2 - 5)


def test_only_the_newest_outcomes_count(filled: Engine, monkeypatch) -> None:
    monkeypatch.setattr(outcome_summary, "MOST_OUTCOMES", 4)
    with session(filled) as s:
        assert outcome_summary.summarize_outcomes(s, "m").events == 4
        assert [day.events for day in outcome_summary.quality_by_day(s, "m")] == [4]
