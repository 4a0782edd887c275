"""Pages in a browser: drawn, quiet, within reach of the keyboard and of the host alone, on a phone and in the dark."""

from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from recsys_meta.data import prepare_named
from recsys_meta.store.database import engine
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.evaluations import NewEvaluation, save_evaluations
from recsys_meta.store.tracking.paired_tests import NewPairedTest, save_paired_tests
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint
from tests.api import bundles
from tests.api.pages.browser import NARROW, WatchedPage
from tests.api.servers import Served, serving, settings
from tests.fixtures import stub_predictors
from tests.fixtures.migrated_databases import copy_migrated
from tests.fixtures.services import wait

pytestmark = pytest.mark.slow

PAGES = {
    "": 2,
    "runs": 0,
    "runs/finished": 3,
    "runs/eager": 4,
    "runs/compare?run=finished&run=going": 2,
    "models": 0,
    "models/users": 3,
    "adaptations": 4,
    "entities": 0,
    "entities?kind=user&id=v1": 0,
    "items": 0,
    "data": 0,
    "data/simulated-ads": 1,
    "playground?model=users": 0,
    "nope": 0,
}
"""Paths, and how many charts each has at least."""


METHODS = (("maml", "learner", 0.4), ("popularity", "baseline", 0.3), ("ease", "baseline", 0.35))


def curve(version: str) -> list[NewEvaluation]:
    common = {"dataset": "d", "scenario": "s", "metric": "ndcg@10", "seed": None, "n": 9}
    own = {"maml": {"model": "users", "model_version": version}}
    rows = []
    for shots in (0, 1, 5):
        for method, role, start in METHODS:
            value = start + 0.01 * shots
            point = {"role": role, "shots": shots, "value": value, "low": value - 0.02, "high": value + 0.02}
            rows.append(NewEvaluation(method=method, **point, **common, **own.get(method, {})))
    return rows


def paired_rows() -> list[NewPairedTest]:
    point = {"dataset": "d", "scenario": "s", "metric": "ndcg@10", "method": "maml", "against": "ease", "shots": 5}
    figures = {"value": 0.4, "value_against": 0.35, "difference": 0.05, "low": 0.01, "high": 0.09, "p": 0.01}
    test = NewPairedTest(**point, **figures, reference="baseline", verdict="better", seeds=1, n=90)
    return [test, *(replace(test, segment="support popularity", part=part) for part in ("low", "high"))]


def points(run: str, steps: range) -> list[MetricPoint]:
    keys = ("loss", "valid", "valid_on_training", "gradient_norm", "tasks_per_second", "inner_rate")
    return [MetricPoint(run, key, step, 1 / (1 + step)) for key in keys for step in steps]


def fill(url: str, version: str) -> None:
    made = engine.connect(url)
    with engine.session(made) as session:
        save_evaluations(session, curve(version), datetime(2026, 1, 1, tzinfo=UTC))
        save_paired_tests(session, paired_rows(), datetime(2026, 1, 1, tzinfo=UTC))
        for run, rate, name in (("finished", 0.1, "uniform"), ("going", 0.2, "uniform"), ("eager", 0.1, "hardness")):
            common = {"recipe": "maml", "dataset": "d", "learner": "maml", "seed": 0}
            config = {"train": {"rate": rate}, "curriculum": {"name": name}}
            runs.start_run(session, run=run, config=config, **common)
            runs.log_metrics(session, points(run, range(20)))
        buckets = ("decile 01", "decile 10", "stage hard")
        weights = [CurriculumPoint("eager", step, name, 1.5, 0.5) for name in buckets for step in range(4)]
        runs.log_curriculum(session, weights)
        runs.log_curriculum(session, [CurriculumPoint("finished", 5, f"bucket {n}", 0.5, 0.5) for n in (1, 2)])
        runs.set_run_status(session, "finished", "finished")
    made.dispose()


def visit(server: Served) -> None:
    """Newcomers who are shown lists and choose, and an item that is new."""
    server.client.put("/v1/items/fresh", params={"kind": "user"}, json={"title": "A fresh one"}).raise_for_status()
    for n in range(12):
        entity = {"kind": "user", "id": f"v{n}"}
        for item in (f"i{n}", f"i{n + 5}", "fresh"):
            server.client.post("/v1/recommendations", json={"entity": entity}).raise_for_status()
            events = [{"kind": "user", "entity": f"v{n}", "item": item}]
            server.client.post("/v1/events", json={"events": events}).raise_for_status()
    server.flush()
    wait(lambda: server.container.outcomes.waiting == 0)
    server.flush()


