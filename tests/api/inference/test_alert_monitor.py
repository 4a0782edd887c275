"""The guardrail's checks go on, whatever becomes of one of them."""

import asyncio
import json
import threading

from api.inference import alert_monitor
from api.inference.alert_monitor import AlertMonitor
from api.persistence import async_database
from api.persistence.async_database import AsyncDatabase
from api.telemetry.logging import open_log
from recsys_meta.store.model_registry import guardrail


def test_a_check_that_takes_too_long_is_said_and_the_next_one_counts(light, monkeypatch, capfd):
    end, done = threading.Event(), threading.Event()
    worse = guardrail.GuardrailCheck("shop", "v1", -0.2, -0.3, -0.1, 1000, 500)
    answers = [lambda: end.wait(30) and [], lambda: 1 / 0, lambda: [worse]]
    take = lambda: answers.pop(0) if len(answers) > 1 else answers[0]  # noqa: E731
    monkeypatch.setattr(guardrail, "check_versions", lambda session: take()())
    monkeypatch.setattr(guardrail, "record_alerts", lambda session, checks: done.set())
    for name in ("READ_S", "CALL_S"):
        monkeypatch.setattr(async_database, name, 0.5)
    monkeypatch.setattr(alert_monitor, "INTERVAL_S", 0.0)
    monkeypatch.setattr(alert_monitor, "_SHARE", 1e9)
    database = AsyncDatabase(light)
    monitor, closing = AlertMonitor(database, open_log()[0]), asyncio.Event()

    async def work():
        running = asyncio.create_task(monitor.run(closing))
        while not monitor.alerts:
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(work(), 30))
    end.set()
    assert done.is_set() and not database.degraded
    database.close()
    lines = [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()]
    expected = ["checking versions has to wait", "checking versions failed", "a version is worse than popularity"]
    assert list(dict.fromkeys(lines)) == expected
