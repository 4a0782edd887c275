"""The README's first command."""

import json

import pytest

from pipelines.workspace import Workspace
from recsys_meta.store.settings import Settings
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.promotion_gate import check_promotion


@pytest.mark.slow
@pytest.mark.timeout(600)  # the whole walk: five minutes on two cores that others use too
def test_quickstart_walks_from_data_to_a_live_model_without_data_or_servers(command, tmp_path):
    text = command("quickstart", "--dataset", "simulated-users", "--out", tmp_path)
    assert "nDCG@10" in text and "flagship" in text and "popularity" in text
    assert "What to type next" in text and "recsys-meta serve" in text
    assert "is live" in text
    assert json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (tmp_path / "report.html").is_file()
    models = command.json("models", "list")
    assert any(m["name"] == "flagship-simulated-users" and m["live"] for m in models)
    (model,) = (m for m in models if m["name"] == "flagship-simulated-users")
    settings = Settings(home=command.home, database_url="", redis_url="", api_keys="")
    with Workspace(settings).reading() as session:
        rows = evaluations.page_evaluations(session, model=model["name"], limit=1000).items
        assert {r.model_version for r in rows} == {model["live"]} and {r.method for r in rows} == {"flagship"}
        found = check_promotion(session, model["name"], model["live"])
    written = {
        r["shots"]: r["value"]
        for r in json.loads((tmp_path / "results.json").read_text())["rows"]
        if (r["method"], r["metric"], r["seed"]) == ("popularity", "ndcg@10", None)
    }
    assert found is not None and (found.metric, found.baseline) == ("ndcg@10", "popularity")
    assert found.points == len(written) and abs(found.theirs - sum(written.values()) / len(written)) < 1e-9
