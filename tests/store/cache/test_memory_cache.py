import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from recsys_meta.store.cache.circuit_breaker import CircuitBreaker
from recsys_meta.store.cache.keys import list_key, owned_names, owner_key, seal_value, state_key, unseal_value
from recsys_meta.store.cache.keys import redis_name as name
from recsys_meta.store.cache.memory_cache import ENTRY_OVERHEAD_BYTES, MemoryCache


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_keeps_a_value() -> None:
    cache = MemoryCache()
    cache.set("k", b"v", 10)
    assert cache.get("k") == b"v"
    assert not cache.degraded


def test_oldest_use_goes_first() -> None:
    cache = MemoryCache(3 * (ENTRY_OVERHEAD_BYTES + 2))
    for key in "abc":
        cache.set(key, b"1", 10)
    assert cache.get("a") == b"1"
    cache.set("d", b"1", 10)
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]


def test_value_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    cache = MemoryCache(1000)
    cache.set("small", b"1", 10)
    cache.set("large", b"1" * 1000, 10)
    assert cache.get("large") is None
    assert cache.get("small") == b"1"


def test_time_is_over() -> None:
    clock = Clock()
    cache = MemoryCache(clock=clock)
    cache.set("k", b"v", 10, owner="o")
    clock.now = 9.9
    assert cache.get("k") == b"v"
    clock.now = 10.0
    assert cache.get("k") is None
    assert (len(cache), cache.size, cache.delete_owned("o")) == (0, 0, 0)
    cache.set("k", b"v", 0)
    assert cache.get("k") is None


def test_what_belongs_to_an_entity_goes_together() -> None:
    cache = MemoryCache()
    for i in range(5):
        cache.set(f"mine{i}", b"1", 10, owner="me")
        cache.set(f"yours{i}", b"1", 10, owner="you")
    cache.set("mine0", b"2", 10, owner="you")
    assert cache.delete(["mine1", "nothing"]) == 1
    assert cache.delete_owned("me") == 3
    assert cache.delete_owned("me") == 0
    assert (len(cache), cache.get("mine0")) == (6, b"2")


