"""The database for an event loop: what it does where answers make no sense."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from api.persistence import async_database
from api.persistence.async_database import AsyncDatabase
from api.persistence.profile_cache import read_profile
from recsys_meta.core.errors import StoreError
from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.database.engine import StoreUnavailable
from tests.api.servers import Wire


@pytest.mark.slow
def test_who_babbles_in_the_middle_of_a_connection_is_as_good_as_away(
    migrated_schema: str, hasty: Callable[[str], None]
) -> None:
    """Whatever psycopg makes of noise: a glance ends well or says that the database is away."""
    hasty("database")
    wire = Wire(make_url(migrated_schema).port or 5432)
    wire.mend()
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    database, seen = AsyncDatabase(url), Counter[str]()

    async def look() -> str:
        database.breaker = CircuitBreaker(failures=1, pause=0.0, max_pause=0.0)
        try:
            await database.try_read(lambda s: read_profile(s, "user", "anna"))
        except StoreUnavailable:
            return "away"
        return "well"

    async def work() -> None:
        for seed in range(6):
            for after in range(6):
                wire.mend()
                while await look() != "well":
                    await asyncio.sleep(0.02)
                wire.garble(after, seed)
                seen[await look()] += 1

    asyncio.run(asyncio.wait_for(work(), 240))
    database.close()
    wire.cut()
    assert seen["away"] > 10


def test_what_goes_wrong_is_a_line_of_the_log_like_any_other(light: str, capfd: pytest.CaptureFixture[str]) -> None:
    """JSON, with the reason and where it came from; callers are told neither."""
    database = AsyncDatabase(light)
    with pytest.raises(StoreError, match="log has the reason") as told:
        asyncio.run(database.read(lambda s: s.execute(text("SELECT :nothing"))))
    assert "nothing" not in str(told.value)

    def babble(session: object) -> None:
        raise ArithmeticError("noise")

    with pytest.raises(StoreUnavailable):
        asyncio.run(database.try_read(babble))
    database.close()
    out, err = capfd.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["event"], first["level"], "'nothing'" in first["exception"]) == ("the database failed", "error", True)
    assert (second["level"], "ArithmeticError: noise" in second["exception"]) == ("warning", True)
    assert err == ""


def test_a_report_that_takes_too_long_is_no_outage(light: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_database, "READ_S", 0.1)
    monkeypatch.setattr(async_database, "CALL_S", 0.1)
    database, end = AsyncDatabase(light), threading.Event()
    for read, is_outage in ((database.read_report, False), (database.read, True)):
        with pytest.raises(StoreUnavailable, match="did not answer"):
            asyncio.run(read(lambda s: end.wait(30)))
        assert database.degraded == is_outage
    end.set()
    database.close()
