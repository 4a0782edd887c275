import random
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import events, profiles
from tests.store.samples import NOON, an_event, later


def test_new_duplicate_and_conflict(engine: Engine) -> None:
    with session(engine) as s:
        assert events.insert_events(s, [an_event("e1"), an_event("e2", context={"hour": 3})]) == ["new", "new"]
    with session(engine) as s:
        again = [
            an_event("e2", context={"hour": 3}),
            an_event("e1", label=2.0),
            an_event("e3"),
            an_event("e1", kind="ad"),
            an_event("e2", context={"hour": 4}),
            an_event("e1", time=NOON.astimezone(timezone(timedelta(hours=9)))),
        ]
        outcomes = ["duplicate", "conflict", "new", "new", "conflict", "duplicate"]
        assert events.insert_events(s, again) == outcomes
        assert events.insert_events(s, []) == []
    with reading(engine) as s:
        assert [(e.event_id, e.label) for e in events.support_events(s, "user", "u1", 10)] == [
            ("e1", 1.0),
            ("e2", 1.0),
            ("e3", 1.0),
        ]


def test_twice_in_one_call(engine: Engine) -> None:
    with session(engine) as s:
        same = [an_event("e1"), an_event("e1"), an_event("e1", item="other")]
        assert events.insert_events(s, same) == ["new", "duplicate", "conflict"]


def test_the_same_event_sent_twice_at_once_without_a_time_is_a_duplicate(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sender looked for the event before the other had stored it, and took its own time for the event's."""
    real, both_looked = events._with_times, threading.Barrier(2, timeout=30)

    def look_then_wait(*args):
        timed = real(*args)
        both_looked.wait()
        return timed

    def send(minutes: int) -> list[events.Outcome]:
        with session(engine) as s:
            return events.insert_events(s, [an_event("e1", time=None, context={"hour": 3})], now=later(minutes))

    if engine.dialect.name == "sqlite":  # a single writer: the second looks when the first has stored
        outcomes = [send(1), send(2)]
    else:
        monkeypatch.setattr(events, "_with_times", look_then_wait)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(send, (1, 2)))
    assert sorted(outcomes) == [["duplicate"], ["new"]]


def test_only_what_the_sender_gave_is_compared(engine: Engine) -> None:
    with session(engine) as s:
        assert events.insert_events(s, [an_event("e1", label=4.0)]) == ["new"]
    with session(engine) as s:
        retries = [
            an_event("e1", label=1.0, label_given=False),
            an_event("e1", label=4.0, time=None),
            an_event("e1", label=1.0),
            an_event("e1", label=4.0, time=later(5)),
            an_event("e2", time=None),
            an_event("e2", time=later(5)),
            an_event("e2", time=None),
        ]
        outcomes = ["duplicate", "duplicate", "conflict", "conflict", "new", "conflict", "duplicate"]
        assert events.insert_events(s, retries) == outcomes


@pytest.mark.parametrize("label", [float("nan"), float("inf")])
def test_label_must_be_finite(engine: Engine, label: float) -> None:
    with pytest.raises(ValueError, match="finite"), session(engine) as s:
        events.insert_events(s, [an_event("e1"), an_event("e2", label=label)])
    with reading(engine) as s:
        assert events.count_events(s, "user", "u1") == 0


def test_support_is_the_newest_in_order_of_time(engine: Engine) -> None:
    rows = [an_event(f"e{i:04d}", time=later(i // 2)) for i in range(2000)]
    random.Random(0).shuffle(rows)
    with session(engine) as s:
        assert set(events.insert_events(s, rows)) == {"new"}
        events.insert_events(s, [an_event("other", entity="u2"), an_event("another", kind="ad")])
    with reading(engine) as s:
        assert [e.event_id for e in events.support_events(s, "user", "u1", 3)] == ["e1997", "e1998", "e1999"]
        assert [e.event_id for e in events.support_events(s, "user", "u1", 3, before=later(5))] == [
            "e0007",
            "e0008",
            "e0009",
        ]
        assert len(events.support_events(s, "user", "u1", 5000)) == events.count_events(s, "user", "u1") == 2000
        assert events.support_events(s, "user", "u1", 0) == []
        assert events.support_events(s, "user", "nobody", 3) == []


def test_an_answer_looks_at_the_newest_events_of_an_entity(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_EVENTS", 3)
    with session(engine) as s:
        events.insert_events(s, [an_event(f"e{i}", time=later(i)) for i in (4, 0, 3, 1, 2)])
    with reading(engine) as s:
        _, stored = profiles.read_stored_profile(s, "user", "u1")
    assert [e.event_id for e in stored] == ["e2", "e3", "e4"]


def test_an_event_without_a_time_keeps_that_under_which_it_was_stored(engine: Engine) -> None:
    """Else it would be a conflict with itself, sent again."""
    with session(engine) as s:
        events.insert_events(s, [an_event("e1", time=later(2))])
        again = [an_event("e1", time=None), an_event("e2", time=None), an_event("e2", time=None)]
        assert events.insert_events(s, again, now=later(5)) == ["duplicate", "new", "duplicate"]
        assert events.insert_events(s, again, now=later(9)) == ["duplicate"] * 3
    with reading(engine) as s:
        assert [e.time for e in events.support_events(s, "user", "u1", 5)] == [later(2), later(5)]


def test_senders_of_the_same_events_at_once(engine: Engine) -> None:
    """Each event is new exactly once, whatever the order in which it is sent."""
    rows = [an_event(f"e{i:04d}", time=later(i)) for i in range(1200)]
    together = threading.Barrier(4)

    def send(worker: int) -> list[str]:
        mine = rows.copy()
        random.Random(worker).shuffle(mine)
        together.wait()
        with session(engine) as s:
            outcomes = events.insert_events(s, mine)
        return [event.event_id for event, outcome in zip(mine, outcomes, strict=True) if outcome == "new"]

    with ThreadPoolExecutor(4) as pool:
        new = [event_id for found in pool.map(send, range(4)) for event_id in found]
    assert sorted(new) == [row.event_id for row in rows]
    with reading(engine) as s:
        assert events.count_events(s, "user", "u1") == len(rows)


SENT = st.builds(
    an_event,
    event_id=st.sampled_from("abc"),
    item=st.sampled_from(["i", "j"]),
    label=st.sampled_from([0.0, 1.0, 0.1]),
    context=st.sampled_from([None, {}, {"hour": 1.5}, {"é": ["☃", None, True]}]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(SENT, max_size=5), max_size=4))
def test_first_one_wins_as_in_a_dictionary(engine: Engine, batches: list[list[events.NewEvent]]) -> None:
    n = uuid.uuid4().hex
    truth: dict[str, events.NewEvent] = {}
    for batch in batches:
        rows = [an_event(f"{n}{e.event_id}", entity=n, item=e.item, label=e.label, context=e.context) for e in batch]
        expected = []
        for row in rows:
            known = truth.setdefault(row.event_id, row)
            same = (known.item, known.label, known.context or None) == (row.item, row.label, row.context or None)
            expected.append("new" if known is row else "duplicate" if same else "conflict")
        with session(engine) as s:
            assert events.insert_events(s, rows) == expected
    with reading(engine) as s:
        stored = {e.event_id: (e.item, e.label, e.context) for e in events.support_events(s, "user", n, 100)}
    assert stored == {key: (e.item, e.label, e.context) for key, e in truth.items()}
