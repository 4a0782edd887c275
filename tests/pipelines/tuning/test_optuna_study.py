import pytest

from pipelines.tuning.optuna_study import importances, is_hopeless, rebuild_study, suggest
from pipelines.tuning.search_space import NumberRange, SearchSpace, ValueList
from tests.pipelines.tuning.samples import study_record, trial

SPACE = SearchSpace(
    {
        "hidden": ValueList(values=([], [4], [4, 4])),
        "width": NumberRange(low=1, high=64, log=True),
        "x": NumberRange(low=-1.0, high=1.0),
    },
    "test",
)


def loss(params):
    return (params["x"] - 0.4) ** 2 + 0.1 * (len(params["hidden"]) != 1) + 0.0 * params["width"]


def search(trials, count, direction="minimize", seed=3):
    """A study of `count` trials, one after the other, that goes on from some."""
    done = list(trials)
    sign = 1.0 if direction == "minimize" else -1.0
    while len(done) < count:
        params = suggest(study_record(direction), SPACE, done, seed)
        done.append(trial(len(done) + 1, params, value=sign * loss(params)))
    return done


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been():
    whole = search([], 14)
    assert [t.params for t in search(whole[:11], 14)] == [t.params for t in whole]
    assert len({str(t.params) for t in whole}) == 14
    assert search([], 3, seed=4)[0].params != whole[0].params
    interrupted = [*whole[:9], trial(10, whole[9].params, "lost"), trial(11, whole[9].params, "stopped")]
    assert suggest(study_record("minimize"), SPACE, interrupted, 3) == whole[9].params


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_finds_what_is_good_in_either_direction(direction):
    trials = search([], 30, direction)
    first, last = (min(loss(t.params) for t in part) for part in (trials[:8], trials))
    assert last < 0.02 and last <= first
    assert all(1 <= t.params["width"] <= 64 and isinstance(t.params["width"], int) for t in trials)
    shares = importances(study_record(direction), SPACE, trials)
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=shares.get) == "x"


def test_importance_needs_some_finished_trials():
    trials = search([], 4)
    assert importances(study_record(), SPACE, trials[:3]) is None
    assert importances(study_record(), SPACE, [*trials[:3], trial(4, trials[3].params, "pruned", 0.1)]) is None
    assert importances(study_record(), SPACE, [trial(i, t.params, value=1.0) for i, t in enumerate(trials)]) is None


def test_a_trial_behind_the_median_is_hopeless_in_either_direction():
    params = search([], 1)[0].params
    others = [trial(i, params, value=0.5, course=[0.1 * i, 0.1 * i, 0.5]) for i in range(1, 6)]
    judge = lambda direction, values: is_hopeless(study_record(direction), SPACE, others, 9, values)  # noqa: E731
    assert judge("maximize", [0.1, 0.29]) and not judge("maximize", [0.1, 0.31])
    assert judge("minimize", [0.9, 0.31]) and not judge("minimize", [0.9, 0.29])
    assert not judge("maximize", [0.31, 0.1]), "it was better before"
    assert not judge("maximize", [0.0]), "the first validation says little"
    assert not is_hopeless(study_record(), SPACE, others[:3], 9, [0.0, 0.0]), "three are no median"


def test_running_trials_keep_others_away_and_failed_ones_are_the_worst():
    trials = search([], 10)
    running = [trial(11, trials[0].params, "running"), trial(12, trials[1].params, "failed")]
    assert suggest(study_record("minimize"), SPACE, [*trials, *running], 3)
    states = [t.state.name for t in rebuild_study(study_record(), SPACE, [*trials, *running]).trials]
    assert states == ["COMPLETE"] * 10 + ["RUNNING", "PRUNED"]
