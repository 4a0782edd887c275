"""Ctrl-C and SIGTERM at any point of a run end it cleanly with how to go on, and are never lost."""

import signal
import threading

import pytest

from pipelines.experiments import run_ensemble, training_run
from pipelines.experiments.interruption import interruption
from pipelines.experiments.training_inputs import training_inputs
from pipelines.experiments.training_run import resume_run, train_run
from pipelines.experiments.training_steps import TrainingInterruption
from pipelines.tuning.trial_training import TrialResult, train_trial
from pipelines.workspace import Workspace
from recsys_meta.models.learners.ranking.flagship import Flagship
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import runs
from recsys_meta.training.recipe import recipe_of
from tests.pipelines.test_dislikes import genre_world

STEPS = 3
RECIPE = recipe_of(
    {
        "name": "small",
        "learner": "flagship",
        "config": {"dims": 4, "towers": 1, "memories": []},
        "episodes": {"max_shots": 4},
        "train": {"tasks": 16, "most_steps": STEPS, "validate_steps": STEPS, "validate_entities": 20},
        "ensemble": {"members": ["popularity"]},
    }
)


class OneDataset(Workspace):
    """A workspace whose only data set is in memory."""

    def __init__(self, settings, data):
        super().__init__(settings)
        self.data = data

    def dataset(self, name):
        return self.data, self.settings.prepared / name


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    data = genre_world(shots=(0, 1, 2))
    return OneDataset(Settings(home=tmp_path_factory.mktemp("home"), database_url="", redis_url="", api_keys=""), data)


@pytest.fixture(scope="module")
def inputs(workspace):
    return training_inputs(workspace.data, "genres", scenario="new", split="seed", seed=0)


@pytest.fixture(scope="module")
def undisturbed(workspace, inputs):
    return train_run(workspace, RECIPE, inputs, threads=1)


@pytest.fixture(autouse=True)
def is_passed_on():
    """True after a signal that the run left to whoever is around it, which would end the tests."""
    with interruption() as is_interrupted:
        yield is_interrupted
        is_interrupted()


def last_run(workspace):
    with workspace.reading() as session:
        return runs.page_runs(session, limit=1).items[0]


def send_before(patch, owner, name, number=signal.SIGTERM):
    """Send a signal as soon as a function begins."""
    real = getattr(owner, name)

    def and_go_on(*given, **named):
        signal.raise_signal(number)
        return real(*given, **named)

    patch.setattr(owner, name, and_go_on)


def assert_stops_and_resumes(workspace, inputs, undisturbed, train, where):
    """The run is stopped, says how to go on, and when it has gone on it is the run that it would have been."""
    with pytest.raises(TrainingInterruption) as stopped:
        train()
    run = last_run(workspace)
    assert str(stopped.value) == f"stopped {where}; `recsys-meta train --resume {run.id}` continues"
    assert run.status == "stopped" and run.reason == str(stopped.value)
    resumed = resume_run(workspace, run.id)
    assert resumed.steps == STEPS
    assert resumed.bundle.version == undisturbed.bundle.version
    assert last_run(workspace).status == "finished"
    return resumed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, STEPS])
def test_a_signal_during_a_step_stops_after_it_and_so_in_the_last_one(workspace, inputs, undisturbed, at, number):
    def report(step):
        if step.step == at:
            signal.raise_signal(number)

    def train():
        train_run(workspace, RECIPE, inputs, threads=1, report=report)

    where = f"at step {at} of {STEPS}"
    assert assert_stops_and_resumes(workspace, inputs, undisturbed, train, where).resumed_at == at


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Flagship, "calibrate"),
        (Flagship, "choose_push"),
        (training_run, "fit_run_ensemble"),
        (run_ensemble, "fit_ensemble"),
    ],
)
def test_a_signal_after_the_last_step_stops_before_what_comes_next(workspace, inputs, undisturbed, owner, name):
    def train():
        with pytest.MonkeyPatch.context() as patch:
            send_before(patch, owner, name)
            train_run(workspace, RECIPE, inputs, threads=1)

    assert assert_stops_and_resumes(workspace, inputs, undisturbed, train, "after the last step").resumed_at == STEPS


def test_a_signal_while_the_last_member_is_tuned_comes_before_members_are_weighed(workspace, inputs, undisturbed):
    said = []

    def notify(text):
        said.append(text)
        if text.startswith("tuning"):
            signal.raise_signal(signal.SIGINT)

    def train():
        train_run(workspace, RECIPE, inputs, threads=1, notify=notify)

    assert_stops_and_resumes(workspace, inputs, undisturbed, train, "after the last step")
    assert said == ["tuning popularity"]


def test_a_signal_while_the_bundle_is_written_comes_through_when_the_run_has_finished(workspace, inputs, is_passed_on):
    with pytest.MonkeyPatch.context() as patch:
        send_before(patch, training_run, "save_bundle", signal.SIGINT)
        train_run(workspace, RECIPE, inputs, threads=1)
    assert is_passed_on()
    run = last_run(workspace)
    assert run.status == "finished"
    assert (workspace.settings.runs / run.id / "bundle").is_dir()


def test_a_second_signal_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), interruption() as is_interrupted:
        signal.raise_signal(signal.SIGTERM)
        assert is_interrupted()
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_nobody_looked_at_reaches_the_block_around():
    with interruption() as is_interrupted:
        with interruption():
            signal.raise_signal(signal.SIGTERM)
        assert is_interrupted()
        with pytest.raises(ValueError, match="failed"), interruption():
            raise ValueError("failed")
    before = signal.getsignal(signal.SIGTERM)
    with interruption() as is_interrupted:
        signal.raise_signal(signal.SIGTERM)
        assert is_interrupted()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_beside_an_error_is_not_lost():
    with interruption() as is_interrupted:
        with pytest.raises(ValueError, match="failed"), interruption():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("failed")
        assert is_interrupted()


def test_in_another_thread_signals_are_the_callers():
    said = []

    def work():
        with interruption() as is_interrupted:
            said.append(is_interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert said == [False]


class StopsAfter:
    """Observer of a trial that asks it to stop when it has been asked so many times."""

    def __init__(self, looks):
        self.looks, self.steps = looks, 0

    def should_stop(self):
        self.looks -= 1
        return self.looks < 0

    def on_step(self, step):
        self.steps += 1

    def is_hopeless(self, values, step):
        return False


def test_a_trial_stops_within_its_race(inputs):
    race = {"steps": 500, "settings": [{"dropout": 0.1}, {"dropout": 0.5}]}
    raced = recipe_of(RECIPE.model_dump(mode="json") | {"ensemble": {}, "race": race})
    observer = StopsAfter(2)
    assert train_trial(raced, inputs, "cpu", observer) == TrialResult("stopped", reason="interrupted")
    assert observer.looks == -1 and observer.steps == 0, "not one step more than it was asked for"


def test_a_trial_stops_after_a_step(inputs):
    observer = StopsAfter(1)
    assert train_trial(RECIPE, inputs, "cpu", observer) == TrialResult("stopped", reason="interrupted")
    assert observer.steps == 2


def test_an_error_says_more_than_the_signal_that_came_with_it():
    """torchrun ends all processes of a run of which one has ended; what the others say of it is not lost."""
    with pytest.raises(ValueError, match="the other has ended"), interruption():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the other has ended")
    with interruption() as is_interrupted:
        with pytest.raises(ValueError), interruption():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError
        assert is_interrupted(), "somebody who handles signals is told all the same"
