"""A study run to its end: by a worker in this process, or by several processes that share it through the database."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from typing import Any

from pipelines.experiments.interruption import interruption
from pipelines.experiments.thread_count import default_threads, fixed_threads
from pipelines.tuning.open_study import OpenStudy, reopen_study
from pipelines.tuning.optuna_study import importances
from pipelines.tuning.study_worker import StudyWorker
from pipelines.tuning.worker_identity import is_dead
from pipelines.workspace import Workspace
from recsys_meta.core.errors import RecsysMetaError
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tables import TuningTrialRecord
from recsys_meta.training.trainer import TrainStep

POLL_S = 0.5
"""Seconds between two looks at the trials of other processes."""
MOST_DEATHS = 3
"""Worker processes that may die before a study is given up: its trials may need more memory than there is."""

OnTrials = Callable[[Sequence[TuningTrialRecord]], None]
OnStep = Callable[[TrainStep], None]


class TuningInterruption(RecsysMetaError):
    """A study was stopped by a signal; its trials so far are in the database."""


@dataclass(frozen=True)
class TuningResult:
    """Trials of a study, the best of them, and the importance of each key (None: too few trials to tell)."""

    trials: tuple[TuningTrialRecord, ...]
    best: TuningTrialRecord
    importances: dict[str, float] | None


def run_study(
    workspace: Workspace,
    study: OpenStudy,
    *,
    workers: int = 1,
    threads: int | None = None,
    on_trials: OnTrials = lambda _: None,
    on_step: OnStep = lambda _: None,
) -> TuningResult:
    """Run trials until the study has all of them.

    `threads` is the number of each worker; None shares the usual number out. Raises TuningInterruption after Ctrl-C or
    SIGTERM, RecsysMetaError if no trial came to a result.
    """
    share = threads or max(1, default_threads() // workers)
    with interruption() as is_interrupted:
        if workers == 1:
            with fixed_threads(share):
                StudyWorker(workspace, study, _WorkerCallbacks(is_interrupted, on_trials, on_step)).run()
        else:
            _run_processes(workspace, study, workers, share, is_interrupted, on_trials)
        trials = _trials(workspace, study)
        if is_interrupted() and _count(trials) < study.record.trials:
            raise TuningInterruption(
                f"stopped; {_count(trials)} of {study.record.trials} trials are in the database; "
                f"`recsys-meta tune --study {study.record.name}` goes on"
            )
    return tuning_result(study, trials)


def tuning_result(study: OpenStudy, trials: Sequence[TuningTrialRecord]) -> TuningResult:
    """Result of the trials so far. Raises RecsysMetaError if none came to a result."""
    best = tuning.best_trial(trials, study.record.direction)
    if best is None:
        reasons = [t.reason for t in trials if t.reason]
        last = f"; the last one: {reasons[-1]}" if reasons else ""
        raise RecsysMetaError(f"no trial of study {study.record.name} came to a result{last}")
    return TuningResult(tuple(trials), best, importances(study.record, study.space, trials))


def _trials(workspace: Workspace, study: OpenStudy) -> list[TuningTrialRecord]:
    with workspace.reading() as session:
        return tuning.study_trials(session, study.record.name)


def _count(trials: Sequence[TuningTrialRecord]) -> int:
    """Number of the trials that count and do not run any more."""
    return sum(t.status in ("finished", "pruned", "failed") for t in trials)


@dataclass(frozen=True)
class _WorkerCallbacks:
    """Observer of a worker that passes what happens to callbacks."""

    should_stop: Callable[[], bool]
    on_trials: OnTrials
    on_step: OnStep


def _run_processes(
    workspace: Workspace,
    study: OpenStudy,
    workers: int,
    threads: int,
    is_interrupted: Callable[[], bool],
    on_trials: OnTrials,
) -> None:
    """Run a study in worker processes, and start another for each that dies. Raises RecsysMetaError for too many."""
    context = multiprocessing.get_context("spawn")
    stop, errors = context.Event(), context.SimpleQueue()
    arguments = (workspace.settings, study.record.name, threads, stop, errors)

    def start() -> SpawnProcess:
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        return process

    processes, deaths = [start() for _ in range(workers)], 0
    try:
        while processes:
            time.sleep(POLL_S)
            if is_interrupted():
                stop.set()
            on_trials(_trials(workspace, study))
            dead = [p for p in processes if p.exitcode not in (None, 0)]
            processes = [p for p in processes if p.exitcode is None]
            if not errors.empty():
                raise RecsysMetaError(errors.get())
            if dead and not stop.is_set():
                deaths += len(dead)
                if deaths > MOST_DEATHS:
                    raise RecsysMetaError(
                        f"{deaths} workers died, the last with exit status {dead[-1].exitcode} (out of memory?); "
                        f"`recsys-meta tune --study {study.record.name} --workers 1` goes on"
                    )
                processes += [start() for _ in dead]
    finally:
        stop.set()
        for process in processes:
            process.join()
        with workspace.session() as session:
            tuning.close_lost_trials(session, study.record.name, is_dead)


def _work(settings: Settings, name: str, threads: int, stop: Event, errors: Any) -> None:
    """Work on a study in a process of its own, until it is done, or the parent says stop or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)  # the trial is found lost by whoever goes on

    threading.Thread(target=follow_parent, name="parent", daemon=True).start()
    workspace = Workspace(settings)
    try:
        with fixed_threads(threads):
            study = reopen_study(workspace, name)
            StudyWorker(workspace, study, _WorkerCallbacks(stop.is_set, lambda _: None, lambda _: None)).run()
    except RecsysMetaError as error:
        errors.put(str(error))
