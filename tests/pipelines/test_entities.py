"""Entities at the command line, where servers share a Redis."""

import pytest

from pipelines.workspace import Workspace
from recsys_meta.store.cache.keys import list_key, owner_key, state_key
from recsys_meta.store.cache.redis_cache import SyncRedisCache
from recsys_meta.store.settings import Settings
from tests.fixtures.services import own_redis  # noqa: F401  (fixtures are found by name)


def keys_of(entity):
    """Keys of an entity's stamp, a state and a list."""
    state = state_key("v1", "user", entity, "digest")
    return [owner_key("user", entity), state, list_key("shop", "v1", "user", entity, "mark", b"request")]


@pytest.fixture
def shared(own_redis):  # noqa: F811
    """What servers keep of two entities."""
    cache = SyncRedisCache(own_redis.url, timeout=10.0)
    for key in [*keys_of("anna"), *keys_of("bert")]:
        cache.set(key, b"7", 60.0)
    yield cache
    cache.close()


def test_stamp_states_and_lists_of_an_entity_are_forgotten_and_of_no_other(tmp_path, own_redis, shared):  # noqa: F811
    workspace = Workspace(Settings(home=tmp_path, database_url="", redis_url=own_redis.url, api_keys=""))
    assert [shared.get(key) for key in keys_of("anna")] == [b"7"] * 3
    assert workspace.evict_cached_states("user", "anna") == 3
    assert [shared.get(key) for key in keys_of("anna")] == [None] * 3
    assert [shared.get(key) for key in keys_of("bert")] == [b"7"] * 3
    assert workspace.evict_cached_states("user", "anna") == 0


def test_without_a_redis_there_is_nothing_to_forget(tmp_path):
    workspace = Workspace(Settings(home=tmp_path, database_url="", redis_url="", api_keys=""))
    assert workspace.evict_cached_states("user", "anna") is None
