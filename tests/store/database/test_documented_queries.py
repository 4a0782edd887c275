"""Every query of docs/database.md runs on either database, and says what it promises to say."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from recsys_meta.store.database.engine import reading, session
from recsys_meta.store.entities import outcomes
from recsys_meta.store.model_registry import registry
from recsys_meta.store.model_registry.lifecycle import retire_model
from recsys_meta.store.schema_check import VIEWS
from recsys_meta.store.tables import METADATA
from recsys_meta.store.tracking import runs
from tests.store.database.documented_columns import column_tables, documented
from tests.store.samples import a_run, an_outcome, later

DOCUMENT = (Path(__file__).parents[3] / "docs" / "database.md").read_text()
QUERIES = [part.strip() for part in "".join(re.findall(r"```sql\n(.*?)```", DOCUMENT, re.S)).split(";") if part.strip()]


def query(words: str) -> str:
    (found,) = (one for one in QUERIES if words in one)
    return found.replace("'...'", ":model")


def test_every_query_runs(engine: Engine) -> None:
    assert len(QUERIES) > 10
    for one in QUERIES:
        with reading(engine) as s:
            s.execute(text(one)).all()


def test_every_table_and_view_is_described(engine: Engine) -> None:
    described = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENT, re.M))))
    assert described >= set(METADATA.tables) | set(VIEWS)
    assert set(VIEWS) == set(inspect(engine).get_view_names())


def test_the_columns_are_those_of_the_database(engine: Engine) -> None:
    words = "python -m tests.store.database.documented_columns"
    assert documented(DOCUMENT) == column_tables(engine), f"docs/database.md is not current: {words}"


def test_the_answers_about_adapting(engine: Engine) -> None:
    with session(engine) as s:
        told = [(0, 2.0, 2.0), (1, 1.0, 2.0), (1, 2.0, 2.0), (3, 3.0, 2.0), (3, 4.0, 2.0), (3, 3.5, 2.0)]
        rows = [
            an_outcome(
                f"e{n}", entity=f"u{size}", support_size=size, loss=loss, loss_unadapted=before, created=later(n)
            )
            for n, (size, loss, before) in enumerate(told)
        ]
        lists = [
            an_outcome(f"l{n}", loss=None, loss_unadapted=None, impression=1, hit_1=0.0, hit_5=0.0, hit_10=hit)
            ._replace(popular_hit_10=0.0, reciprocal_rank=0.2, model="lists")
            for n, hit in enumerate((1.0, 0.0, 1.0, 1.0))
        ]  # fmt: skip
        # Events of which only one of two figures is known count for neither.
        unsure = [
            an_outcome("one loss", entity="u1", support_size=1, loss=1.0, loss_unadapted=None, created=later(9)),
            lists[0]._replace(event_id="no rank by popularity", popular_hit_10=None, hit_10=0.0),
            lists[0]._replace(event_id="no loss", model="m", support_size=1),
        ]
        outcomes.save_outcomes(s, [*rows, *lists, *unsure])
    with reading(engine) as s:
        helped = s.execute(text(query("Did adapting help")), {"model": "m"}).all()
        assert [(row.support_size, row.events, float(row.gain)) for row in helped] == [
            (0, 1, 0.0),
            (1, 2, 0.5),
            (3, 3, pytest.approx(-1.5)),
        ]
        (worst,) = s.execute(text(query("Whom did it not help")), {"model": "m"}).all()
        assert (worst.entity, worst.events, worst.gain) == ("u3", 3, pytest.approx(-1.5))
        (beside,) = s.execute(text(query("better than popularity")), {"model": "lists"}).all()
        assert (beside.events, beside.hit_10, beside.by_popularity) == (4, 0.75, 0.0)


def test_what_is_live_names_its_run_and_its_settings(engine: Engine) -> None:
    with session(engine) as s:
        for n, run in enumerate(("old", "new")):
            a_run(s, run, seed=n, config={"lr": n})
            registry.publish_version(s, "m", f"v-{run}", "/", run=run, now=later(n))
        registry.publish_version(s, "without a run", "w", "/", now=later(5))
        registry.publish_version(s, "retired", "x", "/", now=later(6))
        retire_model(s, "retired")
    with reading(engine) as s:
        live = s.execute(text(query("Which run and which settings"))).all()
        digest = runs.get_run(s, "new").config_digest
    assert [(row.model, row.version, row.run, row.seed, row.config_digest) for row in live] == [
        ("m", "v-new", "new", 1, digest),
        ("without a run", "w", None, None, None),
    ]
