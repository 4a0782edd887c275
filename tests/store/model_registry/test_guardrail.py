"""Versions in service that lose to popularity online: an alert opens, stands once, and ends."""

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys_meta.store.database.engine import session
from recsys_meta.store.entities import outcomes
from recsys_meta.store.model_registry import guardrail, registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split
from tests.store.samples import NOON, an_outcome, later

LISTED = {"impression": 1, "rank": None, "hit_1": 0.0, "hit_5": 0.0, "reciprocal_rank": 0.0}


def served(s, version, hit, popular, *, entities=60, seed=0, at=1, model="m"):
    """Two events of each of some entities, with these rates of hits."""
    rng = np.random.default_rng(seed)
    rows = [
        an_outcome(f"{version} {seed} {n}", entity=f"u{n // 2}", model=model, model_version=version, created=later(at))
        ._replace(**LISTED, hit_10=float(rng.random() < hit), popular_hit_10=float(rng.random() < popular))
        for n in range(2 * entities)
    ]  # fmt: skip
    outcomes.save_outcomes(s, rows)


@pytest.fixture
def model(engine: Engine) -> str:
    with session(engine) as s:
        registry.publish_version(s, "m", "good", "/", now=NOON)
        registry.register_version(s, "m", "bad", "/", now=NOON)
    return "m"


def test_a_version_that_loses_to_popularity_has_an_alert_until_it_is_replaced(engine: Engine, model: str) -> None:
    def check(s, at):
        checks = guardrail.check_versions(s, now=later(at))
        guardrail.record_alerts(s, checks, now=later(at))
        return [(a.model_version, a.rule, a.opened) for a in guardrail.open_alerts(s)], checks

    with session(engine) as s:
        served(s, "good", 0.5, 0.1)
        served(s, "bad", 0.1, 0.6)  # staged: not in service
        assert check(s, 10)[0] == []
    with session(engine) as s:
        start_split(s, model, [SplitArm("old", "good", 1), SplitArm("new", "bad", 1)], force=True, now=later(11))
        alerts, checks = check(s, 20)
        assert alerts == [("bad", "worse than popularity", later(20))]
        bad = next(c for c in checks if c.version == "bad")
        assert bad.low < bad.difference < bad.high < 0 and (bad.events, bad.entities) == (120, 60)
        assert next(c for c in checks if c.version == "good").low > 0
        served(s, "bad", 0.1, 0.6, seed=1, at=21)
        assert check(s, 30)[0] == alerts, "one row, as old as it was"
        assert guardrail.open_alerts(s)[0].events == 240
    with session(engine) as s:
        registry.promote_version(s, model, "good", force=True, now=later(31))
        assert check(s, 40)[0] == []
    with session(engine) as s:
        registry.promote_version(s, model, "bad", force=True, now=later(41))
        assert check(s, 50)[0] == [("bad", "worse than popularity", later(50))]
        assert check(s, 60 + 86_400 * 29)[0] == [], "what is long ago does not count"


def test_too_little_says_nothing(engine: Engine, model: str) -> None:
    with session(engine) as s:
        served(s, "good", 0.1, 0.9, entities=20)
        assert guardrail.check_versions(s, now=later(10)) == []
        served(s, "good", 0.0, 0.01, entities=60, seed=2)
        outcomes.save_outcomes(s, [an_outcome("without a list", model_version="good")])
        checks = guardrail.check_versions(s, now=later(10))
        assert [c.events for c in checks] == [160]
        assert guardrail.check_versions(s, now=NOON) == checks


def test_only_so_many_of_the_newest_events_are_looked_at(engine: Engine, model: str, monkeypatch) -> None:
    monkeypatch.setattr(guardrail, "MOST_EVENTS", 120)
    with session(engine) as s:
        served(s, "good", 0.1, 0.6, at=1)
        served(s, "good", 0.6, 0.1, seed=1, at=5)
        (check,) = guardrail.check_versions(s, now=later(10))
        assert (check.events, check.difference > 0) == (120, True)
