"""Progress of a study while `recsys-meta tune` runs its trials."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.progress import Progress

from pipelines.console import err
from recsys_meta.store.tracking import tuning
from recsys_meta.store.tracking.tables import TuningStudyRecord, TuningTrialRecord
from recsys_meta.training.trainer import TrainStep

LINE_S = 5.0
"""Seconds between two lines of progress where nobody watches a bar."""


class StudyProgress:
    """Progress bar of a study; off a terminal a line every few seconds, when there is something new."""

    def __init__(self, progress: Progress, study: TuningStudyRecord) -> None:
        self._progress, self._study = progress, study
        self._task = progress.add_task("tuning", total=study.trials, note="")
        self._step, self._text, self._line, self._at = "", "", "", -LINE_S

    def on_trials(self, trials: Sequence[TuningTrialRecord]) -> None:
        """Show the counts of the trials and the best of them."""
        counts = Counter(t.status for t in trials)
        done = sum(counts[status] for status in ("finished", "pruned", "failed"))
        best = tuning.best_trial(trials, self._study.direction)
        shown = f"best {self._study.metric} {best.value:.4f} (trial {best.number})" if best else "none finished yet"
        others = [f"{counts[s]} {s}" for s in ("running", "pruned", "failed", "lost") if counts[s]]
        self._text = "  ".join([shown, *others])
        if not counts["running"]:
            self._step = ""
        self._progress.update(self._task, completed=done)
        self._show(done)

    def on_step(self, step: TrainStep) -> None:
        """Show how far the trial is."""
        self._step = f"  step {step.step} of {step.steps}"
        self._show(None)

    def _show(self, done: int | None) -> None:
        self._progress.update(self._task, note=escape(self._text + self._step))
        now = time.monotonic()
        if err.is_terminal or done is None or now - self._at < LINE_S:
            return
        line = f"{done} of {self._study.trials} trials: {self._text}"
        if line != self._line:
            err.print(escape(line), soft_wrap=True)
            self._line, self._at = line, now
