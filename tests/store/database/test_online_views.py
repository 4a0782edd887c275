"""Views of outcomes on streams with known truth: the same figures as by hand, the better version, honest intervals."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, text

from recsys_meta.metrics.sequential_test import difference_of_rates, sequence_margin, sequential_p, sums_of
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.entities import outcomes
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.model_registry.traffic_splits import start_split, stop_split
from tests.store.samples import NOON, an_outcome, later

HITS = {"impression": 1, "reciprocal_rank": 0.5, "popular_hit_10": 0.0}


def rows(engine, query, **given):
    with reading(engine) as s:
        return [dict(row) for row in s.execute(text(query), given).mappings()]


def hit(event, at=1, value=1.0, **given):
    figures = {"hit_1": 0.0, "hit_5": value, "hit_10": value, "rank": 3 if value else None}
    return an_outcome(event, created=later(at), **{**HITS, **figures, **given})


def test_online_quality_by_day_version_arm_and_support_size(engine: Engine) -> None:
    with session(engine) as s:
        few = [hit("a"), hit("b", value=0.0, entity="u2"), an_outcome("c", loss=0.5, loss_unadapted=2.5)]
        apart = [hit("d", variant="new"), hit("e", support_size=0), hit("f", at=86_400), hit("g", model_version="v2")]
        unknown = [an_outcome("h", loss=None, loss_unadapted=None, **HITS, hit_10=0.0, hit_5=0.0, hit_1=0.0)]
        assert outcomes.save_outcomes(s, [*few, *apart, *unknown]) == 8
    found = rows(engine, "SELECT * FROM online_quality")
    assert len(found) == 5
    (day,) = (
        r for r in found
        if (str(r["day"]), r["model_version"], r["variant"], r["support_size"]) == ("2024-05-17", "v1", None, 3)
    )  # fmt: skip
    assert (day["events"], day["entities"], day["lists"]) == (4, 2, 3)
    assert (day["hit_1"], day["hit_5"], day["hit_10"]) == (0.0, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (day["reciprocal_rank"], day["popular_hit_10"]) == (0.5, 0.0)
    assert (day["loss"], day["loss_unadapted"], day["gain"]) == pytest.approx((2.5 / 3, 6.5 / 3, 4 / 3))
    assert (day["hit_10_low"], day["gain_low"]) == (None, None), "of two entities there is no interval"


def test_intervals_are_over_entities(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    events = [(n, float(rng.random() < 0.3), rng.normal(0.4, 1)) for n in range(40) for _ in range(1 + n % 4)]
    with session(engine) as s:
        judged = [
            hit(f"e{i}", value=value, entity=f"u{n}", loss=1.0, loss_unadapted=1 + gain)
            for i, (n, value, gain) in enumerate(events)
        ]
        outcomes.save_outcomes(s, judged)
    (day,) = rows(engine, "SELECT * FROM online_quality")
    count = np.bincount([n for n, *_ in events]).astype(float)
    for name, index in (("hit_10", 1), ("gain", 2)):
        sums = np.bincount([e[0] for e in events], [e[index] for e in events])
        judged = sums_of(sums, count)
        ratio, variance = judged.ratio, judged.variance
        assert day[name] == pytest.approx(ratio)
        ends = ratio - 1.96 * variance**0.5, ratio + 1.96 * variance**0.5
        assert (day[f"{name}_low"], day[f"{name}_high"]) == pytest.approx(ends)


def stream(rng, model, rates, entities=60):
    """Outcomes of a split of a model: entities of each arm with a rate of their own around the arm's."""
    made = []
    for label, rate in rates.items():
        events = 1 + rng.poisson(1.5, entities)
        values = rng.random((entities, events.max())) < rng.beta(8 * rate, 8 * (1 - rate), entities)[:, None]
        for n, count in enumerate(events.tolist()):
            entity = f"{model} {label} {n}"
            hits = values[n, :count].astype(float).tolist()
            made += [(f"{entity} {i}", entity, model, f"v-{label}", label, hit) for i, hit in enumerate(hits)]
    return made


def insert(engine, table, columns, values, **constants):
    """Write rows as the driver takes them: thousands of them."""
    postgres = engine.dialect.name == "postgresql"
    constants = {
        k: v.replace(tzinfo=None).isoformat(" ", "microseconds") if k in TIMES and not postgres else v
        for k, v in constants.items()
    }
    marks = ", ".join(["%s" if postgres else "?"] * (len(columns) + len(constants)))
    statement = f"INSERT INTO {table} ({', '.join((*columns, *constants))}) VALUES ({marks})"
    with engine.begin() as connection:
        connection.connection.cursor().executemany(statement, [(*row, *constants.values()) for row in values])


TIMES = ("at", "created", "updated")
HIT = {"kind": "user", "support_size": 3, "hit_1": 0.0, "hit_5": 0.0, "reciprocal_rank": 0.125}


def store(engine, streams):
    columns = ("event_id", "entity", "model", "model_version", "variant", "hit_10")
    insert(engine, "outcomes", columns, streams, created=later(5), day="2024-05-17", **HIT)


def start(s, model, labels, at=NOON):
    for label in labels:
        registry.publish_version(s, model, f"v-{label}", "/", now=at)
    return start_split(s, model, [SplitArm(label, f"v-{label}", 1) for label in labels], force=True, now=at)


