"""Report of a training run: its course, settings and ensemble as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.experiments.report import as_png, render_page
from pipelines.experiments.training_run import TrainingResult
from pipelines.experiments.validation_curve import adapting_tests
from recsys_meta import __version__
from recsys_meta.core.atomic_io import write_file
from recsys_meta.store.tracking.setting_tables import flat_settings

Course = Sequence[tuple[int, float | None]]
"""Steps and values of a figure."""

PANELS = {
    "loss of the query": {"loss": "meta-training"},
    "criterion": {"valid": "meta-validation", "valid_on_training": "tasks of the training"},
}
"""Figures of each panel, with their names."""


def write_training_report(result: TrainingResult, courses: Mapping[str, Course], folder: Path, command: str) -> Path:
    """Write report.html into a folder; `courses` are the figures of the run by name."""
    spec = result.spec
    about = {"seed": spec.seed, "split": spec.split, "scenario": spec.scenario, "threads": spec.threads}
    page = render_page(
        "training.html.jinja",
        command,
        result=result,
        version=__version__,
        course=base64.b64encode(plot_courses(courses)).decode(),
        tests=adapting_tests(result.validation),
        settings=flat_settings({**about, **spec.recipe.model_dump(mode="json")}),
    )
    write_file(folder / "report.html", page.encode())
    return folder / "report.html"


def plot_courses(courses: Mapping[str, Course]) -> bytes:
    """Plot loss and validation by outer step as PNG, a panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for key, label in names.items():
            points = [(step, value) for step, value in courses.get(key, ()) if value is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else None)
        axes.set_xlabel("outer step")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    return as_png(figure)
