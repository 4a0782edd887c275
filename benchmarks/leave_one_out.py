"""Leave one data set out: constants of a recipe chosen on the other sets, and what they are worth on the one left out.

    for d in A B C; do
        recsys-meta compare --dataset $d --learners flagship --baselines popularity --json shipped/$d.json
        recsys-meta compare --dataset $d ... --set config.dims=32 --json dims-32/$d.json
    done
    python -m benchmarks.leave_one_out shipped dims-32 --json FILE

Each folder holds the results of one variant of the recipe, a file a set; the first is the recipe as it ships. The
variant that is best on the other sets is the one whose gain over the shipped recipe, in percent of its metric averaged
over the points of the curve and the sets, is largest. Printed are, for each set left out, that choice, its gain there,
and the largest gain that any variant has there: what a choice made on the set itself could reach at most.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER

Levels = Mapping[str, float]
"""Mean of the metric over newcomers, seeds and points of the curve, by data set."""


def read_levels(folder: Path) -> tuple[dict[str, float], list[str]]:
    """Levels of the first learner of each file, signed so that more is better, and the commands that made them."""
    levels, commands = {}, []
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        row = next(row for row in result["rows"] if row["role"] in ("flagship", "learner"))
        rows = [r for r in result["rows"] if (r["method"], r["metric"]) == (row["method"], row["metric"])]
        sign = -1.0 if row["metric"] in LOWER_IS_BETTER else 1.0
        levels[row["dataset"]] = sign * float(np.mean([r["value"] for r in rows if r["seed"] is not None]))
        commands.append(result["command"])
    if not levels:
        raise SystemExit(f"{folder}: no results of compare --json")
    return levels, commands


def gains_over(shipped: Levels, variant: Levels) -> dict[str, float]:
    """Gain of a variant over the shipped recipe in percent, by data set. Raises SystemExit where a set is missing."""
    if shipped.keys() != variant.keys():
        raise SystemExit(f"variants have results of other sets: {sorted(shipped.keys() ^ variant.keys())}")
    return {name: 100 * (variant[name] - level) / abs(level) for name, level in shipped.items()}


def leave_out(gains: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Row of each data set: the variant chosen on the others, its gain here, and the largest gain here."""
    rows = []
    for left_out in next(iter(gains.values())):
        mean = {name: np.mean([g for one, g in by_set.items() if one != left_out]) for name, by_set in gains.items()}
        choice, best = max(mean, key=lambda name: mean[name]), max(gains, key=lambda name: gains[name][left_out])
        others = {"chosen_on_others": choice, "gain_on_others": float(mean[choice])}
        here = {"gain": gains[choice][left_out], "best_here": best, "largest_gain": gains[best][left_out]}
        rows.append({"left_out": left_out, **others, **here})
    return rows


def print_rows(gains: Mapping[str, Mapping[str, float]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the gains of all variants, and what a choice on the other sets is worth."""
    sets = list(next(iter(gains.values())))
    print(f"{'gain over shipped, %':24}" + "".join(f"{name:>24}" for name in sets))
    for variant, by_set in gains.items():
        print(f"{variant:24}" + "".join(f"{by_set[name]:>24.2f}" for name in sets))
    for row in rows:
        print(
            f"{row['left_out']}: {row['chosen_on_others']} by the others ({row['gain_on_others']:+.2f}%), "
            f"here {row['gain']:+.2f}%; best here {row['best_here']} {row['largest_gain']:+.2f}%"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the variants' results, choose, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=Path, help="folders of results, the shipped recipe first")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    read = {folder.name: read_levels(folder) for folder in args.variants}
    shipped = read[args.variants[0].name][0]
    gains = {name: gains_over(shipped, levels) for name, (levels, _) in read.items()}
    rows = leave_out(gains)
    print_rows(gains, rows)
    if args.json is not None:
        command = "python -m benchmarks.leave_one_out " + shlex.join(sys.argv[1:] if arguments is None else arguments)
        commands = {name: sorted(some) for name, (_, some) in read.items()}
        content = {"bench": "leave-one-out", "command": command, "commands": commands, "gains": gains, "rows": rows}
        write_file(args.json, dump_json(content, indent=1).encode())


if __name__ == "__main__":
    main()
