import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import adaptations, entities, events
from recsys_meta.store.tables import METADATA
from tests.store.samples import NOON, an_adaptation, an_event, later

SECRET = "someone-in-particular"


def fill(engine: Engine) -> None:
    with session(engine) as s:
        for name in (SECRET, "neighbour"):
            entities.upsert_entity(s, "user", name, {"age": 30})
            events.insert_events(s, [an_event(f"{name}-{i}", entity=name) for i in range(3)])
            adaptations.save_adaptations(s, [an_adaptation(name), an_adaptation(name)])
        entities.upsert_entity(s, "ad", SECRET, {})


def everything(engine: Engine) -> str:
    """All rows of all tables as text."""
    with engine.connect() as connection:
        tables = METADATA.sorted_tables
        return "\n".join(str(row) for t in tables for row in connection.execute(text(f"SELECT * FROM {t.name}")))


def test_erasing_leaves_nothing_of_it_and_all_of_others(engine: Engine) -> None:
    fill(engine)
    with session(engine) as s:
        receipt = entities.erase_entity(s, "user", SECRET, now=NOON)
        assert (receipt.entities, receipt.events, receipt.adaptations) == (1, 3, 2)
        assert (receipt.kind, receipt.entity, receipt.at) == ("user", SECRET, NOON)
        assert entities.load_entity(s, "ad", SECRET).features == {}
        entities.erase_entity(s, "ad", SECRET)
    left = everything(engine)
    assert SECRET not in left
    assert receipt.receipt in left
    with reading(engine) as s:
        assert entities.find_entity(s, "user", SECRET) is None
        with pytest.raises(NotFoundError) as caught:
            entities.load_entity(s, "user", SECRET)
        assert SECRET not in str(caught.value)
        assert events.count_events(s, "user", "neighbour") == 3
        assert len(adaptations.page_adaptations(s, entity="neighbour").items) == 2


def test_erasing_again_answers_the_same_receipt(engine: Engine) -> None:
    fill(engine)
    with session(engine) as s:
        first = entities.erase_entity(s, "user", SECRET, now=NOON)
    with session(engine) as s:
        assert entities.erase_entity(s, "user", SECRET, now=later(5)) == first
        events.insert_events(s, [an_event("new", entity=SECRET)])
        second = entities.erase_entity(s, "user", SECRET, now=later(9))
    assert second.receipt != first.receipt
    assert (second.events, second.entities) == (1, 0)


def test_erasing_what_was_never_known(engine: Engine) -> None:
    with session(engine) as s:
        first = entities.erase_entity(s, "user", "nobody")
        assert (first.entities, first.events, first.adaptations) == (0, 0, 0)
        assert entities.erase_entity(s, "user", "nobody") == first


def test_queue_brings_nothing_back(engine: Engine) -> None:
    """Rows made before the erasure, or before it was last asked for, are refused; later ones are welcome."""
    with session(engine) as s:
        entities.erase_entity(s, "user", SECRET, now=later(10))
        rows = [an_adaptation(SECRET, created=later(t)) for t in (5, 10, 15)]
        assert adaptations.save_adaptations(s, [*rows[:2], an_adaptation("other", created=later(5))]) == 1
        entities.erase_entity(s, "user", SECRET, now=later(20))
        assert adaptations.save_adaptations(s, rows) == 0
        assert adaptations.save_adaptations(s, [an_adaptation(SECRET, created=later(25))]) == 1


def test_erasure_waits_for_rows_on_their_way(engine: Engine) -> None:
    """A transaction that has checked already and writes afterwards may not slip through."""
    started = threading.Event()

    def erase() -> int:
        started.set()
        with session(engine) as s:
            return entities.erase_entity(s, "user", SECRET, now=later(10)).adaptations

    with ThreadPoolExecutor(1) as pool:
        with session(engine) as s:
            adaptations.save_adaptations(s, [an_adaptation(SECRET)])
            waiting = pool.submit(erase)
            started.wait()
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert waiting.result(60) == 1
    assert SECRET not in everything(engine)


def test_features_are_replaced(engine: Engine) -> None:
    with session(engine) as s:
        entities.upsert_entity(s, "city", "oslo", {"country": "no", "n": [1, 2.5, None]}, now=NOON)
        row = entities.upsert_entity(s, "city", "oslo", {"country": "NO"}, now=later(1))
        assert (row.features, row.created, row.updated) == ({"country": "NO"}, NOON, later(1))


def test_prune_adaptations(engine: Engine) -> None:
    with session(engine) as s:
        adaptations.save_adaptations(s, [an_adaptation(created=later(t)) for t in range(10)])
        assert adaptations.prune_adaptations(s, later(4)) == 4
        assert len(adaptations.page_adaptations(s).items) == 6


def test_digest_keeps_kind_and_id_apart() -> None:
    names = {
        entities.entity_digest(*pair) for pair in (("a", "bc"), ("ab", "c"), ("1:a", "b"), ("", "abc"), ("a", "\ud800"))
    }
    assert len(names) == 5
