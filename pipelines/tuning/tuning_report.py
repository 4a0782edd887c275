"""Report of a study: a self-contained HTML page with the course of the search, importance and every trial."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.experiments.report import NAMES, as_png, render_page
from pipelines.tuning.open_study import OpenStudy
from pipelines.tuning.search_space import NumberRange
from pipelines.tuning.tuned_recipe import recipe_toml
from pipelines.tuning.tuning_run import TuningResult
from recsys_meta.core.atomic_io import write_file
from recsys_meta.store.tracking.tables import TuningTrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""Panels side by side in the figure of the keys."""


def write_tuning_report(study: OpenStudy, result: TuningResult, folder: Path) -> Path:
    """Write report.html into a folder; return its path."""
    path = folder / "report.html"
    write_file(path, tuning_page(study, result).encode())
    return path


def tuning_page(study: OpenStudy, result: TuningResult) -> str:
    """Render the HTML report of a study as one page."""
    record, shares = study.record, result.importances or {}
    keys = sorted(study.space.choices, key=lambda k: -shares.get(k, 0.0))
    counts = Counter(t.status for t in result.trials)
    return render_page(
        "tuning.html.jinja",
        f"recsys-meta tune --study {record.name}",
        package="pipelines.tuning",
        study=record,
        recipe=study.recipe.name,
        metric=NAMES.get(record.metric, record.metric),
        best=result.best,
        counts=", ".join(f"{n} {status}" for status, n in sorted(counts.items())),
        keys=[(k, study.space.choices[k].text, value_text(result.best.params[k]), shares.get(k)) for k in keys],
        trials=[(t, [value_text(t.params.get(k)) for k in keys]) for t in result.trials],
        course=base64.b64encode(plot_course(study, result)).decode(),
        slices=base64.b64encode(plot_keys(study, result.trials, keys)).decode(),
        toml=recipe_toml(study, result.best),
    )


def value_text(value: object) -> str:
    """Value of a key as short text: four digits of a number."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def plot_course(study: OpenStudy, result: TuningResult) -> bytes:
    """Plot value by trial, with the best so far as a line, and the importance of each key, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    course, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_trials(course, result.trials, [t.number for t in result.trials])
    finished = [t for t in result.trials if t.status == "finished" and t.value is not None]
    pick = max if study.record.direction == "maximize" else min
    so_far = [pick(t.value for t in finished[: i + 1] if t.value is not None) for i in range(len(finished))]
    course.step([t.number for t in finished], so_far, where="post", color="tab:red", label="best so far")
    course.set_xlabel("trial")
    course.set_ylabel(NAMES.get(study.record.metric, study.record.metric))
    course.legend(fontsize=7)
    shares = sorted((result.importances or {}).items(), key=lambda s: s[1])
    bars.barh([k for k, _ in shares], [v for _, v in shares])
    bars.set_title("importance of keys" if shares else "too few finished trials for importance", fontsize=9)
    bars.tick_params(labelsize=7)
    return as_png(figure)


def plot_keys(study: OpenStudy, trials: Sequence[TuningTrialRecord], keys: Sequence[str]) -> bytes:
    """Plot the value of every trial by each key, a panel each, as PNG."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        choice = study.space.choices[key]
        known = [t for t in trials if key in t.params]
        if isinstance(choice, NumberRange):
            draw_trials(axes, known, [float(t.params[key]) for t in known])
            if choice.log:
                ends = (choice.low, math.sqrt(choice.low * choice.high), choice.high)
                axes.set_xscale("log")
                axes.set_xticks(ends, [f"{end:.3g}" for end in ends])
                axes.set_xticks([], minor=True)
        else:
            labels = [json.dumps(v) for v in choice.values]
            draw_trials(axes, known, [labels.index(json.dumps(t.params[key])) for t in known])
            axes.set_xticks(range(len(labels)), labels)
        axes.set_title(key, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(keys) :]:
        axes.set_visible(False)
    return as_png(figure)


def draw_trials(axes: Axes, trials: Sequence[TuningTrialRecord], positions: Sequence[float]) -> None:
    """Draw trials as points: filled if finished, open if stopped early."""
    for status, face in (("finished", "tab:blue"), ("pruned", "none")):
        points = [(x, t.value) for x, t in zip(positions, trials, strict=True) if t.status == status]
        x, y = [x for x, _ in points], [math.nan if value is None else value for _, value in points]
        axes.scatter(x, y, s=18, facecolors=face, edgecolors="tab:blue", label=status)
    axes.grid(alpha=0.25)
