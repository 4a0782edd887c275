"""Reports of a comparison: a table on the terminal, a plot, and a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, FunctionLoader
from rich.markup import escape
from rich.table import Table

from pipelines.experiments.comparison import Comparison, MethodCost, MethodPoints, PairedComparison
from pipelines.experiments.comparison_tests import verdict as verdict_of
from pipelines.experiments.paper_tables import best_values, is_best, latex_table, markdown_table
from recsys_meta import __version__
from recsys_meta.core.atomic_io import write_file
from recsys_meta.metrics.bootstrap import mean_over_seeds
from recsys_meta.metrics.pooled_metrics import RowSample, reliability
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.tracking.paired_tests import NewPairedTest, Reference
from recsys_meta.store.tracking.segment_tables import segment_tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)

NAMES = {
    "ndcg@10": "nDCG@10",
    "recall@20": "Recall@20",
    "ndcg@20": "nDCG@20",
    "share@10": "hits among ten over the most there could be",
    "mrr": "MRR",
    "hit@10": "hit rate@10",
    "rmse": "RMSE",
    "logloss": "log-loss",
    "auc": "AUC",
    "ece": "calibration error",
    "new_hit@10": "hit rate@10, items new to the actor only",
    "new_hit@5": "hit rate@5, items new to the actor only",
    "new_ndcg@10": "nDCG@10, items new to the actor only",
    "new_ndcg@5": "nDCG@5, items new to the actor only",
    "macro_hit@10": "hit rate@10, every entity counted once",
    "macro_new_hit@10": "hit rate@10, new items, every entity counted once",
}


Number = Callable[[MethodCost | None], str]
COSTS: tuple[tuple[str, Number], ...] = (
    ("wall s", lambda c: f"{c.seconds:,.1f}" if c else "-"),
    ("CPU s", lambda c: f"{c.processor_seconds:,.1f}" if c and c.processor_seconds is not None else "-"),
    ("parameters", lambda c: f"{c.parameters:,}" if c and c.parameters is not None else "-"),
    ("state bytes", lambda c: f"{c.state_bytes:,}" if c and c.state_bytes is not None else "-"),
)
"""Costs of a method in tables: a title, and the number as text."""


def curve_table(result: Comparison, metric: str, *, with_costs: bool = True) -> Table:
    """Table of methods by shots, best first; the best of each column is bold, the last row counts the entities."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    title = f"{NAMES.get(metric, metric)} on meta-test newcomers of {result.dataset} ({result.scenario})"
    table = _shots_table(title, result)
    costs = [title for title, _ in COSTS] if with_costs and has_costs(result) else []
    for title in costs:
        table.add_column(title, justify="right", style="dim")
    means = {m.name: [result.mean(m, k, metric) for k in result.shots] for m in result.methods}
    best = [
        max((sign * v[i] for v in means.values() if math.isfinite(v[i])), default=math.nan)
        for i in range(len(result.shots))
    ]
    for m in sorted(result.methods, key=lambda m: -sign * _average(means[m.name])):
        cells = [_cell(v, math.isclose(sign * v, best[i])) for i, v in enumerate(means[m.name])]
        cells += [number(m.cost) for _, number in COSTS] if costs else []
        table.add_row(f"[bold]{m.name}[/]" if m.role == "flagship" else m.name, *cells)
    for bound in result.bounds:
        cells = [_cell(result.mean(bound, k, metric), False) for k in result.shots]
        table.add_row(f"{bound.name} (knows the world)", *cells, style="italic")
    for failure in result.failures:
        table.add_row(escape(failure.method), "failed", style="red")
    table.add_section()
    gains = result.gains_of_adapting(metric)
    if gains is not None:
        table.add_row("adapting adds", *map(_signed, gains))
    table.add_row("newcomers", *(str(n) for n in _remaining(result, metric)), style="dim")
    return table


def has_costs(result: Comparison) -> bool:
    """Return whether any method's cost is known."""
    return any(m.cost for m in result.methods)


def cost_table(result: Comparison) -> Table:
    """Table of what each method costs, where the table of its curve has no place for that."""
    table = Table(show_edge=False, pad_edge=False, style="dim")
    table.add_column("method", no_wrap=True)
    for title, _ in COSTS:
        table.add_column(title, justify="right")
    for m in result.methods:
        if m.cost is not None:
            table.add_row(m.name, *(number(m.cost) for _, number in COSTS))
    return table


SHRINKING = (
    "Events known leave the catalogue, so the more of them there are, the harder is what is left to rank: compare "
    "methods within a column, not columns. By how much adapting helps is what the first learner has with the events "
    "less without them."
)
"""What tables of rankings say of their columns."""


