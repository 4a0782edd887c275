from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis
import torch

from api import container
from api.http import rate_limit as limits
from api.persistence import async_database as database
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.cache.redis_cache import RedisCache
from tests.api import bundles
from tests.api.servers import Served, serving, settings
from tests.fixtures import stub_predictors as choosing
from tests.fixtures.migrated_databases import (  # noqa: F401  (fixtures are found by name)
    copy_migrated,
    database_url,
    migrated_file,
    migrated_schema,
    migrated_sqlite,
    schema_pool,
)
from tests.fixtures.services import (  # noqa: F401  (fixtures are found by name)
    empty_url,
    own_redis,
    postgres_server,
    postgres_url,
    redis_prefix,
    redis_server,
    sqlite_url,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TIMES = {"redis": ((container, "REDIS_S"), (limits, "_REDIS_S")), "database": ((database, "READ_S"),)}
OWN = {place: getattr(*place) for places in TIMES.values() for place in places}


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """Servers in this process wait long for Redis and the database.

    On a busy machine an answer that is late would pass for an outage, of which each costs a cached state or an answer
    its `missing`: as it should, and not what most tests are about. Those about time-outs ask for `hasty`.
    """
    with pytest.MonkeyPatch.context() as patch:
        for place in OWN:
            patch.setattr(*place, 10.0)
        yield


@pytest.fixture
def hasty(patient: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets servers that the test starts in this process wait for Redis or the database as long as by themselves."""

    def of(what: str) -> None:
        for place in TIMES[what]:
            monkeypatch.setattr(*place, OWN[place])

    return of


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return bundles.trained()


@pytest.fixture(scope="session")
def other(bundle: Bundle) -> Bundle:
    """A second version of the same model."""
    return bundles.trained(seed=1, epochs=2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def published(home: Path, database_url: str, bundle: Bundle) -> str:  # noqa: F811
    """The url of a database, once for each kind, in which the model 'users' is live."""
    bundles.publish(database_url, home / "models", "users", bundle)
    return database_url


@pytest.fixture
def light(home: Path, migrated_sqlite: str, bundle: Bundle) -> str:  # noqa: F811
    """The same on SQLite only."""
    bundles.publish(migrated_sqlite, home / "models", "users", bundle)
    return migrated_sqlite


@pytest.fixture
def server(home: Path, light: str) -> Iterator[Served]:
    """A server on SQLite without Redis and without keys."""
    with serving(settings(home, light)) as made:
        yield made


@pytest.fixture
def full(home: Path, published: str, own_redis) -> Iterator[Served]:  # noqa: F811
    """A server with Redis, once for each kind of database."""
    with serving(settings(home, published, own_redis.url)) as made:
        yield made


@pytest.fixture(scope="module")
def predictors() -> Iterator[None]:
    with choosing.registered():
        yield


@pytest.fixture
def kinds(home: Path, database_url: str, own_redis, predictors: None) -> Iterator[Served]:  # noqa: F811
    """A server with Redis, once for each kind of database, with the models 'ads' (clicks) and 'cities' (choices)."""
    bundles.publish(database_url, home / "models", "ads", choosing.clicks())
    bundles.publish(database_url, home / "models", "cities", choosing.visits())
    with serving(settings(home, database_url, own_redis.url)) as made:
        yield made


@pytest.fixture(scope="module")
def plain(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_file: Path,  # noqa: F811
    bundle: Bundle,
    predictors: None,
) -> Iterator[Served]:
    """A server of these models and 'users' for many tests that leave nothing behind, on SQLite without Redis."""
    home = tmp_path_factory.mktemp("plain")
    url = copy_migrated(migrated_file, f"sqlite:///{home}/plain.db")
    bundles.publish(url, home / "models", "ads", choosing.clicks())
    bundles.publish(url, home / "models", "cities", choosing.visits())
    bundles.publish(url, home / "models", "users", bundle)
    with serving(settings(home, url)) as made:
        yield made


@pytest.fixture(scope="module")
def users_server(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_file: Path,  # noqa: F811
    bundle: Bundle,
) -> Iterator[Served]:
    """A server of 'users' alone, without keys, for many tests that leave nothing behind, on SQLite without Redis."""
    home = tmp_path_factory.mktemp("users")
    url = copy_migrated(migrated_file, f"sqlite:///{home}/users.db")
    bundles.publish(url, home / "models", "users", bundle)
    with serving(settings(home, url)) as made:
        yield made


@pytest.fixture
def new_id() -> str:
    return f"new {uuid.uuid4().hex}"


@pytest.fixture
def keys_of(own_redis):  # noqa: F811
    """All keys in the test's Redis."""

    def keys() -> list[bytes]:
        with redis.Redis.from_url(own_redis.url) as client:
            return client.keys("*")

    return keys


class Held:
    """Whether something is on its way to Redis, and whether it may go on."""

    def __init__(self) -> None:
        self.there, self.free = threading.Event(), threading.Event()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """No state and no list gets to Redis before it is free to."""
    real, made = RedisCache.set_all, Held()

    async def late(self: RedisCache, values: Sequence[tuple[str, bytes, float]]) -> None:
        made.there.set()
        while not made.free.is_set():
            await asyncio.sleep(0.01)
        await real(self, values)

    monkeypatch.setattr(RedisCache, "set_all", late)
    yield made
    made.free.set()
