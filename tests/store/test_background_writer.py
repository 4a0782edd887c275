import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import ConflictError
from recsys_meta.store.background_writer import BackgroundWriter, Row, database_sink
from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import StoreUnavailable, connect, reading, session
from recsys_meta.store.entities import adaptations
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint
from tests.fixtures.services import PATIENCE_S, wait
from tests.store.samples import NOON, a_run, an_adaptation, curriculum_rows


def point(step: int) -> MetricPoint:
    return MetricPoint("r", "loss", step, 0.5)


class Sink:
    """Keeps rows; can be away, refuse some steps, or hold a batch until let go."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.batches: list[int] = []
        self.attempts = 0
        self.away = False
        self.bad: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Event()

    def __call__(self, rows: Sequence[Row]) -> None:
        self.attempts += 1
        self.inside.set()
        self.go.wait(PATIENCE_S)
        if self.away:
            raise StoreUnavailable("away")
        if any(isinstance(row, MetricPoint) and row.step in self.bad for row in rows):
            raise ConflictError("bad row")
        self.rows += rows
        self.batches.append(len(rows))

    @property
    def steps(self) -> list[int]:
        return [row.step for row in self.rows if isinstance(row, MetricPoint)]


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.away = False
    made.go.set()


def test_rows_arrive_in_order_and_in_batches(sink: Sink) -> None:
    with BackgroundWriter(sink, batch_size=10, interval=5.0) as writer:
        assert all(writer.put(point(i)) for i in range(25))
        assert writer.flush(PATIENCE_S)
        assert (writer.written, writer.waiting, writer.dropped) == (25, 0, 0)
    assert sink.steps == list(range(25))
    assert len(sink.batches) <= 6


def test_row_alone_is_written_after_the_interval(sink: Sink) -> None:
    with BackgroundWriter(sink, interval=0.05) as writer:
        writer.put(point(1))
        wait(lambda: sink.steps == [1])


def test_full_queue_drops_counts_and_says_so(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sink.go.clear()
    with BackgroundWriter(sink, capacity=5, batch_size=2, interval=0.0) as writer:
        start = time.monotonic()
        taken = [writer.put(point(i)) for i in range(1000)]
        seconds = time.monotonic() - start
        assert not sink.rows, "nobody waited for the database"
        assert (sum(taken), writer.dropped) == (5, 995)
        said = [r for r in caplog.records if "dropped" in r.message]
        assert 1 <= len(said) <= 1 + seconds, "at most once a second"
        sink.go.set()
        assert writer.flush(PATIENCE_S)
        assert writer.put(point(7))
    assert sink.steps == [0, 1, 2, 3, 4, 7]


def test_rows_under_way_take_room_until_they_are_written(sink: Sink) -> None:
    sink.go.clear()
    with BackgroundWriter(sink, capacity=5, batch_size=2, interval=0.0) as writer:
        assert writer.put(point(0))
        assert sink.inside.wait(PATIENCE_S)
        assert [writer.put(point(i)) for i in range(1, 8)] == [True] * 4 + [False] * 3
        sink.go.set()
        assert writer.flush(PATIENCE_S)
        assert writer.put(point(8))
    assert sink.steps == [0, 1, 2, 3, 4, 8]


def pauses_of(writer: BackgroundWriter, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each pause of its thread is to be."""
    found: list[float] = []
    real = writer._changed.wait_for

    def wait_for(until: Callable[[], object], timeout: float | None = None) -> object:
        if timeout and threading.current_thread() is writer._thread:
            found.append(timeout)
        return real(until, timeout)

    monkeypatch.setattr(writer._changed, "wait_for", wait_for)
    return found


def test_the_pauses_of_a_writer_grow_and_begin_anew_once_rows_are_written(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BackgroundWriter(sink, interval=0.0, backoff=0.01, max_backoff=0.04) as writer:
        pauses = pauses_of(writer, monkeypatch)
        for step in range(2):
            pauses.clear()
            sink.away = True
            assert writer.put(point(step))
            wait(lambda: len(pauses) >= 4)
            sink.away = False
            assert writer.flush(PATIENCE_S)
            assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]


