"""Splits: who answers for an entity follows from its id alone, and the history says what stood when."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import ConfigError, ConflictError, NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.split_arms import SplitArm, TrafficSplit, current_splits
from recsys_meta.store.model_registry.traffic_splits import split_detail, start_split, stop_split
from recsys_meta.store.tracking import evaluations
from tests.store.samples import NOON, an_evaluation, later

HALVES = [SplitArm("old", "aaaa", 1), SplitArm("new", "bbbb", 1)]
IDS = [f"entity {n}" for n in range(4000)]

promote = partial(registry.promote_version, force=True)  # versions of these tests are not evaluated
start = partial(start_split, force=True)


@pytest.fixture
def model(engine: Engine) -> str:
    """Versions aaaa (live), bbbb and cccc of 'm'."""
    with session(engine) as s:
        for version in ("bbbb", "cccc", "aaaa"):
            registry.register_version(s, "m", version, f"/{version}", now=NOON)
        registry.publish_version(s, "m", "aaaa", "/aaaa", now=NOON)
    return "m"


def a_split(*given: SplitArm, salt: str = "salt") -> TrafficSplit:
    return TrafficSplit("m", 1, given, salt, None, NOON)


def sides(split: TrafficSplit) -> list[str]:
    return [found.label for one in IDS if (found := split.arm_for(one)) is not None]


def test_entities_are_divided_by_the_shares() -> None:
    split = a_split(SplitArm("a", "1", 0.7), SplitArm("b", "2", 0.2), SplitArm("c", "3", 0.1))
    counts = Counter(sides(split))
    # 4000 draws: a share of 0.7 has a standard deviation of 0.0073; five of them are allowed.
    for label, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert abs(counts[label] / len(IDS) - share) < 5 * (share * (1 - share) / len(IDS)) ** 0.5
    assert sides(split) == sides(a_split(*split.arms))


def test_the_side_of_an_entity_is_known_forever() -> None:
    """A change of the hash would turn running experiments over without anybody's wish."""
    split = a_split(SplitArm("a", "1", 0.5), SplitArm("b", "2", 0.5))
    assert "".join(sides(split)[:24]) == "aababaaabaaabaaabbabaaab"


def test_with_other_weights_only_those_move_that_have_to() -> None:
    less, more = (a_split(SplitArm("a", "1", 1 - w), SplitArm("b", "2", w)) for w in (0.1, 0.3))
    moves = Counter(zip(sides(less), sides(more), strict=True))
    assert moves["b", "a"] == 0
    assert 0 < moves["a", "b"] < 0.25 * len(IDS)


def test_another_salt_deals_anew() -> None:
    one, two = (a_split(SplitArm("a", "1", 0.5), SplitArm("b", "2", 0.5), salt=salt) for salt in ("x", "y"))
    same = sum(a == b for a, b in zip(sides(one), sides(two), strict=True)) / len(IDS)
    assert 0.45 < same < 0.55


def test_an_ended_split_has_no_side() -> None:
    assert a_split().arm_for("x") is None


def test_a_split_starts_changes_and_ends_and_the_history_says_so(engine: Engine, model: str) -> None:
    with session(engine) as s:
        first = start(s, model, HALVES, actor="ann", now=later(1))
        assert [a.weight for a in first.arms] == [0.5, 0.5]
        ramped = start(s, model, [SplitArm("old", "aaaa", 1), SplitArm("new", "bbbb", 3)], now=later(2))
        assert ramped.salt == first.salt
        assert [a.weight for a in ramped.arms] == [0.25, 0.75]
        other = start(s, model, [*HALVES, SplitArm("third", "cccc", 2)], now=later(3))
        assert other.salt != first.salt
        assert start(s, model, HALVES, salt="mine", now=later(4)).salt == "mine"
        ended = stop_split(s, model, actor="bob", now=later(5))
        assert stop_split(s, model, now=later(6)) == ended
    with reading(engine) as s:
        detail = split_detail(s, model)
    assert (detail.live, detail.split) == ("aaaa", None)
    assert [(c.sequence, len(c.arms), c.actor, c.at) for c in detail.history] == [
        (5, 0, "bob", later(5)), (4, 2, None, later(4)), (3, 3, None, later(3)),
        (2, 2, None, later(2)), (1, 2, "ann", later(1)),
    ]  # fmt: skip
    assert replace(detail.history[-1], actor=None) == replace(first, actor=None)


