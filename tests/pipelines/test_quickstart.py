"""The README's first command."""

import json


def test_quickstart_walks_from_data_to_a_live_model_without_data_or_servers(command, tmp_path):
    text = command("quickstart", "--dataset", "simulated-users", "--out", tmp_path)
    assert "nDCG@10" in text and "flagship" in text and "popularity" in text
    assert "What to type next" in text and "recsys-meta serve" in text
    assert "is live" in text
    assert json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (tmp_path / "report.html").is_file()
    models = command.json("models", "list")
    assert any(m["name"] == "flagship-simulated-users" and m["live"] for m in models)