def share_table(result: Comparison) -> Table:
    """Table of the shares of the way from a baseline to a bound that methods have gone, by shots, largest first."""
    first = result.shares[0]
    title = f"Share of the way from {first.baseline} to {first.bound}, {NAMES.get(first.metric, first.metric)}"
    table = _shots_table(title, result)
    rows: dict[str, list[float]] = {}
    for share in result.shares:
        rows.setdefault(share.method, []).append(share.share)
    for name, values in sorted(rows.items(), key=lambda row: -_average(row[1])):
        table.add_row(name, *(f"{v:.0%}" if math.isfinite(v) else "-" for v in values))
    return table


def _shots_table(title: str, result: Comparison) -> Table:
    """Table with a column for the method and one for each number of shots, without rows."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for k in result.shots:
        table.add_column(f"{k} shots" if k == result.shots[0] else str(k), justify="right", no_wrap=True)
    return table


def _average(values: list[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else -math.inf


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "-"


def _cell(value: float, best: bool) -> str:
    if not math.isfinite(value):
        return "-"
    return f"[bold]{value:.3f}[/]" if best else f"{value:.3f}"


def _remaining(result: Comparison, metric: str) -> list[int]:
    first = result.methods[0]
    return [mean_over_seeds(metric, [c.values[k][metric] for c in first.curves.values()])[1] for k in result.shots]


def verdict(v: PairedComparison) -> str:
    """Describe the difference from the best baseline at a point, with its paired 95% interval, in one line."""
    if not math.isfinite(v.difference):
        return f"{v.shots:>3} shots: not a number against {v.against} - a prediction failed (n {v.n})"
    word = verdict_of(v.metric, v.difference, v.low, v.high).replace("open", "no clear difference")
    return (
        f"{v.shots:>3} shots: {v.difference:+.3f} [{v.low:+.3f}, {v.high:+.3f}] against {v.against} - {word} (n {v.n})"
    )


def plot_curves(result: Comparison, metric: str) -> Figure:
    """Plot the cold-start curve: the metric by shots, with 95% bands for the learners."""
    # Imported here: commands that plot nothing should not load a plotting library.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    draw_curves(axes, result.shots, _lines(result, metric))
    axes.set_xlabel("events known of the newcomer")
    axes.set_ylabel(NAMES.get(metric, metric))
    axes.set_title(f"{result.dataset}: the cold-start curve")
    axes.legend(fontsize=7, ncols=2)
    return figure


def _lines(result: Comparison, metric: str) -> list[MethodPoints]:
    """Points of all methods, then of the bounds."""
    return [*result.method_points(metric), *result.bound_points(metric)]


def draw_curves(
    axes: Axes, shots: Sequence[int], methods: Sequence[MethodPoints], colors: Mapping[str, str] | None = None
) -> None:
    """Draw a line for each method, with 95% bands for learners; without `colors` by name, in the default order."""
    positions = range(len(shots))
    for m in methods:
        flagship = m.role == "flagship"
        style = {"flagship": "-", "learner": "--", "baseline": ":", "bound": "-."}[m.role]
        (line,) = axes.plot(
            positions,
            [p.value for p in m.points],
            style,
            label=m.name,
            color=None if colors is None else colors[m.name],
            linewidth=2.5 if flagship else 1.3,
            marker="o",
            markersize=5 if flagship else 3,
        )
        if m.role in ("flagship", "learner"):
            axes.fill_between(
                positions, [p.low for p in m.points], [p.high for p in m.points], alpha=0.12, color=line.get_color()
            )
    axes.set_xticks(list(positions), [str(k) for k in shots])
    axes.grid(alpha=0.25)


def as_png(figure: Figure) -> bytes:
    """Render a figure as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(content, format="png")
    return content.getvalue()


def write_plots(result: Comparison, folder: Path) -> list[Path]:
    """Write the curve of each metric as PNG and SVG, for papers; return the paths."""
    paths = []
    for metric in result.metrics:
        figure = plot_curves(result, metric)
        for suffix in ("png", "svg"):
            content, path = io.BytesIO(), folder / f"cold_start_{metric.replace('@', '_')}.{suffix}"
            figure.savefig(content, format=suffix, dpi=200)
            write_file(path, content.getvalue())
            paths.append(path)
    return paths