def test_another_version_under_an_old_label_is_another_experiment(engine: Engine, model: str) -> None:
    with session(engine) as s:
        first = start(s, model, HALVES)
        other = start(s, model, [HALVES[0], replace(HALVES[1], version="cccc")])
    assert [a.label for a in first.arms] == [a.label for a in other.arms]
    assert first.salt != other.salt


def test_only_what_stands_is_current(engine: Engine, model: str) -> None:
    with session(engine) as s:
        registry.publish_version(s, "n", "aaaa", "/a")
        start(s, model, HALVES)
        second = start(s, model, HALVES[::-1])
        start(s, "n", [SplitArm("only", "aaaa", 5)])
        stop_split(s, "n")
        assert current_splits(s) == [second]
        assert split_detail(s, model).split == second


@pytest.mark.parametrize("move", ["promote", "promote what is live", "publish", "rollback"])
def test_what_goes_live_ends_the_split(engine: Engine, model: str, move: str) -> None:
    with session(engine) as s:
        promote(s, model, "cccc")
        start(s, model, HALVES)
    with session(engine) as s:
        if move == "rollback":
            registry.rollback_version(s, model, actor="cat", now=later(9))
        elif move == "publish":
            registry.publish_version(s, model, "dddd", "/d", actor="cat", now=later(9), end_split=True)
        else:
            promote(s, model, "bbbb" if move == "promote" else "cccc", actor="cat", now=later(9), end_split=True)
        detail = split_detail(s, model)
        assert current_splits(s) == []
        assert (detail.history[0].actor, detail.history[0].at) == ("cat", later(9))


@pytest.mark.parametrize(
    "given",
    [
        [],
        [SplitArm("a", "aaaa", 0.0)],
        [SplitArm("a", "aaaa", -1.0), SplitArm("b", "bbbb", 2.0)],
        [SplitArm("a", "aaaa", float("nan"))],
        [SplitArm("a", "aaaa", float("inf"))],
        [SplitArm("a", "aaaa", 1), SplitArm("a", "bbbb", 1)],
        [SplitArm("", "aaaa", 1)],
        [SplitArm("x" * 51, "aaaa", 1)],
        [SplitArm(str(n), "aaaa", 1) for n in range(11)],
    ],
)
def test_arms_that_cannot_be_are_refused(engine: Engine, model: str, given: list[SplitArm]) -> None:
    with session(engine) as s, pytest.raises(ConfigError):
        start(s, model, given)


def test_what_is_not_there_cannot_be_split(engine: Engine, model: str) -> None:
    with session(engine) as s:
        registry.register_version(s, "n", "aaaa", "/a")
        with pytest.raises(NotFoundError):
            start(s, model, [SplitArm("a", "dddd", 1)])
        with pytest.raises(NotFoundError):
            start(s, "nobody", HALVES)
        with pytest.raises(NotFoundError):
            stop_split(s, "nobody")
        with pytest.raises(NotFoundError):
            split_detail(s, "nobody")
        with pytest.raises(ConflictError, match="no live version"):
            start(s, "n", [SplitArm("a", "aaaa", 1)])


def test_an_arm_that_loses_to_the_simplest_baseline_has_to_be_forced(engine: Engine, model: str) -> None:
    with session(engine) as s:
        ours = [an_evaluation(model="m", model_version=v, value=0.1) for v in ("aaaa", "bbbb")]
        evaluations.save_evaluations(s, [*ours, an_evaluation(method="popularity", role="baseline", value=0.2)])
    with session(engine) as s, pytest.raises(ConflictError, match="bbbb loses"):
        start_split(s, model, HALVES)
    with session(engine) as s:
        # What is live is so already.
        assert start_split(s, model, [SplitArm("a", "aaaa", 1), SplitArm("c", "cccc", 1)], force=True).sequence == 1
        assert start_split(s, model, HALVES, force=True).sequence == 2


def test_concurrent_changes_follow_one_another(engine: Engine, model: str) -> None:
    together = threading.Barrier(3)

    def change(worker: int) -> None:
        together.wait()
        for turn in range(6):
            with session(engine) as s:
                if (worker + turn) % 3:
                    start(s, model, HALVES, actor=str(worker))
                else:
                    promote(s, model, ("aaaa", "bbbb")[turn % 2], actor=str(worker))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(change, range(3)))
    with reading(engine) as s:
        changes = split_detail(s, model).history[::-1]
    assert [c.sequence for c in changes] == list(range(1, len(changes) + 1))
    assert all(one.arms or before.arms for before, one in pairwise(changes))
