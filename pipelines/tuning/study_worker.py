"""Worker of a study: it takes trials until the study has all it is to have, and writes each as it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from pipelines.tuning.open_study import OpenStudy
from pipelines.tuning.optuna_study import is_hopeless, suggest
from pipelines.tuning.recipe_keys import with_values
from pipelines.tuning.starting_settings import abandoned_settings
from pipelines.tuning.trial_training import TrialResult, train_trial, trial_recipe
from pipelines.tuning.worker_identity import HEARTBEAT_S, is_dead, new_worker_name
from pipelines.workspace import Workspace
from recsys_meta.core.errors import ConfigError, StoreError
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tables import TuningTrialRecord
from recsys_meta.store.tracking.tuning import ABANDONED, TrialProposal
from recsys_meta.training.trainer import TrainStep

log = logging.getLogger(__name__)


class StudyObserver(Protocol):
    """Observer of a worker, which may stop it."""

    def should_stop(self) -> bool:
        """Return whether somebody asked to stop."""

    def on_trials(self, trials: Sequence[TuningTrialRecord]) -> None:
        """Take note of the trials of the study after a change."""

    def on_step(self, step: TrainStep) -> None:
        """Take note of a step of the trial that runs."""


class StudyWorker:
    """Worker of an open study. Other workers may share the study, in other processes or on other machines."""

    def __init__(self, workspace: Workspace, study: OpenStudy, observer: StudyObserver) -> None:
        self._workspace, self._study, self._observer = workspace, study, observer
        self._name = new_worker_name()

    def run(self) -> None:
        """Run trials until the study has all of them, or the observer says stop."""
        while not self._observer.should_stop():
            trial = self._claim()
            if trial is None:
                return
            self._run_trial(trial)

    def _claim(self) -> TuningTrialRecord | None:
        study = self._study.record
        with self._workspace.session() as session:
            tuning.close_lost_trials(session, study.name, is_dead)
            return tuning.claim_trial(session, study.name, self._name, self._propose)

    def _propose(self, trials: Sequence[TuningTrialRecord]) -> TrialProposal:
        """Settings that came to no result, then those to start with, then what the sampler proposes."""
        study, starts = self._study, self._study.starts
        again = abandoned_settings(trials)
        if again is not None:
            return again
        position = sum(t.status not in ABANDONED for t in trials)
        if position < len(starts):
            return starts[position]
        return TrialProposal(suggest(study.record, study.space, trials, study.inputs.seed), "sampler")

    def _run_trial(self, trial: TuningTrialRecord) -> None:
        status: tuning.TrialStatus = "stopped"
        result = TrialResult(status, reason="interrupted")
        try:
            with self._heartbeat(trial):
                result = self._train(trial)
        finally:
            with self._workspace.session() as session:
                tuning.close_trial(session, trial, result.status, value=result.value, reason=result.reason)
            self._observer.on_trials(self._trials())

    def _train(self, trial: TuningTrialRecord) -> TrialResult:
        study = self._study
        self._observer.on_trials(self._trials())
        try:
            recipe = with_values(study.recipe, trial.params, f"trial {trial.number}")
            recipe = trial_recipe(recipe, study.inputs, study.steps)
            return train_trial(
                recipe, study.inputs, study.device, _TrialWatch(self._workspace, study, self._observer, trial)
            )
        except StoreError:
            raise
        except ConfigError as error:
            return TrialResult("failed", reason=str(error))
        except Exception as error:
            # Settings that do not fit the data show in any error of a library: the search goes on without them.
            log.info("trial %s of %s", trial.number, study.record.name, exc_info=True)
            return TrialResult("failed", reason=f"unexpected {type(error).__name__}: {error}")

    def _trials(self) -> list[TuningTrialRecord]:
        with self._workspace.reading() as session:
            return tuning.study_trials(session, self._study.record.name)

    @contextmanager
    def _heartbeat(self, trial: TuningTrialRecord) -> Iterator[None]:
        """Show that the worker lives while the block runs, even where one step takes minutes."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(HEARTBEAT_S):
                try:
                    with self._workspace.session() as session:
                        tuning.record_heartbeat(session, trial)
                except StoreError:
                    log.warning("the database took no sign of life", exc_info=True)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


class _TrialWatch:
    """Observer of one trial: it writes each validation and compares it with other trials."""

    def __init__(
        self, workspace: Workspace, study: OpenStudy, observer: StudyObserver, trial: TuningTrialRecord
    ) -> None:
        self._workspace, self._study, self._observer, self._trial = workspace, study, observer, trial

    def should_stop(self) -> bool:
        return self._observer.should_stop()

    def on_step(self, step: TrainStep) -> None:
        self._observer.on_step(step)

    def is_hopeless(self, values: Sequence[float], step: int) -> bool:
        study, number = self._study, self._trial.number
        with self._workspace.session() as session:
            tuning.record_validations(session, self._trial, values, step)
            trials = tuning.study_trials(session, study.record.name)
        self._observer.on_trials(trials)
        return is_hopeless(study.record, study.space, trials, number, list(values))
