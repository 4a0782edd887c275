"""`benchmarks.leave_one_out`: a variant is chosen on the other sets only, and lower is better for a loss."""

import json

import pytest

from benchmarks.leave_one_out import main


def write_result(folder, dataset, metric, values):
    folder.mkdir(exist_ok=True)
    rows = [
        {"dataset": dataset, "method": method, "role": role, "metric": metric, "shots": k, "seed": seed, "value": v}
        for method, role, by_point in (("popularity", "baseline", [0.5, 0.5]), ("flagship", "flagship", values))
        for k, v in enumerate(by_point)
        for seed in (0, None)
    ]
    (folder / f"{dataset}.json").write_text(json.dumps({"command": f"compare {dataset}", "rows": rows}))


@pytest.fixture
def folders(tmp_path):
    shipped, small, slow = (tmp_path / name for name in ("shipped", "small", "slow"))
    for dataset, metric, by_folder in (
        ("a", "ndcg@10", {shipped: [0.4, 0.4], small: [0.5, 0.5], slow: [0.4, 0.42]}),
        ("b", "ndcg@10", {shipped: [0.2, 0.2], small: [0.2, 0.2], slow: [0.2, 0.21]}),
        ("c", "logloss", {shipped: [0.5, 0.5], small: [0.6, 0.6], slow: [0.48, 0.48]}),
    ):
        for folder, values in by_folder.items():
            write_result(folder, dataset, metric, values)
    return [str(shipped), str(small), str(slow)]


def test_the_choice_for_a_set_does_not_look_at_that_set(folders, tmp_path, capsys):
    out = tmp_path / "out.json"
    main([*folders, "--json", str(out)])
    rows = {row["left_out"]: row for row in json.loads(out.read_text())["rows"]}
    # On b and c "slow" gains 2.5 and 4%, "small" 0 and -20; here, where "small" would gain a quarter, it gains 2.5.
    assert (rows["a"]["chosen_on_others"], rows["a"]["best_here"]) == ("slow", "small")
    assert rows["a"]["gain"] == pytest.approx(2.5) and rows["a"]["largest_gain"] == pytest.approx(25)
    # On a and b "small" gains 12.5% on average and is chosen; a log-loss of .6 instead of .5 is 20% worse.
    assert (rows["c"]["chosen_on_others"], rows["c"]["gain"]) == ("small", pytest.approx(-20))
    assert "c: small by the others" in capsys.readouterr().out


def test_a_variant_without_a_set_is_an_error(folders, tmp_path):
    (tmp_path / "small" / "b.json").unlink()
    with pytest.raises(SystemExit, match="'b'"):
        main(folders)
