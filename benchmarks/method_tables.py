"""Tables of methods in the docs, generated from results of `compare --json`.

    python -m benchmarks.method_tables --write

A page holds `<!-- methods: NAME -->`, where NAME is a file of benchmarks/results, and behind it the table of that file
up to `<!-- end -->`: the first metric by number of events, best mean first, and what each method costs.
`<!-- curve: NAME METHOD ... -->` is the place of the curves of some methods beside those of the flagship and of
popularity. Without --write the pages that differ are named.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from recsys_meta.core.atomic_io import write_file
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"<!-- methods: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
CURVE = re.compile(r"<!-- curve: (\S+) ([^>]+?) -->\n(.*?)<!-- end -->", re.DOTALL)
BESIDE = ("flagship", "popularity")
"""Methods that stand beside each curve."""


def method_table(result: Mapping[str, Any]) -> str:
    """Markdown table of the methods of one comparison: mean over seeds of the first metric, and their costs."""
    metric, shots, curves = _curves(result)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    costs = {m["method"]: m for m in result["methods"]}
    best = [max((c[k] for c in curves.values() if k in c), key=lambda v: sign * v) for k in shots]
    lines = [f"| {metric} | {' | '.join(map(str, shots))} | seconds | parameters | bytes of a state |"]
    lines.append("|---" * (len(shots) + 4) + "|")
    for name in sorted(curves, key=lambda name: -sign * fmean(curves[name].values())):
        values = [_cell(curves[name].get(k), best[i]) for i, k in enumerate(shots)]
        numbers = [_number(costs.get(name, {}).get(key)) for key in ("seconds", "parameters", "state_bytes")]
        lines.append(f"| {name} | {' | '.join([*values, *numbers])} |")
    return "\n".join(lines) + "\n"


def curve_table(result: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Markdown table of the curves of some methods, and of BESIDE. Raises KeyError for one that the result lacks."""
    metric, shots, curves = _curves(result)
    lines = [f"| {metric} | {' | '.join(map(str, shots))} |", "|---" * (len(shots) + 1) + "|"]
    for name in [*methods, *(other for other in BESIDE if other in curves and other not in methods)]:
        lines.append(f"| {name} | {' | '.join(_cell(curves[name].get(k), None) for k in shots)} |")
    return "\n".join(lines) + "\n"


def _curves(result: Mapping[str, Any]) -> tuple[str, list[int], dict[str, dict[int, float]]]:
    """First metric of a result, its numbers of shots, and the mean over seeds by method and number of shots."""
    rows = [r for r in result["rows"] if r["seed"] is None]
    metric, curves = rows[0]["metric"], dict[str, dict[int, float]]()
    for row in rows:
        if row["metric"] == metric:
            curves.setdefault(row["method"], {})[row["shots"]] = row["value"]
    return metric, sorted({r["shots"] for r in rows}), curves


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "-"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def page_with_tables(text: str) -> str:
    """Text of a page with each of its tables as the results have it. Raises FileNotFoundError for a wrong name."""

    def table(place: re.Match[str]) -> str:
        result = json.loads((RESULTS / place[1]).read_text(encoding="utf-8"))
        return f"<!-- methods: {place[1]} -->\n\n{method_table(result)}\n<!-- end -->"

    def curves(place: re.Match[str]) -> str:
        result = json.loads((RESULTS / place[1]).read_text(encoding="utf-8"))
        table_of_curves = curve_table(result, place[2].split())
        return f"<!-- curve: {place[1]} {place[2]} -->\n\n{table_of_curves}\n<!-- end -->"

    return CURVE.sub(curves, PLACE.sub(table, text))


def stale_pages() -> dict[Path, str]:
    """Pages of the docs whose tables are not those of the results, and their text with these."""
    pages = {p: p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").rglob("*.md"))}
    return {p: new for p, text in pages.items() if (new := page_with_tables(text)) != text}


def main(words: Sequence[str] | None = None) -> None:
    """Write the tables, or name the pages that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(words)
    for page, text in stale_pages().items():
        print(page.relative_to(ROOT))
        if given.write:
            write_file(page, text.encode())


if __name__ == "__main__":
    main()
