"""The benchmark of studies that take over from earlier ones."""

import json

import pytest

pytest.importorskip("optuna")

from benchmarks import tuning_transfer
from recsys_meta.data import prepare, simulate_users


@pytest.mark.slow
def test_a_study_with_an_earlier_one_tries_its_best_second(tmp_path):
    for name, users in (("first", 90), ("second", 80)):
        prepare(simulate_users(users=users, items=40, events=1200, seed=users).tables, tmp_path / name)
    file = tmp_path / "out.json"
    words = ["--earlier", "3", "--trials", "2", "--steps", "4", "--seeds", "1", "--set", "train.validate_steps=2"]
    tuning_transfer.main([str(tmp_path / "first"), str(tmp_path / "second"), *words, "--json", str(file)])
    (row,) = json.loads(file.read_text())["rows"]
    assert row["warm"]["origins"] == ["recipe", "like first"] and row["warm"]["like"][0]["distance"] < 1.5
    assert "like first" not in row["cold"]["origins"] and row["cold"]["like"] == []
    assert row["warm"]["values"][0] == row["cold"]["values"][0], "both begin with the recipe"
    assert row["warm"]["best"] == [row["warm"]["values"][0], max(row["warm"]["values"])]
    assert len(row["earlier"]["values"]) == 3
