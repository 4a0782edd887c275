"""Sizes of methods that are added to results that lack them."""

import json

import pytest

from benchmarks import method_sizes
from recsys_meta.data import prepare, simulate_users


@pytest.mark.parametrize("indented", [True, False])
def test_sizes_are_added_to_learners_and_all_else_stays(tmp_path, indented):
    prepare(simulate_users(users=80, items=40, events=1200, seed=1).tables, tmp_path / "data")
    rows = [{"method": "maml", "value": 0.5}, {"method": "maml", "value": 0.25}]
    methods = [{"method": "popularity"}, {"method": "maml", "train_seconds": 2.0}, {"method": "lwa", "parameters": 7}]
    before = {"command": "recsys-meta compare ...", "rows": rows, "methods": methods}
    file = tmp_path / "results.json"
    lines = [f'"{k}": ' + (json.dumps(v) if k == "command" else "[]") for k, v in before.items()]
    file.write_text(json.dumps(before, indent=1) if indented else method_sizes._laid_out(before, like="\n".join(lines)))
    method_sizes.main([str(tmp_path / "data"), "--json", str(file)])
    text = file.read_text()
    result = json.loads(text)
    maml = result["methods"][1]
    assert maml["parameters"] > 1000 and maml["state_bytes"] > 100 and maml["train_seconds"] == 2.0
    assert (result["methods"][0], result["methods"][2], result["rows"]) == (methods[0], methods[2], rows)
    assert '{"method": "maml", "value": 0.25}' in text.splitlines() or indented
    assert result["sizes"].endswith("results.json")
