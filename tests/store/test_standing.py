"""A version that loses to the simplest baseline does not go live by accident."""

import pytest
from sqlalchemy import Engine

from recsys_meta.errors import ConflictError
from recsys_meta.store import evaluations, registry
from recsys_meta.store.engine import reading, session
from recsys_meta.store.evaluations import NewEvaluation
from recsys_meta.store.standing import standing
from tests.store.samples import NOON, later


def stored(engine: Engine, metric: str, ours: list[float], theirs: list[float], baseline="popularity", now=NOON):
    """A curve of version 'aaaa' of 'm' beside that of a baseline."""
    common = {"dataset": "d", "scenario": "s", "metric": metric, "seed": None, "low": None, "high": None, "n": 9}
    with session(engine) as s:
        registry.register(s, "m", "aaaa", "/a", now=NOON)
        rows = []
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            mine = {"model": "m", "model_version": "aaaa"}
            rows.append(NewEvaluation(method="flagship", role="flagship", shots=k, value=a, **common, **mine))
            rows.append(NewEvaluation(method=baseline, role="baseline", shots=k, value=b, **common))
        evaluations.save(s, rows, now)


@pytest.mark.parametrize(
    ("metric", "ours", "theirs"), [("ndcg@10", [0.3, 0.4], [0.5, 0.4]), ("logloss", [0.6, 0.5], [0.5, 0.5])]
)
def test_a_loser_is_refused_and_may_be_forced(engine: Engine, metric: str, ours, theirs) -> None:
    stored(engine, metric, ours, theirs)
    with session(engine) as s, pytest.raises(ConflictError, match=r"loses to the simplest baseline: .*popularity"):
        registry.promote(s, "m", "aaaa")
    with session(engine) as s:
        assert registry.live(s, "m") is None
        assert registry.promote(s, "m", "aaaa", force=True).version == "aaaa"


@pytest.mark.parametrize(("metric", "ours", "theirs"), [("hit@10", [0.6], [0.5]), ("logloss", [0.4], [0.5])])
def test_a_winner_goes_live(engine: Engine, metric: str, ours, theirs) -> None:
    stored(engine, metric, ours, theirs, baseline="local-popularity")
    with session(engine) as s:
        assert registry.promote(s, "m", "aaaa").action == "promote"


def test_the_newest_evaluation_decides(engine: Engine) -> None:
    stored(engine, "ndcg@10", [0.2], [0.5])
    stored(engine, "ndcg@10", [0.6], [0.5], now=later(1))
    with reading(engine) as s:
        found = standing(s, "m", "aaaa")
    assert found is not None and not found.loses and found.ours == 0.6


def test_without_an_evaluation_nothing_is_known(engine: Engine) -> None:
    with session(engine) as s:
        registry.register(s, "m", "aaaa", "/a", now=NOON)
        assert standing(s, "m", "aaaa") is None
        assert registry.promote(s, "m", "aaaa").version == "aaaa"
