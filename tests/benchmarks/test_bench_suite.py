"""The table of all benchmarks: every row of each, and in words what was not measured."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import bench_suite, preparing
from benchmarks.bench_suite import BenchRun, SuiteResult, run_suite, table_lines
from benchmarks.scale_data import make

ROW = {"case": "c", "system": "s", "value": 1234567.0, "unit": "1/s", "ratio": None, "reference": ""}


def test_rows_stand_side_by_side_and_remarks_are_kept():
    result = SuiteResult()
    result.add("a", {"rows": [ROW, {**ROW, "ratio": 0.5, "reference": "r"}], "learn2learn": "not installed"})
    head, first, second = table_lines(result.rows)
    assert head.split() == list(bench_suite.COLUMNS)
    assert first.split() == ["a", "c", "s", "1.235e+06", "1/s"] and second.split()[5:] == ["0.5", "r"]
    assert result.remarks == ["a: learn2learn: not installed"]


@pytest.mark.slow
def test_one_that_fails_is_said_with_its_reason_and_the_others_go_on(tmp_path):
    runs = [
        BenchRun("broken", "benchmarks.preparing", ("--no-such-option",)),
        BenchRun("gpu", "benchmarks.gpu", ("--device", "meta-device")),
    ]
    result = run_suite(runs, {}, tmp_path)
    assert result.rows == [] and len(result.remarks) == 2
    assert result.remarks[0].startswith("broken: failed with status 2: ") and "--no-such-option" in result.remarks[0]


def test_every_benchmark_exists_and_has_a_name_of_its_own():
    assert len({run.name for run in bench_suite.RUNS}) == len(bench_suite.RUNS)
    folders = {"ratings": "r", "users": "u", "bundle": "b"}
    for run in bench_suite.RUNS:
        assert run.command(folders, "file")[:3] == [sys.executable, "-m", run.module]
        assert "{" not in "".join(map(str, run.command(folders, "file")))


@pytest.mark.parametrize("system", preparing.SYSTEMS)
def test_every_system_has_the_same_events_and_entities(system, tmp_path):
    if system == "duckdb":
        pytest.importorskip("duckdb")
    make(tmp_path, 3000, 100, 100)
    found = preparing.SYSTEMS[system](tmp_path, tmp_path / system)
    assert found == preparing.SYSTEMS["pandas"](tmp_path, tmp_path / "reference")
    assert json.dumps(found)
