"""Tables of methods in the docs, generated from results of `compare --json`.

    python -m benchmarks.method_tables --write

A page holds `<!-- methods: NAME -->`, where NAME is a file of benchmarks/results, and behind it the table of that file
up to `<!-- end -->`: the first metric by number of events, best mean first, and what each method costs. NAME+NAME are
files of one comparison that was run in parts, on the same episodes. `<!-- curve: NAME METHOD ... -->` is the place of
the curves of some methods beside those of the flagship and of popularity. Without --write the pages that differ are
named.
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
BESIDE = ("flagship", "flagship-click", "flagship-choice", "flagship-rating", "popularity")
"""Methods that stand beside each curve, where a result has them."""
COSTS = {
    "seconds": ("seconds", "train_seconds"),
    "CPU s": ("processor_seconds",),
    "parameters": ("parameters",),
    "bytes of a state": ("state_bytes",),
}
"""Columns of costs, and the keys that they have in results of this and of earlier versions."""


def method_table(result: Mapping[str, Any]) -> str:
    """Markdown table of the methods of one comparison: mean over seeds of the first metric, and their costs."""
    metric, shots, curves = _curves(result)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    costs = {m["method"]: m for m in result["methods"]}
    known = [title for title, keys in COSTS.items() if any(_cost(m, keys) is not None for m in costs.values())]
    best = [max((c[k] for c in curves.values() if k in c), key=lambda v: sign * v) for k in shots]
    lines = [f"| {' | '.join([metric, *map(str, shots), *known])} |", "|---" * (len(shots) + len(known) + 1) + "|"]
    for name in sorted(curves, key=lambda name: -sign * fmean(curves[name].values())):
        values = [_cell(curves[name].get(k), best[i]) for i, k in enumerate(shots)]
        numbers = [_number(_cost(costs.get(name, {}), COSTS[title])) for title in known]
        lines.append(f"| {name} | {' | '.join([*values, *numbers])} |")
    for failure in result.get("failed", ()):
        lines.append(f"| {failure['method']} | {' | '.join(['failed', *['-'] * (len(shots) + len(known) - 1)])} |")
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


def merged(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result of several parts of a comparison: the methods of the first, then what others have beside them.

    Raises ValueError where data, scenario, seeds or points differ, since the episodes are then others.
    """
    rows, methods, failed, names = [], [], [], set[str]()
    places = [{(r["dataset"], r["scenario"], r["seed"], r["shots"]) for r in result["rows"]} for result in results]
    if any(place != places[0] for place in places):
        raise ValueError("parts of a comparison must have the same data, scenario, seeds and points")
    for result in results:
        rows += [row for row in result["rows"] if row["method"] not in names]
        methods += [m for m in result["methods"] if m["method"] not in names]
        failed += [f for f in result.get("failed", ()) if f["method"] not in names]
        names |= {row["method"] for row in result["rows"]}
    return {"rows": rows, "methods": methods, "failed": failed}


def _read(names: str) -> dict[str, Any]:
    return merged([json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in names.split("+")])


def _cost(method: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    return next((method[key] for key in keys if method.get(key)), None)  # 0 of an earlier version: not measured


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "-"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def page_with_tables(text: str) -> str:
    """Text of a page with each of its tables as the results have it. Raises FileNotFoundError for a wrong name."""

    def table(place: re.Match[str]) -> str:
        result = _read(place[1])
        return f"<!-- methods: {place[1]} -->\n\n{method_table(result)}\n<!-- end -->"

    def curves(place: re.Match[str]) -> str:
        result = _read(place[1])
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
