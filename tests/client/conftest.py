"""Servers for the client to talk to: those of the tests of the API."""

from tests.api.conftest import (  # noqa: F401  (fixtures are found by name)
    bundle,
    home,
    light,
    migrated_file,
    migrated_sqlite,
    new_id,
    one_thread,
    patient,
    server,
    sqlite_url,
)
