"""A version that loses to the simplest baseline does not go live by accident."""

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import ConflictError
from recsys_meta.metrics.metric_names import CHOICE, CLICK, RANKING, RATING
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.model_registry import registry
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.evaluations import NewEvaluation
from recsys_meta.store.tracking.promotion_gate import check_promotion
from recsys_meta.store.tracking.tables import EvaluationRecord
from tests.store.samples import NOON, an_evaluation, later


def stored(engine: Engine, metric: str, ours: list[float], theirs: list[float], baseline="popularity", now=NOON):
    """A curve of version 'aaaa' of 'm' beside that of a baseline."""
    common = {"dataset": "d", "scenario": "s", "metric": metric, "seed": None, "low": None, "high": None, "n": 9}
    with session(engine) as s:
        registry.register_version(s, "m", "aaaa", "/a", now=NOON)
        rows = []
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            mine = {"model": "m", "model_version": "aaaa"}
            rows.append(NewEvaluation(method="flagship", role="flagship", shots=k, value=a, **common, **mine))
            rows.append(NewEvaluation(method=baseline, role="baseline", shots=k, value=b, **common))
        evaluations.save_evaluations(s, rows, now)


@pytest.mark.parametrize(
    ("metric", "ours", "theirs"), [("ndcg@10", [0.3, 0.4], [0.5, 0.4]), ("logloss", [0.6, 0.5], [0.5, 0.5])]
)
def test_a_loser_is_refused_and_may_be_forced(engine: Engine, metric: str, ours, theirs) -> None:
    stored(engine, metric, ours, theirs)
    with session(engine) as s, pytest.raises(ConflictError, match=r"loses to the simplest baseline: .*popularity"):
        registry.promote_version(s, "m", "aaaa")
    with session(engine) as s:
        assert registry.live_version(s, "m") is None
        assert registry.promote_version(s, "m", "aaaa", force=True).version == "aaaa"


@pytest.mark.parametrize(("metric", "ours", "theirs"), [("hit@10", [0.6], [0.5]), ("logloss", [0.4], [0.5])])
def test_a_winner_goes_live(engine: Engine, metric: str, ours, theirs) -> None:
    stored(engine, metric, ours, theirs, baseline="local-popularity")
    with session(engine) as s:
        assert registry.promote_version(s, "m", "aaaa").action == "promote"


def test_the_newest_evaluation_decides(engine: Engine) -> None:
    stored(engine, "ndcg@10", [0.2], [0.5])
    stored(engine, "ndcg@10", [0.6], [0.5], now=later(1))
    with reading(engine) as s:
        found = check_promotion(s, "m", "aaaa")
    assert found is not None and not found.loses and found.ours == 0.6


def test_without_an_evaluation_nothing_is_known(engine: Engine) -> None:
    with session(engine) as s:
        registry.register_version(s, "m", "aaaa", "/a", now=NOON)
        assert check_promotion(s, "m", "aaaa") is None
        with pytest.raises(ConflictError, match="never evaluated"):
            registry.promote_version(s, "m", "aaaa")
        assert registry.promote_version(s, "m", "aaaa", force=True).version == "aaaa"


@pytest.mark.parametrize("metrics", [RANKING, RATING, CLICK, (*CLICK, "mrr"), CHOICE])
@pytest.mark.parametrize("turned", [False, True])
def test_the_metric_is_the_first_of_the_models_own_objective(engine: Engine, metrics: tuple[str, ...], turned) -> None:
    """Worse by it and better by all others, in whatever order they were written."""
    with session(engine) as s:
        registry.register_version(s, "m", "aaaa", "/a", now=NOON)
        for metric in metrics[::-1] if turned else metrics:
            high = (metric == metrics[0]) == (metrics in (RATING, CLICK, (*CLICK, "mrr")))
            common = {"metric": metric, "dataset": "d", "scenario": "s"}
            ours = an_evaluation(model="m", model_version="aaaa", value=0.6 if high else 0.4, **common)
            theirs = an_evaluation(method="popularity", role="baseline", value=0.5, **common)
            evaluations.save_evaluations(s, [ours, theirs], NOON)
        found = check_promotion(s, "m", "aaaa")
    assert found is not None and found.metric == metrics[0] and found.loses


def test_a_choice_among_whose_metrics_are_those_of_a_ranking_is_judged_by_its_hits(engine: Engine) -> None:
    for metric in ("ndcg@10", "hit@10"):
        stored(engine, metric, [0.6], [0.5], baseline="local-popularity")
    stored(engine, "new_hit@10", [0.1], [0.5], baseline="local-popularity")
    with reading(engine) as s:
        found = check_promotion(s, "m", "aaaa")
    assert found is not None and (found.metric, found.baseline, found.points) == ("hit@10", "local-popularity", 1)


def test_one_of_several_seeds_is_judged_by_its_own_points(engine: Engine) -> None:
    """Their mean is of no version: that of 'aaaa' wins where it loses."""
    with session(engine) as s:
        registry.register_version(s, "m", "aaaa", "/a", now=NOON)
        for seed, version, ours in ((0, "bbbb", 0.9), (1, "aaaa", 0.4), (None, None, 0.65)):
            mine = an_evaluation(model=version and "m", model_version=version, seed=seed, value=ours)
            evaluations.save_evaluations(
                s, [mine, an_evaluation(method="popularity", role="baseline", seed=seed, value=0.5)], NOON
            )
        found = check_promotion(s, "m", "aaaa")
    assert found is not None and (found.ours, found.theirs, found.loses) == (0.4, 0.5, True)


def test_what_was_measured_of_a_bundle_belongs_to_whatever_it_is_published_as(engine: Engine) -> None:
    with session(engine) as s:
        theirs = an_evaluation(method="popularity", role="baseline", value=0.5)
        evaluations.save_evaluations(
            s, [an_evaluation(model_version="aaaa"), theirs, an_evaluation(model_version="bbbb")], NOON
        )
        for name in ("m", "n"):
            registry.register_version(s, name, "aaaa", "/a", now=NOON)
            assert evaluations.copy_evaluations(s, "aaaa", name, "aaaa") == 1
            assert evaluations.copy_evaluations(s, "aaaa", name, "aaaa") == 0
    with session(engine) as s:
        for name in ("m", "n"):
            (row,) = evaluations.page_evaluations(s, model=name).items
            assert (row.model_version, row.value, row.created) == ("aaaa", 0.3, NOON)
            with pytest.raises(ConflictError, match="loses to the simplest baseline"):
                registry.promote_version(s, name, "aaaa")
        other = s.query(EvaluationRecord).filter_by(model_version="bbbb").one()
        assert other.model is None


def test_a_version_that_was_written_anew_keeps_what_was_measured_of_the_old(engine: Engine) -> None:
    """The version of a bundle names the code that wrote it too."""
    with session(engine) as s:
        evaluations.save_evaluations(s, [an_evaluation(model_version="old")])
        assert evaluations.copy_evaluations(s, "old", "m", "new") == 1
        assert [r.model_version for r in evaluations.page_evaluations(s, model="m").items] == ["new"]
