"""Items in SQL: what becomes of each, pages, and that readers of changes miss none."""

from datetime import timedelta
from threading import Thread

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities.events import insert_events
from recsys_meta.store.entities.outcomes import save_outcomes
from recsys_meta.store.items import items as store
from recsys_meta.store.items.item_events import event_rate, first_likes, item_fate, items_with_events
from recsys_meta.store.items.items import NewItem
from tests.store.samples import NOON, an_event, an_outcome, later


def save(engine: Engine, *items: NewItem, kind: str = "user", now=NOON) -> list[str]:
    with session(engine) as s:
        return list(store.save_items(s, kind, items, now))


def ids(engine: Engine, kind: str = "user", **given) -> list[str]:
    with reading(engine) as s:
        return [row.external_id for row in store.page_items(s, kind, **given).items]


def test_sending_an_item_again_changes_nothing(engine: Engine) -> None:
    one = NewItem("a", {"genre": ["x", "y"], "year": 1999}, "A")
    assert save(engine, one) == ["new"]
    assert save(engine, one, now=later(9)) == ["unchanged"]
    assert save(engine, NewItem("a", {"genre": "x"}, "A"), now=later(10)) == ["changed"]
    with reading(engine) as s:
        row = store.find_item(s, "user", "a")
        assert (row.features, row.created, row.updated) == ({"genre": "x"}, NOON, later(10))
        assert [r.external_id for r in store.changed_items(s, "user", row.revision)[0]] == []


def test_of_several_with_one_id_the_last_counts(engine: Engine) -> None:
    assert save(engine, NewItem("a", title="1"), NewItem("b"), NewItem("a", title="2")) == ["new", "new", "new"]
    with reading(engine) as s:
        assert store.find_item(s, "user", "a").title == "2"
        assert store.count_items(s, "user") == 2
        assert store.count_items(s, "ad") == 0


def test_pages_have_every_item_once_the_last_change_first(engine: Engine) -> None:
    for second in range(3):
        save(engine, *(NewItem(f"{second}{n}", available=n > 0) for n in range(3)), now=later(second))
    with reading(engine) as s:
        first = store.page_items(s, "user", limit=4)
        rest = store.page_items(s, "user", limit=9, cursor=first.next)
    found = [row.external_id for row in first.items + rest.items]
    assert found == ["22", "21", "20", "12", "11", "10", "02", "01", "00"]
    assert rest.next is None
    assert ids(engine, available=False) == ["20", "10", "00"]
    assert ids(engine, since=later(2)) == ["22", "21", "20"]


def test_hidden_items_stay_and_deleted_ones_go(engine: Engine) -> None:
    save(engine, NewItem("a", {"g": 1}, "A"), NewItem("b"))
    with session(engine) as s:
        others = store.switch_items(s, "user", ["a", "the model's", "nobody's"], False, {"the model's"}, later(1))
    assert others == ["nobody's"]
    assert ids(engine, available=False) == ["the model's", "a"]
    with session(engine) as s:
        assert store.delete_items(s, "user", ["a", "never there"], later(2)) == ["a"]
        assert store.delete_items(s, "user", ["a"], later(3)) == []
    with reading(engine) as s:
        with pytest.raises(NotFoundError, match="no item"):
            store.find_item(s, "user", "a")
        (trace,) = [r for r in store.changed_items(s, "user", 0)[0] if r.external_id == "a"]
    assert (trace.features, trace.title, trace.deleted) == ({}, None, later(2))
    assert save(engine, NewItem("a"), now=later(4)) == ["new"]
    assert "a" in ids(engine)


def test_traces_of_deleted_items_go_too(engine: Engine) -> None:
    save(engine, NewItem("a"), NewItem("b"))
    with session(engine) as s:
        store.delete_items(s, "user", ["a"], NOON)
        store.delete_items(s, "user", ["b"], NOON + timedelta(days=store.TRACE_DAYS, seconds=1))
    with reading(engine) as s:
        assert [r.external_id for r in store.changed_items(s, "user", 0)[0]] == ["b"]


