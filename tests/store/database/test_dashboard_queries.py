"""The queries of the dashboard of online quality run on PostgreSQL, over the views that it names."""

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import outcomes
from tests.store.samples import an_outcome

FILE = Path(__file__).parents[3] / "docs" / "deploy" / "grafana" / "dashboards" / "online-quality.json"
DASHBOARD = json.loads(FILE.read_text())
PANELS = {panel["title"]: panel["targets"][0]["rawSql"] for panel in DASHBOARD["panels"]}
TIMES = {"$__timeFrom()": "'2000-01-01T00:00:00Z'", "$__timeTo()": "'2100-01-01T00:00:00Z'", "$model": "m"}


def filled_in(sql: str) -> str:
    return re.sub(r"\$\w+(\(\))?", lambda match: TIMES[match[0]], sql)


@pytest.mark.parametrize("title", PANELS)
def test_every_panel_has_a_query_that_runs(engine: Engine, title: str) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("Grafana reads PostgreSQL")
    with session(engine) as s:
        rows = [an_outcome(f"e{n}", entity=f"u{n}", support_size=n % 3, loss=1.0, loss_unadapted=1.5) for n in range(6)]
        outcomes.save_outcomes(s, rows)
    with reading(engine) as s:
        found = s.execute(text(filled_in(PANELS[title]))).mappings().all()
    if title.startswith("Gain of adapting"):
        assert [float(row["value" if "day" in title else "gain"]) for row in found] == [0.5] * len(found)
        assert found


def test_its_variable_lists_models(engine: Engine) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    with reading(engine) as s:
        assert s.execute(text(variable["query"])).all() == []
