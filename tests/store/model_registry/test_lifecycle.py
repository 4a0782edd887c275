"""The life of a model: staged, live, retired, archived, deleted; and the default of each kind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.engine import session
from recsys_meta.store.model_registry import lifecycle, registry
from recsys_meta.store.model_registry.split_arms import SplitArm, newest_split
from recsys_meta.store.model_registry.tables import ModelVersionRecord
from recsys_meta.store.model_registry.traffic_splits import start_split
from tests.store.samples import NOON, later


@pytest.fixture
def model(engine: Engine) -> str:
    """A model of the versions aaaa, bbbb and cccc, which went live one after another; dddd is staged."""
    with session(engine) as s:
        for n, version in enumerate(("aaaa", "bbbb", "cccc")):
            registry.publish_version(s, "m", version, f"/{version}", now=later(n))
        registry.register_version(s, "m", "dddd", "/dddd", now=later(9))
    return "m"


def live(s, model="m"):
    row = registry.live_version(s, model)
    return None if row is None else row.version


def split(s):
    return start_split(s, "m", [SplitArm("old", "cccc", 1), SplitArm("new", "dddd", 1)], force=True)


def test_a_third_candidate_ends_no_split_silently(engine: Engine, model: str) -> None:
    with session(engine) as s:
        split(s)
    for act in (
        lambda s: registry.publish_version(s, model, "eeee", "/e"),
        lambda s: registry.promote_version(s, model, "aaaa", force=True),
    ):
        with (
            pytest.raises(ConflictError, match=r"split between old \(50%\), new \(50%\).*end-split"),
            session(engine) as s,
        ):
            act(s)
    with session(engine) as s:
        registry.register_version(s, model, "eeee", "/e")  # to stage it ends nothing
        assert newest_split(s, model).arms
        registry.promote_version(s, model, "dddd", force=True)  # an arm concludes it
        assert (live(s), newest_split(s, model).arms) == ("dddd", ())
        split(s)
        registry.promote_version(s, model, "aaaa", force=True, end_split=True)
        assert (live(s), newest_split(s, model).arms) == ("aaaa", ())


def test_what_was_never_evaluated_goes_live_by_force_only(engine: Engine, model: str) -> None:
    with pytest.raises(ConflictError, match=r"never evaluated.*recsys-meta evaluate m@dddd"), session(engine) as s:
        registry.promote_version(s, model, "dddd")
    with pytest.raises(ConflictError, match="never evaluated"), session(engine) as s:
        start_split(s, model, [SplitArm("new", "dddd", 1)])
    with session(engine) as s:
        assert start_split(s, model, [SplitArm("old", "cccc", 1)]).arms  # the live one is what everybody has anyway
        assert registry.promote_version(s, model, "dddd", force=True, end_split=True).version == "dddd"


def test_a_retired_model_has_no_live_version_until_it_comes_back(engine: Engine, model: str) -> None:
    with session(engine) as s:
        split(s)
        registry.set_default_model(s, "user", model)
        assert lifecycle.retire_model(s, model, actor="ann", now=NOON).action == "retire"
        assert lifecycle.retire_model(s, model) is None
        assert (live(s), newest_split(s, model).arms, registry.default_models(s)) == (None, (), {})
        (summary,) = registry.page_models(s)
        assert (summary.live, registry.model_detail(s, model).live) == (None, None)
        with pytest.raises(NotFoundError, match="no live version"):
            registry.resolve_version(s, model)
        assert registry.rollback_version(s, model).version == "cccc"
        assert registry.rollback_version(s, model).version == "bbbb"
        lifecycle.retire_model(s, model)
        assert registry.promote_version(s, model, "bbbb", force=True).version == "bbbb"
        assert live(s) == "bbbb"
        assert registry.rollback_version(s, model).version == "aaaa"
        assert [h.sequence for h in registry.model_detail(s, model).history] == list(range(9, 0, -1))


def test_archived_versions_are_out_of_use_until_they_are_restored(engine: Engine, model: str) -> None:
    with session(engine) as s:
        assert lifecycle.archive_version(s, model, "bbbb").archived is not None
        for act in (
            lambda: registry.promote_version(s, model, "bbbb", force=True),
            lambda: start_split(s, model, [SplitArm("b", "bbbb", 1)], force=True),
            lambda: registry.resolve_version(s, "m@bb"),
        ):
            with pytest.raises(ConflictError, match=r"m@bbbb is archived.*--restore"):
                act()
        assert registry.rollback_target(s, model) == "aaaa"
        assert lifecycle.archive_version(s, model, "bbbb", restore=True).archived is None
        assert registry.rollback_version(s, model).version == "bbbb"


def test_nothing_in_service_is_archived_or_deleted(engine: Engine, model: str) -> None:
    with session(engine) as s:
        split(s)
    for act in (lifecycle.archive_version, lifecycle.delete_version):
        for version, why in (("cccc", "is live"), ("dddd", "is an arm")):
            with pytest.raises(ConflictError, match=why), session(engine) as s:
                act(s, model, version)
    with pytest.raises(ConflictError, match="is live"), session(engine) as s:
        lifecycle.delete_model(s, model)


def test_a_version_is_named_by_its_start(engine: Engine, model: str) -> None:
    with session(engine) as s:
        registry.register_version(s, model, "aaab", "/aaab")
        registry.register_version(s, model, "aaabb", "/aaabb")
        with pytest.raises(ConflictError, match="3 versions of model 'm' start with 'aa'"):
            lifecycle.archive_version(s, model, "aa")
        with pytest.raises(NotFoundError, match="no version that starts with 'x'"):
            lifecycle.delete_version(s, model, "x")
        assert lifecycle.archive_version(s, model, "aaab").version == "aaab"
        assert lifecycle.delete_version(s, model, "bb").version == "bbbb"


def test_a_deleted_version_stays_in_the_history(engine: Engine, model: str) -> None:
    with session(engine) as s:
        registry.rollback_version(s, model)
        assert lifecycle.delete_version(s, model, "aaaa").path == "/aaaa"
        with pytest.raises(ConflictError, match="no earlier live version"):
            registry.rollback_version(s, model)
        with pytest.raises(ConflictError, match="is deleted"):
            registry.promote_version(s, model, "aaaa", force=True)
        with pytest.raises(ConflictError, match="is deleted"):
            lifecycle.archive_version(s, model, "aaaa", restore=True)
        detail = registry.model_detail(s, model)
        assert [h.version for h in detail.history] == ["bbbb", "cccc", "bbbb", "aaaa"]
        (summary,) = registry.page_models(s)
        assert summary.versions == 3


def test_a_deleted_version_that_is_registered_again_is_back(engine: Engine, model: str) -> None:
    for put in (registry.register_version, registry.publish_version):
        with session(engine) as s:
            lifecycle.delete_version(s, model, "aaaa")
            put(s, model, "aaaa", "/a")
            assert registry.resolve_version(s, "m@aa").deleted is None
    with session(engine) as s:
        assert live(s) == "aaaa"
        assert registry.page_models(s)[0].versions == 4


def test_an_archived_version_that_is_registered_again_has_to_be_restored(engine: Engine, model: str) -> None:
    for put in (registry.register_version, registry.publish_version):
        with session(engine) as s:
            lifecycle.archive_version(s, model, "aaaa")
        with pytest.raises(ConflictError, match=r"archived.*--restore"), session(engine) as s:
            put(s, model, "aaaa", "/a")
    with session(engine) as s:
        assert live(s) == "cccc"
        lifecycle.archive_version(s, model, "aaaa", restore=True)
        assert registry.publish_version(s, model, "aaaa", "/a").version == "aaaa"


@pytest.mark.parametrize("act", [lifecycle.archive_version, lifecycle.delete_version])
def test_what_is_taken_out_of_use_meanwhile_does_not_go_live(engine: Engine, model: str, act) -> None:
    asking = threading.Event()

    def promote() -> None:
        with session(engine) as s:
            asking.set()
            registry.promote_version(s, model, "aaaa", force=True)

    with ThreadPoolExecutor(1) as pool:
        with session(engine) as s:
            act(s, model, "aaaa")
            promotion = pool.submit(promote)
            if engine.dialect.name == "postgresql":  # SQLite has one writer: the other has not begun
                asking.wait()
            with pytest.raises(TimeoutError):
                promotion.result(0.3)  # it waits behind the lock
        with pytest.raises(ConflictError, match=r"is archived|is deleted"):
            promotion.result(60)
    with session(engine) as s:
        assert live(s) == "cccc"


def test_a_retired_model_is_deleted_with_all_that_is_its(engine: Engine, model: str) -> None:
    with session(engine) as s:
        split(s)
        lifecycle.retire_model(s, model)
        assert sorted(lifecycle.delete_model(s, model)) == ["/aaaa", "/bbbb", "/cccc", "/dddd"]
    with session(engine) as s:
        assert registry.page_models(s) == []
        assert s.scalars(select(ModelVersionRecord)).all() == []
        registry.publish_version(s, model, "aaaa", "/a")  # the name is free again
        assert live(s) == "aaaa"


def test_a_default_is_a_live_model(engine: Engine, model: str) -> None:
    with session(engine) as s:
        registry.register_version(s, "other", "aaaa", "/a")
        with pytest.raises(ConflictError, match="no live version"):
            registry.set_default_model(s, "user", "other")
        with pytest.raises(NotFoundError):
            registry.set_default_model(s, "user", "nobody")
        registry.set_default_model(s, "user", model)
        registry.publish_version(s, "other", "aaaa", "/a")
        registry.set_default_model(s, "user", "other", actor="ann")
        assert registry.default_models(s) == {"user": "other"}
