"""Tables of the docs that are generated from results."""

import pytest

from benchmarks import method_tables


def test_tables_in_the_docs_are_those_of_the_results():
    assert method_tables.stale_pages() == {}, "python -m benchmarks.method_tables --write"


def test_a_table_has_the_best_first_and_costs():
    values = {"near": (0.5, 0.25), "far": (0.75, 0.5)}
    rows = [
        {"method": name, "seed": seed, "shots": shots, "metric": "logloss", "value": value}
        for name, points in values.items()
        for shots, value in zip((0, 3), points, strict=True)
        for seed in (None, 0)
    ]
    methods = [{"method": "near", "seconds": 2.4, "parameters": 1200, "state_bytes": 30}, {"method": "far"}]
    expected = [
        "| logloss | 0 | 3 | seconds | parameters | bytes of a state |",
        "|---|---|---|---|---|---|",
        "| near | **0.500** | **0.250** | 2 | 1,200 | 30 |",
        "| far | 0.750 | 0.500 | - | - | - |",
        "| none | failed | - | - | - | - |",
    ]
    result = {"rows": rows, "methods": methods, "failed": [{"method": "none", "seed": 0, "reason": "no memory"}]}
    assert method_tables.method_table(result).splitlines() == expected
    higher = {"rows": [{**r, "metric": "ndcg@10"} for r in rows], "methods": []}
    assert method_tables.method_table(higher).splitlines()[2].startswith("| far |")


def test_parts_of_a_comparison_are_one_table_and_others_are_refused():
    def part(names, scenario="new", seconds="seconds"):
        rows = [
            {"dataset": "d", "scenario": scenario, "method": n, "seed": None, "shots": 0, "metric": "auc", "value": 0.5}
            for n in names
        ]
        return {"rows": rows, "methods": [{"method": n, seconds: 3.0} for n in names]}

    one = method_tables.merged([part(["near", "popularity"]), part(["far", "popularity"], seconds="train_seconds")])
    assert method_tables.method_table(one).splitlines() == [
        "| auc | 0 | seconds |",
        "|---|---|---|",
        *(f"| {name} | **0.500** | 3 |" for name in ("near", "popularity", "far")),
    ]
    with pytest.raises(ValueError, match="same data"):
        method_tables.merged([part(["near"]), part(["far"], scenario="corners")])


def test_curves_of_a_page_stand_beside_those_of_the_flagship_and_of_popularity():
    rows = [
        {"method": name, "seed": None, "shots": shots, "metric": "ndcg@10", "value": value}
        for name, value in (("popularity", 0.25), ("near", 0.5), ("flagship", 0.75), ("far", 0.125))
        for shots in (0, 3)
    ]
    assert method_tables.curve_table({"rows": rows[:-1], "methods": []}, ["near", "far"]).splitlines() == [
        "| ndcg@10 | 0 | 3 |",
        "|---|---|---|",
        "| near | 0.500 | 0.500 |",
        "| far | 0.125 | - |",
        "| flagship | 0.750 | 0.750 |",
        "| popularity | 0.250 | 0.250 |",
    ]
    with pytest.raises(KeyError):
        method_tables.curve_table({"rows": rows, "methods": []}, ["nowhere"])
