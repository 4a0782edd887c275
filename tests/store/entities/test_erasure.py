import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from recsys_meta.core.errors import NotFoundError
from recsys_meta.store.database import engine as engine_module
from recsys_meta.store.database.engine import DatabaseOptions, connect, reading, session, truncate_wal
from recsys_meta.store.entities import adaptations, entities, events
from recsys_meta.store.entities.tables import ErasureRecord
from recsys_meta.store.installation.installation_key import installation_key
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


def test_digest_keeps_kind_and_id_apart(engine: Engine) -> None:
    pairs = (("a", "bc"), ("ab", "c"), ("1:a", "b"), ("", "abc"), ("a", "\ud800"))
    with reading(engine) as s:
        assert len({entities.entity_digest(s, *pair) for pair in pairs}) == 5


def test_no_digest_can_be_tried_out_without_the_key(engine: Engine) -> None:
    """In a receipt or the audit log of somebody else's: every plain hash of kind and id is another."""
    with session(engine) as s:
        entities.upsert_entity(s, "user", "42", {})
        entities.erase_entity(s, "user", "42")
        stored = s.scalars(select(ErasureRecord.entity_digest)).one()
        key = installation_key(s)
    texts = [f"{a}{b}{c}" for a in ("", "4:", "user", "4:user") for b in ("", ":", "/", "\0") for c in ("42", "user42")]
    plain = {hashlib.new(name, t.encode()).hexdigest() for name in ("sha256", "md5", "sha1") for t in texts}
    assert stored not in plain
    assert len(key) == 32


def test_a_secret_of_the_settings_takes_the_place_of_the_databases(database_url: str) -> None:
    keys = []
    for secret in (None, "a" * 40, "b" * 40, None):
        engine = connect(database_url, DatabaseOptions(secret=secret))
        for _ in range(2):
            with reading(engine) as s:
                keys.append(installation_key(s))
        engine.dispose()
    assert keys[::2] == keys[1::2]
    assert keys[0] == keys[6] and len(set(keys)) == 3


def test_receipts_from_before_the_setting_of_a_secret_are_found(database_url: str) -> None:
    before, after = connect(database_url), connect(database_url, DatabaseOptions(secret="a" * 40))
    with session(before) as s:
        entities.upsert_entity(s, "user", SECRET, {})
        first = entities.erase_entity(s, "user", SECRET, now=later(10))
    with session(after) as s:
        assert entities.erased_since(s, "user", SECRET, later(10))
        assert adaptations.save_adaptations(s, [an_adaptation(SECRET, created=later(5))]) == 0
        assert entities.erase_entity(s, "user", SECRET, now=later(20)) == first
        entities.upsert_entity(s, "user", "new", {})
        entities.erase_entity(s, "user", "new")
    with reading(before) as s:  # what was keyed by the setting alone says nothing without it
        assert not entities.erased_since(s, "user", "new", NOON)
    before.dispose()
    after.dispose()


def test_nothing_of_an_erased_entity_stays_in_the_files(migrated_sqlite: str, tmp_path: Path) -> None:
    engine = connect(migrated_sqlite)
    reader = connect(migrated_sqlite)  # keeps the log from being folded when a connection closes
    with reading(reader) as open_reader:
        open_reader.execute(text("SELECT 1"))
    name = "anna-of-the-seven-lakes"
    with session(engine) as s:
        entities.upsert_entity(s, "user", name, {"town": name})
        events.insert_events(s, [an_event(f"{name}-{i}", entity=name) for i in range(50)])
        adaptations.save_adaptations(s, [an_adaptation(name)])
    with session(engine) as s:
        entities.erase_entity(s, "user", name)
    folder = tmp_path / "database"
    assert any(name.encode() in file.read_bytes() for file in folder.iterdir())  # in the log
    assert truncate_wal(engine)
    assert {file.name for file in folder.iterdir() if name.encode() in file.read_bytes()} == set()
    engine.dispose()
    reader.dispose()


def test_a_reader_under_way_keeps_the_log_for_a_while(migrated_sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "TRUNCATE_S", 0.3)
    writer, reader = connect(migrated_sqlite), connect(migrated_sqlite)
    with reading(reader) as open_reader:
        open_reader.execute(text("SELECT COUNT(*) FROM events")).all()
        with session(writer) as s:
            entities.upsert_entity(s, "user", "a", {})
        assert not truncate_wal(writer)
    assert truncate_wal(writer)
    writer.dispose()
    reader.dispose()
