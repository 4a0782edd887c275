"""What the registry logs of versions that cannot be loaded: each reason once, and again when there is reason to."""

import asyncio
import shutil

import pytest

from api.inference import load_failures as failures
from api.inference import model_registry as registry
from api.inference.load_failures import LoadFailureLog
from api.inference.model_registry import ModelRegistry
from api.persistence.async_database import AsyncDatabase
from recsys_meta.core.errors import CheckpointError, ConflictError
from recsys_meta.models.bundle import save_bundle
from recsys_meta.store.database.engine import session
from recsys_meta.store.model_registry import registry as store
from tests.api import bundles


class Lines:
    """A log that keeps the versions and events of its errors."""

    def __init__(self):
        self.events = []

    def error(self, event, *, version, **_):
        self.events.append((event, version))

    def __len__(self):
        return len(self.events)


def test_a_version_that_cannot_be_loaded_is_logged_once_a_reason_and_again_after_it_was_well(
    home, light, other, monkeypatch
):
    monkeypatch.setattr(registry, "_RETRY_S", 0.0)
    models, lines, database = home / "models", Lines(), AsyncDatabase(light)
    path = models / "users" / bundles.publish(light, models, "users", other, live=False)
    looked = ModelRegistry(database, models, lines)

    def move(act, *words):
        with session(database.engine) as s:
            act(s, "users", *words)

    async def look(times=3):
        for _ in range(times):
            await looked.refresh()
        return len(lines)

    async def work():
        assert await look() == 0
        first = looked.live["users"].version

        (path / "bundle.json").write_text("{}")
        move(store.promote_version, path.name)
        assert await look() == 1
        with pytest.raises(CheckpointError):  # a caller who names it learns no more than the log has
            await looked.resolve(f"users@{path.name}", None)
        assert await look() == 1

        (path / "bundle.json").unlink()  # another reason
        assert await look() == 2

        shutil.rmtree(path)
        save_bundle(other, path.parent)
        assert await look() == 2 and looked.live["users"].version == path.name

        move(store.promote_version, first)
        assert await look() == 2
        (path / "bundle.json").unlink()  # the same reason as the last time, but it was well in between
        move(store.promote_version, path.name)
        assert await look() == 3

        move(store.promote_version, first)
        assert await look() == 3
        move(store.promote_version, path.name)  # promoted again, and not mended
        assert await look() == 4

        for count in (5, 6):  # who promotes by hand is told to look into the log
            with pytest.raises(ConflictError, match="the server's log says why"):
                await looked.check("users", path.name)
            assert len(lines) == count
        assert await look() == 6
        assert set(lines.events) == {("a version cannot be loaded", path.name)}

    asyncio.run(work())
    database.close()


def test_a_version_that_fails_its_trial_is_loaded_and_logged_once(home, light, bundle, other, monkeypatch):
    monkeypatch.setattr(registry, "_RETRY_S", 0.0)
    models, lines, database = home / "models", Lines(), AsyncDatabase(light)
    good = bundles.publish(light, models, "users", other)
    bad = bundles.publish(light, models, "users", bundles.diverged(bundle), live=False)
    looked, opened = ModelRegistry(database, models, lines), []
    real = registry.open_version

    def open_version(folder, row, sketch_from):
        opened.append(row.version)
        return real(folder, row, sketch_from)

    monkeypatch.setattr(registry, "open_version", open_version)

    async def go_live(version, pinned=False):
        if pinned:
            with pytest.raises(ConflictError, match="fails when tried"):
                await looked.check("users", version)
        with session(database.engine) as s:
            store.promote_version(s, "users", version, force=True)
        for _ in range(3):
            await looked.refresh()
        return looked.live["users"].version

    async def work():
        assert await go_live(good) == good and lines.events == []
        assert await go_live(bad) == good
        assert opened.count(bad) == 1
        assert lines.events == [("a version fails when tried", bad)]
        assert "(NaN)" in looked.broken["users"] and "the one before it answers" in looked.broken["users"]
        assert await go_live(good) == good and not looked.broken
        assert await go_live(bad) == good  # anew: it is tried again
        assert opened.count(bad) == 2 and len(lines) == 2
        await go_live(good)
        assert await go_live(bad, pinned=True) == good  # at hand already, because somebody had it tried
        assert opened.count(bad) == 3 and "(NaN)" in looked.broken["users"]

    asyncio.run(work())
    database.close()


def test_failures_are_forgotten_in_the_end(monkeypatch):
    monkeypatch.setattr(failures, "MAX_VERSIONS", 3)
    known = LoadFailureLog()
    for n in range(5):
        assert known.record(("users", str(n)), "damaged")
    assert len(known) == 3
    assert not known.record(("users", "4"), "damaged")
    assert known.record(("users", "0"), "damaged")