class Machine(RuleBasedStateMachine):
    """Against a plain dictionary: what is found is right, and the bound holds."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = MemoryCache(2000, self.clock)
        self.truth: dict[str, tuple[bytes, float, str]] = {}

    @rule(
        key=st.sampled_from("abcdefgh"),
        value=st.binary(max_size=900),
        ttl=st.floats(0, 5),
        owner=st.sampled_from("xy"),
    )
    def put(self, key: str, value: bytes, ttl: float, owner: str) -> None:
        self.cache.set(key, value, ttl, owner)
        self.truth[key] = (value, self.clock.now + ttl, owner)

    @rule(key=st.sampled_from("abcdefgh"))
    def look(self, key: str) -> None:
        found = self.cache.get(key)
        if found is not None:
            value, expires, _ = self.truth[key]
            assert found == value
            assert self.clock.now < expires

    @rule(owner=st.sampled_from("xy"))
    def erase(self, owner: str) -> None:
        self.cache.delete_owned(owner)
        assert not any(self.cache.get(key) for key, (_, _, of) in self.truth.items() if of == owner)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def bounded(self) -> None:
        assert self.cache.size <= 2000
        assert self.cache.size == sum(e.size for e in self.cache._entries.values())
        owned = {key for keys in self.cache._owned.values() for key in keys}
        assert owned == set(self.cache._entries)


TestMachine = Machine.TestCase


def test_threads() -> None:
    cache = MemoryCache(50_000)
    failed: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for i in range(2000):
                key = str((worker + i) % 300)
                cache.set(key, key.encode() * 20, 10, owner=str(i % 7))
                found = cache.get(str(i % 300))
                assert found is None or found == str(i % 300).encode() * 20
                if i % 50 == 0:
                    cache.delete_owned(str(i % 7))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert cache.size <= 50_000


@given(st.binary(max_size=300))
def test_what_is_sealed_comes_back(value: bytes) -> None:
    assert unseal_value("k#", seal_value("k#", value)) == value
    # What lies there was put under the same name for another state.
    assert unseal_value("k#2", seal_value("k#", value)) is None


@given(st.binary(max_size=60))
def test_garbage_is_no_value(raw: bytes) -> None:
    assert unseal_value("k#", raw) is None


@given(st.binary(max_size=60))
def test_a_word_is_of_digits(raw: bytes) -> None:
    assert unseal_value("{owner}", raw) == (raw if raw.isdigit() else None)


@given(value=st.binary(min_size=1, max_size=60), data=st.data())
def test_damage_is_no_value(value: bytes, data: st.DataObject) -> None:
    whole = seal_value("k#", value)
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    assert unseal_value("k#", whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]) is None
    assert unseal_value("k#", whole[:at]) is None
    assert unseal_value("k#", whole + b"x") is None


def test_names_of_an_entity_are_known_beforehand() -> None:
    owned = set(owned_names(owner_key("user", "u1")))
    states = [state_key(f"v{n % 3}", "user", "u1", f"{n}") for n in range(1000)]
    lists = [list_key("users", f"v{n % 3}", "user", "u1", f"{n}", b"{}") for n in range(1000)]
    assert {name(key) for key in states + lists} == owned - {owner_key("user", "u1")}
    assert not {name(key) for key in states} & {name(key) for key in lists}
    assert len(set(states + lists)) == 2000
    assert not owned & set(owned_names(owner_key("user", "u2")))
    # An anonymous newcomer owns nothing, and its states are spread over all nodes.
    assert len({name(state_key("v", "user", "", f"{n}")) for n in range(1000)}) == 1000


def test_a_list_is_of_one_request_of_one_entity_at_one_time_to_one_version() -> None:
    asked = ("users", "v1", "user", "u1", "7", b'{"n":5}')
    others = [(*asked[:n], other, *asked[n + 1 :]) for n, other in enumerate(["u", "v2", "ad", "u2", "8", b'{"n":6}'])]
    assert len({list_key(*one) for one in [asked, *others]}) == 1 + len(others)


def test_key_names_all_that_the_state_is_derived_from() -> None:
    base = {"model_version": "v1", "kind": "user", "entity": "u1", "support_digest": "digest"}
    keys = {state_key(**base)}
    keys |= {state_key(**{**base, name: value + "x"}) for name, value in base.items()}
    keys |= {state_key("v1", "useru", "1", "digest"), owner_key("user", "u1"), owner_key("useru", "1")}
    assert len(keys) == 8
    assert state_key(**base) == state_key("v1", "user", "u1", "digest")


def test_breaker() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=2, pause=1.0, max_pause=3.0, clock=clock)
    assert not breaker.degraded
    breaker.record_failure()
    assert breaker.degraded
    assert breaker.allow_request()
    breaker.record_failure()
    assert not breaker.allow_request()
    clock.now = 1.0
    assert [breaker.allow_request() for _ in range(3)] == [True, False, False]
    breaker.record_failure()
    clock.now = 2.9
    assert not breaker.allow_request()
    clock.now = 3.0
    assert breaker.allow_request()
    breaker.record_success()
    assert not breaker.degraded
    assert breaker.allow_request()


def test_the_pauses_of_a_breaker_begin_anew_after_a_success() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=1, pause=1.0, max_pause=8.0, clock=clock)
    for _ in range(4):
        breaker.record_failure()
    clock.now = 7.9
    assert not breaker.allow_request()
    breaker.record_success()
    breaker.record_failure()
    clock.now = 8.8
    assert not breaker.allow_request()
    clock.now = 8.9
    assert breaker.allow_request()


@pytest.mark.parametrize("failures", [1, 5])
def test_breaker_never_pauses_longer_than_its_longest(failures: int) -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=failures, pause=1.0, max_pause=3.0, clock=clock)
    for _ in range(20):
        breaker.record_failure()
    clock.now = 3.0
    assert breaker.allow_request()