@pytest.fixture(scope="module")
def rich(tmp_path_factory, migrated_file, bundle):
    """A server with something to see on every page."""
    home = tmp_path_factory.mktemp("rich")
    url = copy_migrated(migrated_file, f"sqlite:///{home}/rich.db")
    prepare_named("simulated-ads", home / "data" / "simulated-ads")
    with stub_predictors.registered():
        fill(url, bundles.publish(url, home / "models", "users", bundle))
        bundles.publish(url, home / "models", "cities", stub_predictors.visits())
        with serving(settings(home, url)) as made:
            visit(made)
            yield made


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole_in_light_and_dark_wide_and_narrow(chromium, rich: Served, path: str) -> None:
    watched = WatchedPage(chromium, rich.url).open(path)
    points = watched.drawn()
    assert len(points) >= PAGES[path]
    assert all(points), points
    assert watched.complaints() == []
    focusable, reached = watched.reached_by_tab()
    assert reached >= focusable
    assert watched.background() == "rgb(255, 255, 255)"
    watched.page.emulate_media(color_scheme="dark")
    watched.page.set_viewport_size(NARROW)
    assert watched.background() == "rgb(13, 17, 23)"
    assert watched.overflow() <= 0
    assert watched.complaints() == []
    watched.close()


def test_the_curves_of_a_run_grow_while_it_goes_on(chromium, rich: Served) -> None:
    watched = WatchedPage(chromium, rich.url).open("runs/going")
    before = watched.drawn()[0]
    database = rich.container.database.engine
    with engine.session(database) as session:
        runs.log_metrics(session, points("going", range(20, 25)))
    grown = "n => Number(document.getElementById('chart-loss').dataset.drawn) > n"
    watched.page.wait_for_function(grown, arg=before, timeout=20_000)
    with engine.session(database) as session:
        runs.set_run_status(session, "going", "stopped", reason="enough")
    watched.page.wait_for_function("() => document.getElementById('run-status').textContent === 'stopped'")
    assert watched.page.inner_text("#run-reason") == "enough"
    with engine.session(database) as session:
        runs.set_run_status(session, "going", "running")
    watched.close()


def test_an_item_is_hidden_and_an_entity_erased_by_keyboard(chromium, rich: Served) -> None:
    watched = WatchedPage(chromium, rich.url).open("items")
    watched.page.get_by_role("button", name="Hide A fresh one").press("Enter")
    watched.page.get_by_role("button", name="Show A fresh one").press("Enter")
    watched.page.get_by_role("button", name="Hide A fresh one").wait_for()
    watched.open("entities")
    watched.page.get_by_label("Kind").select_option("user")
    watched.page.get_by_label("Id").fill("v9")
    watched.page.keyboard.press("Enter")
    watched.page.get_by_label("Type the id").fill("v9")
    watched.page.keyboard.press("Enter")
    watched.page.get_by_role("heading", name="Erased").wait_for()
    watched.close()
    assert httpx.get(f"{rich.url}/v1/entities/user/v9").status_code == 404


def test_a_key_is_asked_for_and_forgotten(chromium, home, light: str) -> None:
    with serving(settings(home, light, keys="reader-key:read")) as server:
        watched = WatchedPage(chromium, server.url).open("models?x=1")
        watched.page.keyboard.type("wrong")
        watched.page.keyboard.press("Enter")
        watched.page.get_by_role("alert").wait_for()
        assert watched.complaints() == []
        watched.page.get_by_label("API key").fill("reader-key")
        watched.page.keyboard.press("Enter")
        watched.page.get_by_role("heading", name="Models").wait_for()
        assert watched.page.evaluate("document.cookie") == ""
        (cookie,) = watched.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["path"] == "/ui"
        watched.page.get_by_role("button", name="Log out").press("Enter")
        watched.page.get_by_label("API key").wait_for()
        assert watched.context.cookies() == []
        watched.close()
