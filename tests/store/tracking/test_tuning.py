from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from recsys_meta.core.errors import ConflictError, NotFoundError
from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tuning import TrialProposal
from tests.store.samples import NOON, a_study, later


def proposal(trials) -> TrialProposal:
    return TrialProposal({"train.rate": 0.1 * (1 + len(trials))}, "sampler")


def claim(engine: Engine, worker: str = "w", study: str = "s"):
    with session(engine) as s:
        return tuning.claim_trial(s, study, worker, proposal, NOON)


def trials(engine: Engine, study: str = "s"):
    with reading(engine) as s:
        return tuning.study_trials(s, study)


def test_life_of_a_study(engine: Engine) -> None:
    with session(engine) as s:
        a_study(s, "s", trials=2)
    with pytest.raises(ConflictError), session(engine) as s:
        a_study(s, "s")
    first, second = claim(engine), claim(engine)
    assert claim(engine) is None, "it has its two trials"
    with session(engine) as s:
        tuning.record_validations(s, first, [0.1, 0.3], 20, later(1))
        tuning.close_trial(s, first, "finished", value=0.3, now=later(2))
        tuning.close_trial(s, second, "pruned", value=0.9, reason="x" * 3000)
        tuning.set_trials(s, "s", 3)
    done = trials(engine)
    assert [(t.number, t.status, t.value) for t in done] == [(1, "finished", 0.3), (2, "pruned", 0.9)]
    assert done[0].validations == {"1": 0.1, "2": 0.3} and done[0].steps == 20 and len(done[1].reason) == 2000
    assert done[0].params == {"train.rate": 0.1} and done[0].finished == later(2)
    assert tuning.best_trial(done, "maximize").number == 1, "a trial that was stopped early is never the best"
    assert claim(engine).number == 3
    with pytest.raises(NotFoundError, match="nobody"), reading(engine) as s:
        tuning.get_study(s, "nobody")
    with pytest.raises(NotFoundError):
        claim(engine, study="nobody")


def test_the_best_is_the_first_of_equals_in_the_direction_of_the_metric(engine: Engine) -> None:
    with session(engine) as s:
        a_study(s, "s")
    for value in (0.2, 0.1, 0.1):
        with session(engine) as s:
            tuning.close_trial(s, claim_in(s), "finished", value=value)
    assert tuning.best_trial(trials(engine), "minimize").number == 2
    assert tuning.best_trial(trials(engine), "maximize").number == 1
    assert tuning.best_trial([], "maximize") is None


def claim_in(open_session):
    return tuning.claim_trial(open_session, "s", "w", proposal)


def test_trials_of_dead_workers_are_lost_and_do_not_count(engine: Engine) -> None:
    with session(engine) as s:
        a_study(s, "s", trials=2)
    dead, alive = claim(engine, "dead"), claim(engine, "alive")
    with session(engine) as s:
        assert tuning.close_lost_trials(s, "s", lambda t: t.worker == "dead") == [dead.number]
    assert [t.status for t in trials(engine)] == ["lost", "running"]
    assert claim(engine).number == 3, "the lost one does not count"
    with session(engine) as s:
        tuning.record_heartbeat(s, alive, later(50))
        tuning.close_trial(s, dead, "finished", value=0.5)
    lost, running, _ = trials(engine)
    assert (lost.status, lost.value) == ("finished", 0.5), "it was not dead: what it found is not lost"
    assert running.heartbeat == later(50)
    with session(engine) as s:
        tuning.close_trial(s, dead, "failed")
    assert trials(engine)[0].status == "finished", "an end is an end"


def test_workers_that_claim_at_the_same_time_get_different_trials(engine: Engine) -> None:
    with session(engine) as s:
        a_study(s, "s", trials=6)
    with ThreadPoolExecutor(4) as pool:
        got = [t for t in pool.map(lambda i: claim(engine, f"w{i}"), range(9)) if t is not None]
    assert sorted(t.number for t in got) == [1, 2, 3, 4, 5, 6]
    assert len({t.params["train.rate"] for t in got}) == 6, "each saw those before it"


def test_earlier_studies_of_a_learner_are_found_newest_first(engine: Engine) -> None:
    with session(engine) as s:
        for name, seconds in (("old", 0), ("new", 9), ("mine", 20)):
            a_study(s, name, now=later(seconds))
        a_study(s, "other", learner="maml")
        a_study(s, "clicks", objective="click")
    with reading(engine) as s:
        assert [r.name for r in tuning.studies_of_learner(s, "flagship", "ranking", "mine")] == ["new", "old"]
