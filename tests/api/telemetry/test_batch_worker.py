"""A worker beside the responses counts what it has not ended, and leaves out what does not fit."""

import threading

import pytest

from api.telemetry.batch_worker import BatchWorker
from tests.fixtures.services import wait


class SlowWorker(BatchWorker[int]):
    """Works on one number after the other, each when it is let."""

    def __init__(self, capacity):
        self.begun, self.ended, self.gate = [], [], threading.Semaphore(0)
        super().__init__("slow", capacity)

    def put(self, number):
        return self._enqueue(number)

    def _next_batch(self):
        entry = self._queue.get()
        return [] if entry is None else [entry]

    def _work(self, batch):
        self.begun += batch
        self.gate.acquire()
        self.ended += batch


@pytest.fixture
def worker():
    made = SlowWorker(capacity=2)
    yield made
    made.gate.release(10)
    made.close()


def test_what_is_worked_on_still_waits(worker):
    assert worker.put(1)
    wait(lambda: worker.begun == [1])
    assert worker.waiting == 1, "its row is not written yet"
    assert worker.put(2) and worker.waiting == 2
    worker.gate.release(2)
    wait(lambda: not worker.waiting)
    assert worker.ended == [1, 2]


def test_what_does_not_fit_is_counted_and_waits_for_nothing(worker):
    worker.put(1)
    wait(lambda: worker.begun == [1])
    assert [worker.put(number) for number in (2, 3, 4)] == [True, True, False]
    assert (worker.skipped, worker.waiting) == (1, 3)
