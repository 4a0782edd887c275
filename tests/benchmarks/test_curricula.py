"""The benchmark of curricula: every way is trained, and compared with uniform sampling seed by seed."""

import json

import pytest

from benchmarks import curricula
from recsys_meta.data import prepare, simulate_users


def test_a_way_is_compared_seed_by_seed():
    rows = [
        {"way": way, "seed": seed, "value": value}
        for way, values in ((curricula.UNIFORM, (0.4, 0.5, 0.6)), ("other", (0.42, 0.51, 0.63)))
        for seed, value in enumerate(values)
    ]
    found = curricula.less_first(rows, "other", curricula.UNIFORM, "ndcg@10")
    assert found["difference"] == pytest.approx(0.02) and found["seeds"] == 3
    assert found["high"] - 0.02 == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)  # t at two degrees of freedom
    assert curricula.less_first(rows, "other", curricula.UNIFORM, "logloss")["difference"] == pytest.approx(-0.02)


@pytest.mark.slow
def test_remedies_are_compared_with_none_and_their_gap_is_measured(tmp_path):
    prepare(simulate_users(users=80, items=40, events=1200, seed=1).tables, tmp_path / "data")
    file = tmp_path / "out.json"
    small = [word for setting in ("config.dims=4", "train.tasks=8") for word in ("--set", setting)]
    only = [word for name in ("meta-dropout", "meta-regularization") for word in ("--only", name)]
    words = [str(tmp_path / "data"), "--remedies", "--steps", "8", "--validate-steps", "4", "--seeds", "2"]
    curricula.main([*words, *small, *only, "--json", str(file)])
    result = json.loads(file.read_text())
    assert [row["way"] for row in result["rows"][:3]] == [curricula.PLAIN, "meta-dropout", "meta-regularization"]
    assert all(0 < row["value"] < 1 and -1 < row["gap"] < 1 for row in result["rows"])
    assert [row["seeds"] for row in result["paired"]] == [2, 2]


@pytest.mark.slow
def test_every_way_trains(tmp_path, monkeypatch):
    prepare(simulate_users(users=80, items=40, events=1200, seed=1).tables, tmp_path / "data")
    file = tmp_path / "out.json"
    small = [word for setting in ("config.dims=4", "config.towers=1", "train.tasks=8") for word in ("--set", setting)]
    curricula.main([str(tmp_path / "data"), "--steps", "8", "--seeds", "1", *small, "--json", str(file)])
    result = json.loads(file.read_text())
    assert [row["way"] for row in result["rows"]] == list(curricula.ways(8))
    assert all(0 < row["value"] < 1 for row in result["rows"]) and len(result["paired"]) == len(result["rows"]) - 1
