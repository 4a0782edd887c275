"""Each page: the figures that stand in the database, and nothing that a browser would run."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from api.pages import page_context
from api.pages.page_context import page_scope
from api.pages.page_route import PageRoute
from recsys_meta.store.database import engine
from recsys_meta.store.entities.adaptations import NewAdaptation, save_adaptations
from recsys_meta.store.entities.outcomes import NewOutcome, save_outcomes
from recsys_meta.store.tracking import runs
from recsys_meta.store.tracking.evaluations import NewEvaluation, copy_evaluations, save_evaluations
from recsys_meta.store.tracking.paired_tests import NewPairedTest, save_paired_tests
from recsys_meta.store.tracking.runs import CurriculumPoint, MetricPoint
from tests.api import bundles
from tests.api.pages.conftest import BROWSER, browser_of, meta_token
from tests.api.servers import Served, serving, settings

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2036, 1, 1, tzinfo=UTC)
NEWEST = datetime(2037, 1, 1, tzinfo=UTC)
PAGES = ("", "runs", "runs/compare", "models", "models/users", "adaptations", "entities", "items", "data")


def store(url: str, work) -> None:
    made = engine.connect(url)
    with engine.session(made) as session:
        work(session)
    made.dispose()


def get(server: Served, path: str, status: int = 200) -> str:
    page = server.client.get(f"/ui/{path}", headers=BROWSER)
    assert page.status_code == status, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert_inert(page.text)
    return page.text


def assert_inert(text: str) -> None:
    """Nothing in a page is a script of its own, a style of its own or of another host."""
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://", text)
    assert not re.findall(r"<script[^>]*>[^<]", text)


def charts_of(text: str) -> list[dict]:
    return [orjson.loads(raw) for raw in re.findall(r"data-chart='([^']*)'", text)]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_before_there_is_anything(users_server: Served, path: str) -> None:
    assert "<h1" in get(users_server, path)


def test_other_paths_are_pages_as_well(users_server: Served) -> None:
    assert "no such page" in get(users_server, "nope/nope", 404)
    assert 'href="../static/pages.css"' in get(users_server, "runs%2F..%2F..%2Fnope/x", 404)
    for path in ("runs/nope", "models/nope", "data/nope", "models/users?version=nope"):
        get(users_server, path, 404)
    assert users_server.client.get("/ui").headers["location"] == "ui/"
    assert users_server.client.get("/ui/static/../pages.py").status_code == 404
    for path in ("runs?cursor=x", "adaptations?cursor=x", "items?shown=nope", "runs?status=x"):
        get(users_server, path, 422)


def test_a_page_answers_head_as_it_answers_get(users_server: Served) -> None:
    for path in ("", "models", "models/nope", "nope"):
        asked, head = (getattr(users_server.client, verb)(f"/ui/{path}", headers=BROWSER) for verb in ("get", "head"))
        assert (head.status_code, head.content) == (asked.status_code, b"")
        assert head.headers["content-type"] == asked.headers["content-type"]
        assert head.headers["cache-control"] == "no-store"


def test_a_file_is_sent_anew_only_when_it_has_changed(users_server: Served) -> None:
    first = users_server.client.get("/ui/static/charts.js")
    assert first.headers["cache-control"] == "no-cache"
    known = {"if-none-match": first.headers["etag"]}
    again = users_server.client.get("/ui/static/charts.js", headers=known)
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-cache")
    assert users_server.client.get("/ui/static/charts.js", headers={"if-none-match": '"old"'}).status_code == 200


def test_scripts_are_small_and_licences_stand_beside_what_is_not_ours(users_server: Served) -> None:
    files = {one.name: one for one in (Path(page_context.__file__).parent / "static").iterdir()}
    assert sum(one.stat().st_size for one in files.values() if one.suffix == ".js") < 150_000
    assert "Permission is hereby granted" in files["uplot.LICENSE.txt"].read_text(encoding="utf-8")
    for name in files:
        answer = users_server.client.get(f"/ui/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_page_asks_for_a_scope(users_server: Served) -> None:
    public = {"/ui/login", "/ui"}
    for route in users_server.app.routes:
        for one in [route, *getattr(getattr(route, "original_router", None), "routes", [])]:
            if isinstance(one, PageRoute) and one.path not in public:
                assert [page_scope(d.call) for d in one.dependant.dependencies] != [None], one.path


def test_home_and_model_show_the_stored_curve(server: Served) -> None:
    version = server.container.registry.live["users"].version
    home, model = get(server, ""), get(server, "models/users")
    assert version[:12] in home
    assert version in model
    for page in (home, model):
        curve = charts_of(page)[0]
        assert curve["x"] == [5]
        assert {one["label"]: one["values"] for one in curve["series"]} == {"maml": [0.4], "popularity": [0.3]}
        assert curve["series"][0]["main"]
    assert "Beats the simplest baseline" in model
    assert re.search(r'class="figure best">0\.400', model)


def test_outcomes_are_shown_by_support_size(server: Served, light: str) -> None:
    version = server.container.registry.live["users"].version

    def outcome(entity: int, size: int, gain: float) -> NewOutcome:
        common = {"impression": 1, "rank": 1, "hit_1": 1.0, "hit_5": 1.0, "hit_10": float(entity % 2)}
        common |= {"reciprocal_rank": 1.0, "popular_hit_10": 0.0, "loss": 2.0 - gain, "loss_unadapted": 2.0}
        return NewOutcome("user", f"e{entity}-{size}", f"v{entity}", "users", version, None, size, NOW, **common)

    rows = [outcome(n, size, 0.25 * size) for n in range(20) for size in range(3)]
    rows += [outcome(99, size, -0.5) for size in range(1, 5)]
    store(light, lambda s: save_outcomes(s, rows))
    page = get(server, "adaptations")
    gain = charts_of(page)[0]
    assert gain["x"] == [0, 1, 2, 3, 4]
    (series,) = gain["series"]
    assert series["values"][0] == 0
    assert series["values"][1] == pytest.approx((20 * 0.25 - 0.5) / 21)
    assert series["low"][1] < series["values"][1] < series["high"][1]
    assert series["low"][3] is None
    assert "v99" in page.split("did not help")[-1]
    assert "v98" not in page
    assert ">64<" in get(server, "")
    assert "online_quality" in get(server, "models/users")


def test_answers_are_counted_by_who_served_them(server: Served, light: str) -> None:
    def row(by: str, ms: float, size: int = 3) -> NewAdaptation:
        return NewAdaptation("v", "user", "ann", size, 1, 2.0, 1.5, 0.1, ms, by, NOW)

    store(light, lambda s: save_adaptations(s, [row("adapted", 4.0), row("adapted", 8.0), row("prior", 1.0, 0)]))
    page = get(server, "adaptations")
    traffic = next(chart for chart in charts_of(page) if chart["kind"] == "bar")
    assert dict(zip(traffic["x"], traffic["series"][0]["values"], strict=True)) == {
        "adapted": 2,
        "cache": 0,
        "prior": 1,
        "popular": 0,
    }
    assert re.search(r"adapted</th><td class=\"figure\">2</td><td class=\"figure\">6</td>", page)


def start_run(session, run: str, **config: object) -> None:
    common = {"recipe": "maml", "dataset": "d", "learner": "maml", "seed": 3}
    runs.start_run(session, run=run, config={"train": {"rate": 0.1, **config}, "name": HOSTILE}, **common)


def test_a_run_is_followed_while_it_goes_on(server: Served, light: str) -> None:
    points = [MetricPoint("one", key, step, step / 10) for key in ("loss", "valid") for step in range(1000)]
    points += [MetricPoint("one", "valid_on_training", 999, 0.5), MetricPoint("one", HOSTILE, 1, 1.0)]

    def begin(session) -> None:
        start_run(session, "one")
        runs.log_metrics(session, points)
        runs.log_curriculum(session, [CurriculumPoint("one", 9, "hard", 2.5, 0.75)])

    store(light, begin)
    page = get(server, "runs/one")
    assert 'data-live="../runs/one/course"' in page
    assert "hard" in page
    assert "75.0%" in page
    loss, valid = charts_of(page)[:2]
    assert loss["x"][-1] == 999
    assert 100 < len(loss["x"]) <= 500
    assert [one["values"][-1] for one in valid["series"]] == [99.9, 0.5]
    course = server.client.get("/ui/runs/one/course").json()
    assert not course["done"]
    assert course["charts"]["chart-loss"] == loss
    store(light, lambda s: runs.set_run_status(s, "one", "failed", reason=HOSTILE))
    assert server.client.get("/ui/runs/one/course").json()["done"]
    assert "data-live" not in get(server, "runs/one")


def test_a_curriculum_is_beside_the_run_that_draws_uniformly(server: Served, light: str) -> None:
    def begin(session) -> None:
        common = {"recipe": "maml", "dataset": "curricula", "learner": "maml", "seed": 3}
        # Two draw uniformly: the newer one differs in another setting too.
        settings = {"eager": ("hardness", 4), "even": ("uniform", 4), "other": ("uniform", 9)}
        for run, (name, steps) in settings.items():
            config = {"curriculum": {"name": name, "config": {}}, "train": {"steps": steps}}
            runs.start_run(session, run=run, config=config, **common)
        for run, height in (("eager", 0.5), ("even", 0.25), ("other", 0.125)):
            runs.log_metrics(session, [MetricPoint(run, "valid", step, height * step) for step in (1, 2)])
        buckets = [("decile 01", 1.0, 0.25), ("decile 10", 4.0, 0.75), ("stage hard", 3.0, 1.0), ("own", 2.0, 0.5)]
        points = [CurriculumPoint("eager", step, *bucket) for step in (1, 2) for bucket in buckets]
        runs.log_curriculum(session, points)

    store(light, begin)
    page = get(server, "runs/eager")
    valid, weight, loss = charts_of(page)
    assert [one["values"] for one in valid["series"]] == [[0.5, 1.0], [0.25, 0.5]]
    assert "uniformly" in valid["series"][1]["label"]
    assert 'href="../runs/even"' in page
    assert "meta-validation is what compares them" in page
    assert (weight["yLabel"], loss["yLabel"]) == ("weight", "loss")
    assert {one["label"]: one["values"] for one in weight["series"]}["decile 10"] == [0.75, 0.75]
    assert "the hardest tenth of the tasks" in page
    assert "tasks that the stage &#39;hard&#39; of the curriculum drew" in page
    course = server.client.get("/ui/runs/eager/course").json()
    assert course["charts"]["chart-valid"] == valid
    # A run that draws uniformly has none beside it.
    assert len(charts_of(get(server, "runs/even"))[0]["series"]) == 1


def test_runs_are_paged_and_compared(server: Served, light: str) -> None:
    store(light, lambda s: [start_run(s, f"run-{n}", steps=n % 2) for n in range(60)])
    # A learner may have a figure of that name; how far the run is is another matter.
    figures = [MetricPoint("run-59", "loss", 42, 0.25), MetricPoint("run-59", "step", 40, 0.5)]
    store(light, lambda s: runs.log_metrics(s, figures))
    page = get(server, "runs")
    row = page[page.index('value="run-59"') :].partition("</tr>")[0]
    assert re.findall(r'<td class="figure">([^<]*)</td>', row)[:3] == ["3", "42", "0.25"]
    cursor = re.search(r'href="\?cursor=([^"]+)"', page)
    assert cursor
    older = get(server, f"runs?cursor={cursor[1]}")
    shown = [re.findall(r'value="(run-\d+)"', one) for one in (page, older)]
    assert [len(one) for one in shown] == [50, 10]
    assert len({*shown[0], *shown[1]}) == 60
    assert not re.findall(r'value="run-', get(server, "runs?status=finished"))
    beside = get(server, "runs/compare?run=run-59&run=run-1")
    row = beside[beside.index('<th scope="row">run-59') :].partition("</tr>")[0]
    assert re.findall(r'<td class="figure">([^<]*)</td>', row)[:2] == ["42", "0.25"]
    changed = get(server, "runs/compare?run=run-1&run=run-2")
    assert "train.steps" in changed
    assert "train.rate" not in changed
    assert "All settings are the same" in get(server, "runs/compare?run=run-1&run=run-3")


def test_an_entity_shows_what_its_events_moved_and_is_erased(server: Served) -> None:
    events = [{"kind": "user", "entity": HOSTILE, "item": f"i{n}"} for n in (1, 2, 3)]
    assert server.client.post("/v1/events", json={"events": events}).json()["accepted"] == 3
    response = server.client.get("/ui/entities", params={"id": HOSTILE}, headers=BROWSER)
    assert response.status_code == 200
    assert_inert(response.text)
    assert "alert(1)&lt;/script&gt;" in response.text
    assert "{{7*7}}" in response.text
    assert "knows 3 events" in response.text
    assert "Item 1" in response.text
    lists = re.findall(r'<ol class="list"[^>]*>(.*?)</ol>', response.text, re.DOTALL)
    adapted, unadapted = (re.findall(r'data-item="([^"]*)"', one) for one in lists)
    assert len(unadapted) == 10
    recommended = server.client.post("/v1/recommendations", json={"entity": {"id": HOSTILE}, "n": 10}).json()["items"]
    assert adapted == [one["item"] for one in recommended]
    assert adapted != unadapted
    token = {"X-CSRF-Token": meta_token(response)}
    data = {"kind": "user", "id": HOSTILE, "confirm": "x"}
    wrong = server.client.post("/ui/entities/erase", data=data, headers=token)
    assert wrong.status_code == 422
    erased = server.client.post("/ui/entities/erase", data=data | {"confirm": HOSTILE}, headers=token | BROWSER)
    assert "3 events" in erased.text
    assert server.client.get("/ui/entities", params={"id": HOSTILE}, headers=BROWSER).status_code == 404


def test_items_are_hidden_and_shown_again(server: Served) -> None:
    put = server.client.put("/v1/items/fresh", json={"title": HOSTILE})
    assert put.status_code == 200, put.text
    events = [{"kind": "user", "entity": f"v{n}", "item": "fresh"} for n in range(4)]
    server.client.post("/v1/events", json={"events": events})
    page = get(server, "items")
    assert "alert(1)&lt;/script&gt;" in page
    assert re.search(r'<td class="figure">4</td><td class="figure">4</td>', page)
    token = {"X-CSRF-Token": meta_token(server.client.get("/ui/items"))}
    for id, available in (("fresh", "no"), ("i1", "no"), ("fresh", "yes")):
        data = {"kind": "user", "id": id, "available": available}
        assert server.client.post("/ui/items/availability", data=data, headers=token).status_code == 303
    stored = {one["id"]: one["available"] for one in server.client.get("/v1/items").json()["items"]}
    assert stored == {"fresh": True, "i1": False}
    unknown = server.client.post("/ui/items/availability", data={"kind": "user", "id": "none"}, headers=token)
    assert unknown.status_code == 404


def test_versions_go_live_back_and_side_by_side_by_administrators_only(home, light: str, other) -> None:
    version = bundles.publish(light, home / "models", "users", other, live=False)
    keys = "reader-key:read,writer-key:read+write,admin-key:admin"
    with serving(settings(home, light, keys=keys)) as server:
        before = server.container.registry.live["users"].version
        with browser_of(server, "writer-key") as browser:
            page = browser.get("/ui/models/users")
            assert "Promote" not in page.text
            data = {"csrf": meta_token(page), "version": version}
            assert browser.post("/ui/models/users/promote", data=data).status_code == 403
            assert browser.post("/ui/entities/erase", data=data).status_code == 403
        with browser_of(server, "admin-key") as browser:
            page = browser.get("/ui/models/users")
            assert "Promote" in page.text
            data = {"csrf": meta_token(page), "version": version}
            assert browser.post("/ui/models/users/promote", data={"version": version}).status_code == 403
            assert browser.post("/ui/models/users/promote", data=data | {"version": "?"}).status_code == 422
            assert browser.post("/ui/models/users/promote", data=data).headers["location"] == "../../models/users"
            assert server.container.registry.live["users"].version == version
            assert browser.post("/ui/models/users/rollback", data=data).status_code == 303
            assert server.container.registry.live["users"].version == before
            arms = {"version0": before, "weight0": "3", "version1": version, "weight1": "x", "label1": "new"}
            assert browser.post("/ui/models/users/split", data=data | arms).status_code == 422
            arms["weight1"] = "1"
            assert browser.post("/ui/models/users/split", data=data | arms).status_code == 303
            page = browser.get("/ui/models/users")
            assert re.search(r"<b>new</b> 25%", page.text)
            assert browser.post("/ui/models/users/split/end", data=data).status_code == 303
            assert "answered by the live version" in browser.get("/ui/models/users").text
    made = engine.connect(light)
    with engine.reading(made) as session:
        rows = session.execute(text("SELECT action, actor FROM audit ORDER BY id")).all()
    made.dispose()
    assert [tuple(row) for row in rows] == [
        (action, "environment key 3") for action in ("promote", "rollback", "split", "split off")
    ]


def test_an_ad_and_a_city_show_what_their_events_moved(plain: Served, new_id: str) -> None:
    clicks = [{"item": f"p{n}", "label": n % 2, "context": {"position": n, "device": "mobile"}} for n in range(6)]
    visits = [{"item": f"x{n % 4}", "time": 3600 * n, "context": {"actor": f"u{n % 2}", "hour": n}} for n in range(9)]
    for kind, events in (("ad", clicks), ("city", visits)):
        sent = [{"kind": kind, "entity": new_id, **event} for event in events]
        assert plain.client.post("/v1/events", json={"events": sent}).json()["accepted"] == len(events)
        page = plain.client.get("/ui/entities", params={"kind": kind, "id": new_id}, headers=BROWSER)
        assert page.status_code == 200, page.text
        assert f"knows {len(events)} events" in page.text
        adapted, unadapted = re.findall(r'<ol class="list"[^>]*>(.*?)</ol>', page.text, re.DOTALL)
        assert "why" in adapted
        assert "data-item" in unadapted
        plain.client.delete(f"/v1/entities/{kind}/{new_id}").raise_for_status()


def test_a_model_has_its_tests_and_its_groups_of_newcomers(server: Served, light: str) -> None:
    version = server.container.registry.live["users"].version
    point = {"dataset": "d", "scenario": "s", "method": "maml", "metric": "ndcg@10", "shots": 5}
    own = {"role": "learner", "seed": 0, "value": 0.4, "low": 0.1, "high": None, "n": 90}
    figures = {"value": 0.4, "value_against": 0.3, "difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.0005}
    kind = {"against": "maml-unadapted", "reference": "unadapted", "verdict": "better", "seeds": 1, "n": 90}
    test = NewPairedTest(**point, **figures, **kind)
    group = replace(test, segment=HOSTILE, part="low", value=0.7, difference=-0.2, verdict="worse", n=30)

    def save(session) -> None:
        save_evaluations(session, [NewEvaluation(**point, **own, model="users", model_version=version)], LATER)
        tests = [test, group, replace(group, part="high"), replace(test, method="melu", difference=0.9)]
        save_paired_tests(session, tests, LATER)

    store(light, save)
    page = get(server, "models/users")
    assert "Is it more than chance?" in page
    assert "0.100 <small>[0.050, 0.150]</small>" in page
    assert "0.900" not in page
    table = page[page.index("Whom does it help?") :]
    assert re.findall(r'<th scope="row">(low|high)</th>', table) == ["low", "high"]
    assert "0.700 <small>n 30</small>" in table
    assert "adapting -0.200" in table


def test_a_metric_may_be_chosen(server: Served, light: str) -> None:
    version = server.container.registry.live["users"].version
    common = {"dataset": "d", "scenario": "s", "method": "maml", "role": "learner", "seed": None, "shots": 5, "n": 9}
    own = {"model": "users", "model_version": version, "low": 0.1, "high": None}
    rows = [
        NewEvaluation(metric=name, value=value, **common, **own) for name, value in (("ndcg@10", 0.4), ("mrr", 0.7))
    ]
    store(light, lambda s: save_evaluations(s, rows))
    assert charts_of(get(server, "models/users"))[0]["yLabel"] == "ndcg@10"
    page = get(server, "models/users?metric=mrr")
    assert charts_of(page)[0]["series"][0]["values"] == [0.7]
    assert "<option selected>mrr</option>" in page


def test_a_run_shows_what_adapting_does_and_a_model_names_its_run(server: Served, light: str) -> None:
    version = server.container.registry.live["users"].version
    point = {"dataset": "d", "scenario": "s/meta-validation", "metric": "ndcg@10", "shots": 5}
    common = {"role": "learner", "seed": 0, "low": 0.1, "high": None, "n": 90, "config_digest": "0123456789abcdef"}
    figures = {"value": 0.4, "value_against": 0.3, "difference": 0.1, "low": 0.05, "high": 0.15, "p": 0.0005}
    kind = {"against": "maml-unadapted", "reference": "unadapted", "verdict": "better", "seeds": 1, "n": 90}

    def save(session) -> None:
        for run in ("measured", "not-measured"):
            start_run(session, run)
        values = {"maml": (0.4, version), "maml-unadapted": (0.3, None)}
        rows = [
            NewEvaluation(**point, **common, method=name, value=value, model_version=own, run="measured")
            for name, (value, own) in values.items()
        ]
        save_evaluations(session, rows, NEWEST)
        save_paired_tests(session, [NewPairedTest(**point, method="maml", **figures, **kind)], NEWEST)
        copy_evaluations(session, version, "users", version)

    store(light, save)
    page = get(server, "runs/measured")
    (chart,) = (c for c in charts_of(page) if c["yLabel"] == "ndcg@10")
    assert [(line["label"], line["values"]) for line in chart["series"]] == [("maml", [0.4]), ("maml-unadapted", [0.3])]
    assert "0.100 <small>[0.050, 0.150]</small>" in page and "a little too high" in page
    model = get(server, "models/users")
    assert "runs/measured" in model and "0123456789abcdef" in model and "a little too high" in model
    assert "measured when the training ends" in get(server, "runs/not-measured")
