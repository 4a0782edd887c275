"""Tables of a comparison for papers and notes: Markdown and LaTeX, with the best value of each column in bold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from pipelines.experiments.comparison import Comparison, MethodPoints
from recsys_meta.metrics.metric_names import LOWER_IS_BETTER

_LATEX_SPECIAL = re.compile(r"([&%$#_{}])")


def best_values(methods: Sequence[MethodPoints], metric: str) -> list[float]:
    """Return the best value of each point among methods that are no bounds; NaN where none has one."""
    pick = min if metric in LOWER_IS_BETTER else max
    columns = zip(*([p.value for p in m.points] for m in methods if m.role != "bound"), strict=True)
    return [pick((v for v in column if math.isfinite(v)), default=math.nan) for column in columns]


def is_best(value: float, best: float) -> bool:
    """Return whether a value is the best of its column, as it is printed."""
    return math.isfinite(value) and f"{value:.3f}" == f"{best:.3f}"


def markdown_table(result: Comparison, metric: str) -> str:
    """Return the table of a metric in Markdown: methods by events known of the newcomer."""
    head = ["events known", *map(str, result.shots)]
    lines = [head, ["---", *("---:" for _ in result.shots)], *_rows(result, metric, "**{}**", lambda text: text)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex_table(result: Comparison, metric: str) -> str:
    """Return the table of a metric in LaTeX, for the package booktabs."""
    head = " & ".join(["events known", *map(str, result.shots)])
    rows = "".join(f"{' & '.join(line)} \\\\\n" for line in _rows(result, metric, r"\textbf{{{}}}", _escape_latex))
    columns = "l" + "r" * len(result.shots)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head} \\\\\n\\midrule\n{rows}\\bottomrule\n\\end{{tabular}}\n"


def _rows(result: Comparison, metric: str, bold: str, escape: Callable[[str], str]) -> list[list[str]]:
    methods = result.method_points(metric)
    best = best_values(methods, metric)
    return [
        [escape(m.name), *(_cell(p.value, is_best(p.value, b), bold) for p, b in zip(m.points, best, strict=True))]
        for m in methods
    ]


def _cell(value: float, is_bold: bool, bold: str) -> str:
    text = f"{value:.3f}" if math.isfinite(value) else "-"
    return bold.format(text) if is_bold else text


def _escape_latex(text: str) -> str:
    return _LATEX_SPECIAL.sub(r"\\\1", text)
