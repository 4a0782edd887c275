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


def test_steps_and_time_to_the_same_quality_are_compared():
    """Uniform rises from 0 to 10 and is at nine tenths of it at step 30; the way is there at 20, but takes twice as
    long: in uniform's time it makes 20 of its 40 steps."""
    course = {curricula.UNIFORM: (0, 4, 9.5, 10), "other": (1, 9.2, 9.4, 12)}
    rows = [
        {
            "way": way,
            "seed": 0,
            "value": 0.5,
            "cpu_seconds": cost,
            "validations": [[10 * (i + 1), v] for i, v in enumerate(c)],
        }
        for (way, c), cost in zip(course.items(), (4.0, 8.0), strict=True)
    ]
    found = curricula.less_first(rows, "other", curricula.UNIFORM, "ndcg@10")
    assert found["steps_saved"]["difference"] == 10
    assert found["at_equal_time"]["difference"] == pytest.approx(9.2 - 10)
    rows[1]["validations"][1:] = [[20, 2], [30, 3], [40, 4]]
    found = curricula.less_first(rows, "other", curricula.UNIFORM, "ndcg@10")
    assert found["steps_saved"]["difference"] == 30 - 50, "never there: one interval beyond the last"


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
