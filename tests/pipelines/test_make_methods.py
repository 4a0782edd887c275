"""`make methods` and `make methods-full`, as the Makefile has them, cut down to two small trainings."""

import json
import shlex
import shutil
import subprocess
from collections import Counter

import pytest

from tests.contract.naming import ROOT

TINY = ("--learners", "maml,fomaml", "--baselines", "popularity", "--seeds", "1", "--newcomers", "20", "--threads", "1")
TINY += ("--shots", "0,3", "--set", "train.most_steps=2", "--set", "train.validate_steps=1")


def words_of(target: str) -> list[str]:
    """Words of the one command of recsys-meta that a target of the Makefile runs."""
    printed = subprocess.run(
        ["make", "-n", target, "DATASET=simulated-users"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = (line for line in printed.splitlines() if "recsys-meta compare" in line)
    return shlex.split(line)[1:]


def trained(command) -> Counter[str]:
    return Counter(row["recipe"] for row in command.json("runs", "list"))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", ["methods", "methods-full"])
def test_every_method_is_in_one_table_and_what_is_trained_is_not_trained_again(command, target, tmp_path):
    words, file = words_of(target), tmp_path / "methods.json"
    for option, value in (("--learners", "all"), ("--seeds", "3")):
        assert words[words.index(option) + 1] == value
    assert f"benchmarks/results/simulated-users-{target.replace('-full', '')}" in words[words.index("--json") + 1]
    before = trained(command)
    # Of an option that is given twice the last one counts.
    command(*words, *TINY, "--learners", "maml", "--json", file)
    command(*words, *TINY, "--json", file)
    assert trained(command) - before == {"maml": 1, "fomaml": 1}
    result = json.loads(file.read_text())
    assert {m["method"] for m in result["methods"]} == {"maml", "maml-unadapted", "fomaml", "popularity"}
    costs = next(m for m in result["methods"] if m["method"] == "fomaml")
    assert costs["seconds"] > 0 and costs["parameters"] > 0 and costs["state_bytes"] > 0
