import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.model_registry import registry
from tests.store.samples import NOON, a_run, later

forced_promote = partial(registry.promote_version, force=True)  # versions of these tests are not evaluated


def live_of(s: Session, model: str = "m") -> str | None:
    found = registry.live_version(s, model)
    return None if found is None else found.version


def three_versions(engine: Engine) -> None:
    with session(engine) as s:
        for version in ("aaaa", "bbbb", "cccc"):
            registry.register_version(s, "m", version, f"/bundles/{version}", now=NOON)


def test_publish_promote_rollback_and_the_history(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        registry.publish_version(s, "m", "aaaa", "/a", run="r", metrics={"ndcg": 0.3}, actor="ann", now=NOON)
        registry.publish_version(s, "m", "bbbb", "/b", now=later(1))
        registry.register_version(s, "m", "cccc", "/c", now=later(2))
        assert live_of(s) == "bbbb"
        forced_promote(s, "m", "cccc", actor="bob", now=later(3))
        registry.rollback_version(s, "m", actor="cat", now=later(4))
        assert live_of(s) == "bbbb"
        registry.rollback_version(s, "m", now=later(5))
        assert live_of(s) == "aaaa"
        with pytest.raises(ConflictError, match="no earlier"):
            registry.rollback_version(s, "m")
    with reading(engine) as s:
        detail = registry.model_detail(s, "m")
    moves = [(h.sequence, h.action, h.previous, h.version, h.actor, h.at) for h in detail.history[::-1]]
    assert moves == [
        (1, "publish", None, "aaaa", "ann", NOON),
        (2, "publish", "aaaa", "bbbb", None, later(1)),
        (3, "promote", "bbbb", "cccc", "bob", later(3)),
        (4, "rollback", "cccc", "bbbb", "cat", later(4)),
        (5, "rollback", "bbbb", "aaaa", None, later(5)),
    ]
    assert detail.live == "aaaa"
    assert [v.version for v in detail.versions] == ["cccc", "bbbb", "aaaa"]


def test_what_is_live_stays_so_without_a_new_row(engine: Engine) -> None:
    with session(engine) as s:
        first = registry.publish_version(s, "m", "aaaa", "/a").id
        assert registry.publish_version(s, "m", "aaaa", "/a").id == first
        assert forced_promote(s, "m", "aaaa").id == first
        assert len(registry.model_detail(s, "m").history) == 1


def test_registering_again_brings_it_up_to_date(engine: Engine) -> None:
    with session(engine) as s:
        a_run(s, "r")
        registry.register_version(s, "m", "aaaa", "/old", run="r", now=NOON)
        again = registry.register_version(s, "m", "aaaa", "/new", metrics={"ndcg": 0.5})
        assert (again.path, again.run, again.metrics, again.created) == ("/new", "r", {"ndcg": 0.5}, NOON)
        assert live_of(s) is None


def test_unknown_names(engine: Engine) -> None:
    three_versions(engine)
    with session(engine) as s:
        for call in (
            lambda: forced_promote(s, "m", "dddd"),
            lambda: forced_promote(s, "nobody", "aaaa"),
            lambda: registry.rollback_version(s, "nobody"),
            lambda: registry.model_detail(s, "nobody"),
            lambda: registry.resolve_version(s, "m"),
            lambda: registry.resolve_version(s, "m@dd"),
        ):
            with pytest.raises(NotFoundError):
                call()
        for nobody in (lambda: registry.model_detail(s, "nobody"), lambda: registry.resolve_version(s, "nobody@aa")):
            with pytest.raises(NotFoundError, match="there is no model 'nobody'"):
                nobody()
        assert registry.live_version(s, "nobody") is None


def test_resolve(engine: Engine) -> None:
    with session(engine) as s:
        for version in ("abc1", "abc2", "b_%"):
            registry.publish_version(s, "m", version, f"/{version}")
        assert registry.resolve_version(s, "m").version == "b_%"
        assert registry.resolve_version(s, "m@abc2").version == "abc2"
        with pytest.raises(ConflictError, match="2 versions"):
            registry.resolve_version(s, "m@ab")


def test_list(engine: Engine) -> None:
    three_versions(engine)
    with session(engine) as s:
        registry.publish_version(s, "ads", "aaaa", "/a")
        forced_promote(s, "m", "bbbb")
        forced_promote(s, "m", "aaaa")
        found = [(m.name, m.live, m.versions) for m in registry.page_models(s)]
    assert found == [("ads", "aaaa", 1), ("m", "aaaa", 3)]


def test_failed_transaction_leaves_what_was_live(engine: Engine) -> None:
    three_versions(engine)
    with session(engine) as s:
        forced_promote(s, "m", "aaaa")
    with pytest.raises(RuntimeError), session(engine) as s:
        forced_promote(s, "m", "bbbb")
        raise RuntimeError
    with reading(engine) as s:
        assert live_of(s) == "aaaa"
        assert len(registry.model_detail(s, "m").history) == 1


def test_concurrent_promotes_follow_one_another(engine: Engine) -> None:
    """Each knows what was live before it: the history is one chain without gaps."""
    three_versions(engine)
    together = threading.Barrier(4)

    def promote(worker: int) -> None:
        together.wait()
        for i in range(15):
            with session(engine) as s:
                forced_promote(s, "m", ("aaaa", "bbbb", "cccc")[(worker + i) % 3], actor=str(worker))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promote, range(4)))
    with reading(engine) as s:
        moves = registry.model_detail(s, "m").history[::-1]
        assert live_of(s) == moves[-1].version
    assert [m.sequence for m in moves] == list(range(1, len(moves) + 1))
    assert [m.previous for m in moves] == [None, *(m.version for m in moves[:-1])]


def test_second_promote_waits_for_the_first(engine: Engine) -> None:
    three_versions(engine)
    started = threading.Event()

    def second() -> str | None:
        started.set()
        with session(engine) as s:
            return forced_promote(s, "m", "bbbb").previous

    with ThreadPoolExecutor(1) as pool:
        with session(engine) as s:
            forced_promote(s, "m", "aaaa")
            waiting = pool.submit(second)
            started.wait()
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
        assert waiting.result(60) == "aaaa"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(moves=st.lists(st.sampled_from(["aaaa", "bbbb", "cccc", "back"]), max_size=12))
def test_rollback_is_undo(engine: Engine, moves: list[str]) -> None:
    model, stack = uuid.uuid4().hex, list[str]()
    with session(engine) as s:
        for version in ("aaaa", "bbbb", "cccc"):
            registry.register_version(s, model, version, "/x")
        for move in moves:
            if move != "back":
                forced_promote(s, model, move)
                stack += [move] if stack[-1:] != [move] else []
            elif len(stack) < 2:
                with pytest.raises(ConflictError):
                    registry.rollback_version(s, model)
            else:
                registry.rollback_version(s, model)
                stack.pop()
            assert live_of(s, model) == (stack[-1] if stack else None)
