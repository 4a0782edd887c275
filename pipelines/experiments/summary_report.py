"""Reports of a comparison on several data sets: tables on the terminal, a figure with a panel each, an HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pipelines.experiments.dataset_summary import (
    DatasetOutcome,
    DatasetSummary,
    PointOutcome,
    method_family,
    outcome_labels,
)
from pipelines.experiments.report import NAMES, as_png, draw_curves, render_page, verdict
from recsys_meta.core.atomic_io import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""Panels side by side in the figure."""


def verdict_table(summary: DatasetSummary) -> Table:
    """Table of the points that the first learner won, tied and lost against the best baseline, a row a data set."""
    table = _table("First learner against the best baseline at each point, paired 95% intervals")
    for name in ("data set", "metric", "method", "wins", "ties", "losses", "largest loss"):
        table.add_column(name, overflow="fold")
    for label, outcome in zip(outcome_labels(summary.outcomes), summary.outcomes, strict=True):
        verdicts = [_points_text(outcome.shots_with(v)) for v in ("win", "tie", "loss")]
        loss = outcome.largest_loss
        cells = [label, NAMES.get(outcome.metric, outcome.metric), outcome.learner or "-", *verdicts]
        table.add_row(*map(escape, [*cells, "-" if loss is None else loss_text(loss)]))
    table.add_section()
    table.add_row("all", "", "", *(str(summary.count(v)) for v in ("win", "tie", "loss")), "", style="bold")
    if undefined := summary.count("undefined"):
        table.caption = f"{undefined} points undefined: nobody reaches them, or a prediction was not a number"
    return table


def rank_table(summary: DatasetSummary) -> Table:
    """Table of the mean rank of every method over data sets and points, best first."""
    table = _table("Mean rank over data sets and points")
    for name, justify in (("method", "left"), ("mean rank", "right"), ("methods", "right"), ("points", "right"),
                          ("data sets", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for m in summary.mean_ranks():
        table.add_row(escape(m.method), f"{m.mean_rank:.2f}", f"{m.mean_methods:.1f}", str(m.points), str(m.datasets))
    return table


def _table(title: str) -> Table:
    return Table(
        title=escape(title), title_justify="left", title_style="bold", caption_justify="left", show_edge=False,
        pad_edge=False,
    )  # fmt: skip


def _points_text(shots: Sequence[int]) -> str:
    return f"{len(shots)} (at {', '.join(map(str, shots))})" if shots else "0"


def loss_text(loss: PointOutcome) -> str:
    """Describe a loss: the difference with its interval, where, and against which baseline."""
    v = loss.paired
    return f"{v.difference:+.3f} [{v.low:+.3f}, {v.high:+.3f}] at {v.shots} shots against {v.against}"


def largest_loss_line(summary: DatasetSummary) -> str:
    """Describe the largest loss over all data sets in one line."""
    found = summary.largest_loss
    if found is None:
        points = sum(len(o.points) for o in summary.outcomes)
        return f"No loss at any of {points} points" if points else "No point has a learner and a baseline"
    outcome, loss = found
    label = outcome_labels(summary.outcomes)[summary.outcomes.index(outcome)]
    share = f", {100 * loss.relative:+.1f}% of the baseline" if math.isfinite(loss.relative) else ""
    metric = NAMES.get(outcome.metric, outcome.metric)
    return f"Largest loss: {label}, {metric}: {loss_text(loss)}{share}"


def plot_panels(outcomes: Sequence[DatasetOutcome]) -> bytes:
    """Plot the cold-start curves of every data set as PNG, a panel each; a red cross is a loss of the first learner."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    methods = [[replace(m, name=method_family(m.name)) for m in o.methods] for o in outcomes]
    names = list(dict.fromkeys(m.name for several in methods for m in several))
    colors = {name: to_hex(colormaps["tab20"](i % 20)) for i, name in enumerate(names)}
    columns = min(COLUMNS, len(outcomes))
    rows = -(-len(outcomes) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.8 * rows + 0.16 * len(names)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, outcome, label, several in zip(panels, outcomes, outcome_labels(outcomes), methods, strict=False):
        draw_curves(axes, outcome.shots, several, colors)
        _mark_losses(axes, outcome)
        counts = [len(outcome.shots_with(v)) for v in ("win", "tie", "loss")]
        axes.set_title(f"{label}\n{counts[0]} won, {counts[1]} tied, {counts[2]} lost", fontsize=9)
        axes.set_ylabel(NAMES.get(outcome.metric, outcome.metric))
        axes.set_xlabel("interactions known of the newcomer")
    for axes in panels[len(outcomes) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines() if line.get_label() in colors}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", fontsize=7, ncols=2 * columns)
    return as_png(figure)


def _mark_losses(axes: Axes, outcome: DatasetOutcome) -> None:
    values = next((m.points for m in outcome.methods if m.name == outcome.learner), ())
    at = [outcome.shots.index(k) for k in outcome.shots_with("loss")]
    axes.scatter(at, [values[i].value for i in at], marker="x", color="red", s=60, zorder=5)


def summary_page(summary: DatasetSummary, folders: Sequence[str], command: str, png: bytes) -> str:
    """Render the HTML summary as one page; `folders`, beside it, hold the report of each outcome, `png` the panels."""
    outcomes = summary.outcomes
    return render_page(
        "summary.html.jinja",
        command,
        png=base64.b64encode(png).decode(),
        outcomes=[
            (label, o, folder, [[str(k) for k in o.shots_with(v)] for v in ("win", "tie", "loss")], _lines(o))
            for label, o, folder in zip(outcome_labels(outcomes), outcomes, folders, strict=True)
        ],
        totals=[summary.count(v) for v in ("win", "tie", "loss")],
        ranks=summary.mean_ranks(),
        loss=largest_loss_line(summary),
        failures=summary.failures,
    )


def _lines(outcome: DatasetOutcome) -> list[str]:
    return [verdict(p.paired) for p in outcome.points]


def write_summary(summary: DatasetSummary, folders: Sequence[str], folder: Path, command: str) -> list[Path]:
    """Write datasets.png and report.html; return their paths."""
    image, html = folder / "datasets.png", folder / "report.html"
    png = plot_panels(summary.outcomes)
    write_file(image, png)
    write_file(html, summary_page(summary, folders, command, png).encode())
    return [image, html]