def reliability_plot(result: Comparison) -> bytes | None:
    """Plot predicted against observed rates of clicks as PNG, a panel for each number of shots.

    Of the first learner and the best baseline there; None where the objective has no probabilities.
    """
    from matplotlib.figure import Figure

    learners = [m for m in result.methods if m.role != "baseline"][:1]
    if "logloss" not in result.metrics or not learners:
        return None
    figure = Figure(figsize=(3.2 * len(result.shots), 3.4), layout="constrained")
    for axes, k in zip(np.atleast_1d(figure.subplots(1, len(result.shots))), result.shots, strict=True):
        best = result.best_baseline(k, "logloss")
        for m in (*learners, *([best] if best else [])):
            samples = [s for c in m.curves.values() if isinstance(s := c.values[k]["logloss"], RowSample) and len(s)]
            if samples:
                whole = RowSample(
                    *(np.concatenate([getattr(s, f) for s in samples]) for f in ("entity", "value", "label"))
                )
                mean, rate, _ = reliability(whole)
                axes.plot(mean, rate, marker="o", markersize=3, label=m.name)
        axes.plot([0, 1], [0, 1], color="#999", linewidth=0.8)
        axes.set_title(f"{k} shots")
        axes.set_xlabel("predicted")
        axes.legend(fontsize=7)
    return as_png(figure)


def report_page(result: Comparison, command: str, curve: bytes, reliability: bytes | None) -> str:
    """Render the HTML report, with its plots as PNG, as one page that loads nothing from elsewhere."""
    return render_page(
        "report.html.jinja",
        command,
        result=result,
        tables=[(m, lines, best_values(lines, m)) for m in result.metrics for lines in [_lines(result, m)]],
        is_best=is_best,
        costs=COSTS,
        version=__version__,
        spread=_spread(result),
        shrinking=SHRINKING if result.is_catalogue_shrinking else "",
        png=base64.b64encode(curve).decode(),
        reliability=base64.b64encode(reliability or b"").decode(),
        tests=[
            ("Against the best baseline at each point", _learner_tests(result, "baseline")),
            ("Against the same without adapting", _learner_tests(result, "unadapted")),
        ],
        segments=segment_tables(result.tests),
    )


def _learner_tests(result: Comparison, reference: Reference) -> list[NewPairedTest]:
    """Tests of every learner over all newcomers, in the first metric."""
    names = [m.name for m in result.methods if m.role != "baseline"]
    tests = [t for t in result.tests if t.segment is None and t.reference == reference]
    return [t for name in names for t in tests if (t.method, t.metric) == (name, result.metrics[0])]


@dataclass(frozen=True)
class MetricSpread:
    """Spread of a metric over newcomers: for each share of them the values [points] that it lies below."""

    method: str
    rows: list[tuple[float, list[float]]]


def _spread(result: Comparison) -> MetricSpread | None:
    """Spread of the first learner, over all seeds; None without a learner, or where metrics are of rows."""
    learner = next((m for m in result.methods if m.role != "baseline"), None)
    if learner is None:
        return None
    columns = []
    for k in result.shots:
        values = [c.values[k][result.metrics[0]] for c in learner.curves.values()]
        if any(isinstance(v, RowSample) for v in values):
            return None
        scores = np.concatenate([np.asarray(v, np.float64) for v in values])
        scores = scores[np.isfinite(scores)]
        columns.append(np.quantile(scores, _SHARES) if len(scores) else np.full(len(_SHARES), np.nan))
    return MetricSpread(learner.name, [(s, [float(c[i]) for c in columns]) for i, s in enumerate(_SHARES)])


def render_page(template: str, command: str, package: str = __package__, **content: object) -> str:
    """Render a template of a package, which also gets the names of metrics, the command and the time.

    What it includes may lie here as well.
    """
    environment = Environment(autoescape=True, loader=FunctionLoader(lambda name: _read_template(name, package)))
    created = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template(template).render(names=NAMES, command=command, created=created, **content)


def _read_template(name: str, package: str) -> str:
    own = files(package) / name
    return (own if own.is_file() else files(__package__) / name).read_text(encoding="utf-8")


def write_report(result: Comparison, folder: Path, command: str) -> list[Path]:
    """Write cold_start.png, report.html, the tables as report.md and report.tex, and for clicks reliability.png; return
    their paths."""
    curve, reliability = as_png(plot_curves(result, result.metrics[0])), reliability_plot(result)
    titled = [(NAMES.get(metric, metric), metric) for metric in result.metrics]
    files = {
        "cold_start.png": curve,
        "report.html": report_page(result, command, curve, reliability).encode(),
        "report.md": "\n".join(f"**{name}**\n\n{markdown_table(result, m)}" for name, m in titled).encode(),
        "report.tex": "\n".join(f"% {name}\n{latex_table(result, m)}" for name, m in titled).encode(),
    }
    if reliability is not None:
        files["reliability.png"] = reliability
    for name, content in files.items():
        write_file(folder / name, content)
    return [folder / name for name in files]
