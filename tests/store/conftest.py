from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from recsys_meta.store.database.engine import connect
from tests.fixtures.migrated_databases import (  # noqa: F401  (fixtures are found by name)
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


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:  # noqa: F811
    made = connect(database_url)
    yield made
    made.dispose()