def test_changes_are_read_in_parts_that_cut_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHANGE_ROWS", 4)
    for batch in (3, 6, 1, 2):
        save(engine, *(NewItem(f"{batch}-{n}") for n in range(batch)))
    seen: list[str] = []
    after, is_all = 0, False
    with reading(engine) as s:
        while not is_all:
            rows, is_all = store.changed_items(s, "user", after)
            seen += [row.external_id for row in rows]
            after = max((row.revision for row in rows), default=after)
        assert after == store.item_revisions(s)["user"]
    assert len(seen) == len(set(seen)) == 12


def test_a_reader_of_changes_misses_none_of_writers_at_once(engine: Engine) -> None:
    def write(name: str) -> None:
        for n in range(8):
            save(engine, NewItem(f"{name}{n}"))

    writers = [Thread(target=write, args=(name,)) for name in "abc"]
    for one in writers:
        one.start()
    seen: set[str] = set()
    after, writing = 0, True
    while writing:
        writing = any(one.is_alive() for one in writers)  # the last reading is one after the last writer
        with reading(engine) as s:
            rows, _ = store.changed_items(s, "user", after)
        seen |= {row.external_id for row in rows}
        after = max((row.revision for row in rows), default=after)
    assert len(seen) == 24


def test_first_likes_are_counted_and_the_first_entities_named(engine: Engine) -> None:
    events = [an_event(f"e{n}", entity=f"u{n}", item="a" if n % 2 else "b", label=float(n % 3)) for n in range(12)]
    for n, event in enumerate(events):
        with session(engine) as s:
            insert_events(s, [event], now=later(n))
    with reading(engine) as s:
        likes = first_likes(s, "user", ["a", "b", "c"], 1.0, most=2)
        assert likes == {"a": (4, ("u1", "u5")), "b": (4, ("u2", "u4"))}
        assert items_with_events(s, "user", later(10)) == {"a", "b"}
        assert items_with_events(s, "user", later(11)) == {"a"}
        assert event_rate(s, "user", later(24)) == pytest.approx(0.5)
        assert event_rate(s, "ad", NOON) == 0


def test_what_changes_nothing_takes_no_number(engine: Engine) -> None:
    """Servers make their models ready anew at each number."""
    save(engine, NewItem("a"), NewItem("b", available=False))
    with reading(engine) as s:
        before = store.item_revisions(s)
    save(engine, NewItem("a"))
    with session(engine) as s:
        store.set_available(s, "user", ["a"], True)
        store.switch_items(s, "user", ["b", "never there"], False)
        store.delete_items(s, "user", ["never there"])
    with reading(engine) as s:
        assert store.item_revisions(s) == before == {"user": 1}
        assert store.find_item(s, "user", "b").updated == NOON
    with session(engine) as s:
        store.set_available(s, "user", ["b"], True)
    with reading(engine) as s:
        assert store.item_revisions(s) == {"user": 2}
        assert [row.external_id for row in store.changed_items(s, "user", 1)[0]] == ["b"]


def test_the_fate_of_an_item_is_read_from_its_events_and_their_outcomes(engine: Engine) -> None:
    with session(engine) as s:
        assert item_fate(s, "user", "fresh") == (0, 0, None, 0, None)
        chosen = [an_event(f"e{n}", entity=f"u{n // 2}", item="fresh", time=NOON) for n in range(6)]
        insert_events(s, [*chosen, an_event("other", item="i9"), an_event("ad", kind="ad", item="fresh")], NOON)
        hits = [an_outcome(f"e{n}", hit_10=float(n == 0)) for n in range(4)]
        save_outcomes(s, [*hits, an_outcome("e4"), an_outcome("ad", kind="ad", hit_10=1.0)])
        assert item_fate(s, "user", "fresh") == (6, 3, NOON, 4, 0.25)
