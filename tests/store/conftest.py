from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from recsys_meta.store.database.engine import connect
from tests.fixtures.services import (  # noqa: F401  (fixtures are found by name)
    database_url,
    empty_url,
    own_redis,
    postgres_server,
    postgres_url,
    redis_prefix,
    redis_server,
    sqlite_url,
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:  # noqa: F811
    made = connect(database_url)
    yield made
    made.dispose()