def by_hand(streams, label, reference, comparisons):
    arms = {}
    for _, entity, _, _, arm, value in streams:
        sums = arms.setdefault(arm, {}).setdefault(entity, [0.0, 0.0])
        sums[0] += value
        sums[1] += 1
    ours, theirs = (sums_of(*np.array(list(arms[one].values())).T) for one in (label, reference))
    difference, variance = difference_of_rates(ours, theirs)
    return difference, sequence_margin(variance, comparisons), sequential_p(difference, variance, comparisons)


def test_split_results_are_the_test_by_hand_also_after_the_split(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    made = stream(rng, "shop", {"old": 0.2, "new": 0.5, "like": 0.2})
    with session(engine) as s:
        start(s, "shop", ("old", "new", "like"))
        start(s, "idle", ("a", "b"))
    store(engine, made)
    query = "SELECT * FROM split_results WHERE model = :model ORDER BY label"
    before = rows(engine, query, model="shop")
    with session(engine) as s:
        stop_split(s, "shop", now=NOON + timedelta(days=1))
        # What comes later, or was never in the split, is not of it.
        others = [hit("x", at=100_000, model="shop", model_version="v-old", variant="old"), hit("y", model="shop")]
        outcomes.save_outcomes(s, others)
        start_split(s, "shop", [SplitArm("old", "v-old", 1)], force=True, now=NOON + timedelta(days=2))
    results = rows(engine, query + ", sequence", model="shop")
    assert len(results) == 4
    like, new, old, _ = results
    for row, earlier in zip((like, new, old), before, strict=True):
        assert row.pop("ended") is not None and earlier.pop("ended") is None
        assert row == {k: pytest.approx(v) if isinstance(v, float) else v for k, v in earlier.items()}
    for row in (like, new):
        difference, margin, p = by_hand(made, row["label"], "old", 2)
        assert row["difference"] == pytest.approx(difference)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            (difference - margin, difference + margin)
        )
        assert row["p"] == pytest.approx(p, rel=1e-6, abs=1e-12)
    assert (old["verdict"], new["verdict"], like["verdict"]) == ("reference", "better", "open")
    assert (old["difference"], old["p"], old["entities"]) == (None, None, 60)
    assert old["lists"] == sum(row[4] == "old" for row in made)
    idle = rows(engine, query, model="idle")
    assert [(r["events"], r["lists"], r["hit_10"], r["verdict"]) for r in idle] == [
        (0, 0, None, "reference"),
        (0, 0, None, "too few"),
    ]


def test_an_arm_without_a_hit_is_worse_in_the_end(engine: Engine) -> None:
    rng = np.random.default_rng(3)
    with session(engine) as s:
        start(s, "shop", ("old", "new"))
    store(
        engine,
        [(*row[:5], row[5] if row[4] == "old" else 0.0) for row in stream(rng, "shop", {"old": 0.4, "new": 0.4})],
    )
    results = {r["label"]: r for r in rows(engine, "SELECT * FROM split_results")}
    assert (results["new"]["hit_10"], results["new"]["hit_10_low"], results["new"]["verdict"]) == (0.0, None, "worse")


def test_of_a_hundred_streams_the_better_is_found_and_alike_arms_alarm_seldom(sqlite_url: str) -> None:
    migrate.upgrade_database(sqlite_url)
    engine, rng = connect(sqlite_url), np.random.default_rng(2)
    models = [f"{what} {n}" for what in ("better", "alike") for n in range(100)]
    insert(engine, "models", ("name",), [(model,) for model in models], created=NOON, updated=NOON)
    arms = [(model, f"v-{label}", label, place) for model in models for place, label in enumerate("ab")]
    versions = [arm[:2] for arm in arms]
    insert(engine, "model_versions", ("model", "version"), versions, path="/", metrics="{}", created=NOON)
    insert(engine, "splits", ("model", "version", "label", "place"), arms, sequence=1, weight=0.5, salt="s", at=NOON)
    rates = {"better": {"a": 0.2, "b": 0.55}, "alike": {"a": 0.3, "b": 0.3}}
    store(engine, [row for model in models for row in stream(rng, model, rates[model.partition(" ")[0]])])
    results = rows(engine, "SELECT * FROM split_results WHERE label = 'b'")
    better = [r for r in results if r["model"].startswith("better")]
    alike = [r for r in results if r["model"].startswith("alike")]
    assert sum(r["verdict"] == "better" for r in better) >= 95
    assert sum(r["difference_low"] <= 0.35 <= r["difference_high"] for r in better) >= 95
    assert sum(r["verdict"] != "open" for r in alike) <= 5
    assert 90 <= sum(r["hit_10_low"] <= 0.55 <= r["hit_10_high"] for r in better) <= 100
    engine.dispose()


def test_a_day_is_found_by_its_index(engine: Engine) -> None:
    postgres = engine.dialect.name == "postgresql"
    explain = "EXPLAIN" if postgres else "EXPLAIN QUERY PLAN"
    with reading(engine) as s:
        if postgres:  # of a table without rows it would read all
            s.execute(text("SET LOCAL enable_seqscan = off"))
        plan = s.execute(text(f"{explain} SELECT * FROM online_quality WHERE day >= '2024-05-17'")).all()
    assert any("ix_outcomes_day" in str(row) for row in plan), plan
