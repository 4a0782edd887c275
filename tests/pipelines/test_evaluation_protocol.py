"""Which newcomers a protocol evaluates, and what it is called."""

import json

import numpy as np

from pipelines.experiments.evaluation_protocol import EvaluationProtocol


def test_a_part_of_the_newcomers_is_drawn_by_the_split_alone():
    entities = np.arange(0, 300, 3)
    protocol = EvaluationProtocol(newcomers=20)
    part = protocol.sample(entities, 1)
    assert len(np.unique(part)) == 20 and np.isin(part, entities).all() and (np.diff(part) > 0).all()
    np.testing.assert_array_equal(part, protocol.sample(entities, 1))
    assert not np.array_equal(part, protocol.sample(entities, 2)) and part[-1] > 60
    np.testing.assert_array_equal(EvaluationProtocol(newcomers=100).sample(entities, 1), entities)
    np.testing.assert_array_equal(EvaluationProtocol().sample(entities, 1), entities)


def test_a_comparison_of_some_newcomers_says_so(command, tmp_path):
    words = ("compare", "--dataset", "simulated-users", "--learners", "none", "--baselines", "popularity,recent")
    command(*words, "--shots", "0", "--seeds", "1", "--newcomers", "30", "--json", tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {(r["n"], r["scenario"].rpartition("/")[2]) for r in rows} == {(30, "30-of-them")}
    assert "is not for --scenario items" in command(*words, "--scenario", "items", "--newcomers", "30", code=2)