def test_outage_keeps_rows_within_the_bound_and_in_order(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sink.away = True
    with BackgroundWriter(sink, capacity=30, batch_size=7, interval=0.0, backoff=0.01, max_backoff=0.05) as writer:
        for i in range(20):
            assert writer.put(point(i))
        start = time.monotonic()
        assert not writer.flush(0.3)
        assert writer.degraded
        assert sink.attempts <= 4 + (time.monotonic() - start) / 0.05, "it makes pauses"
        wait(lambda: sink.attempts >= 3)
        assert sum(writer.put(point(i)) for i in range(20, 40)) == 10
        sink.away = False
        assert writer.flush(PATIENCE_S)
        assert not writer.degraded
    assert sink.steps == list(range(30))
    assert len([r for r in caplog.records if "wait for the database" in r.message]) == 1


def test_flush_does_not_wait_for_a_long_pause(sink: Sink) -> None:
    sink.away = True
    with BackgroundWriter(sink, interval=0.0, backoff=60.0, max_backoff=60.0) as writer:
        writer.put(point(1))
        wait(lambda: writer.degraded)
        sink.away = False
        assert writer.flush(30)


def test_flush_waits_only_for_what_was_there(sink: Sink) -> None:
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            writer.put(point(0))
            time.sleep(0.0005)

    with BackgroundWriter(sink, batch_size=5, interval=0.001) as writer:
        thread = threading.Thread(target=go_on)
        thread.start()
        assert all(writer.flush(PATIENCE_S) for _ in range(10))
        stop.set()
        thread.join()


def test_refused_row_goes_alone(sink: Sink) -> None:
    sink.bad = {3, 8}
    with BackgroundWriter(sink, batch_size=20, interval=5.0) as writer:
        for i in range(10):
            writer.put(point(i))
        assert writer.flush(PATIENCE_S)
        assert (writer.dropped, writer.written) == (2, 8)
        assert writer.put(point(10))
    assert sink.steps == [0, 1, 2, 4, 5, 6, 7, 9, 10]


def test_outage_between_the_halves_of_a_refused_batch_writes_nothing_twice() -> None:
    seen: list[int] = []
    calls = 0

    def sink(rows: Sequence[Row]) -> None:
        nonlocal calls
        calls += 1
        steps = [row.step for row in rows if isinstance(row, MetricPoint)]
        if calls in (4, 5):
            raise StoreUnavailable("away")
        if 9 in steps:
            raise ConflictError("bad row")
        seen.extend(steps)

    with BackgroundWriter(sink, batch_size=10, interval=5.0, backoff=0.01) as writer:
        for i in range(10):
            writer.put(point(i))
        assert writer.flush(PATIENCE_S)
    assert seen == list(range(9))


def test_discard_also_finds_what_is_under_way(sink: Sink) -> None:
    sink.away = True
    sink.go.clear()
    with BackgroundWriter(sink, batch_size=2, interval=0.0, backoff=0.01) as writer:
        for name in ("u1", "u2", "u1", "u3"):
            writer.put(an_adaptation(name))
        assert sink.inside.wait(PATIENCE_S)
        threading.Timer(0.1, sink.go.set).start()
        assert writer.discard(lambda row: getattr(row, "entity", None) == "u1") == 2
        sink.away = False
        assert writer.flush(PATIENCE_S)
    assert [row.entity for row in sink.rows if isinstance(row, adaptations.NewAdaptation)] == ["u2", "u3"]


def test_discarding_everything_does_not_stop_the_writer(sink: Sink) -> None:
    with BackgroundWriter(sink, batch_size=100, interval=1.0) as writer:
        writer.put(point(1))
        time.sleep(0.02)
        assert writer.discard(lambda row: True) == 1
        time.sleep(1.1)  # it looks for its batch in vain
        writer.put(point(2))
        assert writer.flush(PATIENCE_S)
    assert sink.steps == [2]


def test_close_writes_what_waits_and_then_takes_no_more(sink: Sink) -> None:
    writer = BackgroundWriter(sink, interval=60.0)
    writer.put(point(1))
    assert writer.close(30)
    assert sink.steps == [1]
    assert not writer.put(point(2))
    assert writer.dropped == 1
    assert writer.close(1)


def test_close_in_an_outage_ends_in_time_and_counts(sink: Sink) -> None:
    sink.away = True
    writer = BackgroundWriter(sink, batch_size=2, interval=0.0, backoff=30.0, max_backoff=30.0)
    for i in range(5):
        writer.put(point(i))
    assert not writer.close(0.2)
    writer._thread.join(20)  # less than the pause that it makes
    assert not writer._thread.is_alive()
    assert writer.dropped == 5


def test_no_row_is_lost_or_doubled_with_many_writers(sink: Sink) -> None:
    def put(worker: int) -> None:
        for i in range(500):
            writer.put(point(worker * 500 + i))

    with BackgroundWriter(sink, capacity=100_000, batch_size=64, interval=0.001) as writer:
        threads = [threading.Thread(target=put, args=(w,)) for w in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.flush(PATIENCE_S)
    assert sorted(sink.steps) == list(range(4000))


def test_writer_into_a_database(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
    with BackgroundWriter(database_sink(engine), interval=0.01) as writer:
        for i in range(20):
            writer.put(point(i))
            writer.put(an_adaptation(f"u{i}", created=NOON))
            writer.put(CurriculumPoint("r", i, "easy", 0.1, 1.0))
        writer.put(MetricPoint("nobody", "loss", 1, 0.5))
        writer.put(an_adaptation("\x00"))
        assert writer.flush(PATIENCE_S)
        assert (writer.written, writer.dropped) == (60, 2)
    with reading(engine) as s:
        assert len(runs.run_metrics(s, "r")) == len(curriculum_rows(s, "r")) == 20
        assert len(adaptations.page_adaptations(s).items) == 20


def test_database_that_appears_later(tmp_path: Path) -> None:
    """Rows wait for a database that is not even migrated."""
    url = f"sqlite:///{tmp_path / 'late.db'}"
    engine = connect(url)
    with BackgroundWriter(database_sink(engine), interval=0.0, backoff=0.01, max_backoff=0.1) as writer:
        writer.put(an_adaptation())
        assert not writer.flush(0.2)
        migrate.upgrade_database(url)
        assert writer.flush(PATIENCE_S)
    with reading(engine) as s:
        assert len(adaptations.page_adaptations(s).items) == 1
    engine.dispose()
