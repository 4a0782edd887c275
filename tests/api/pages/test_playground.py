"""What the playground's script asks for: both lists of a newcomer that nobody stores."""

import pytest
from sqlalchemy import inspect, text

from recsys_meta.store.database import engine
from tests.api import bundles
from tests.api.pages.conftest import browser_of, meta_token
from tests.api.servers import serving, settings


def ask(client, path, body):
    token = meta_token(client.get("/ui/playground"))
    return client.post(f"/ui/playground/{path}", json=body, headers={"x-csrf-token": token, "accept": "*/*"})


def rows_of(server):
    """The number of rows of each table, once what waits is written."""
    server.flush()
    made = engine.connect(str(server.container.database.engine.url.render_as_string(hide_password=False)))
    with made.connect() as connection:
        tables = inspect(connection).get_table_names()
        counts = {t: connection.execute(text(f'SELECT count(*) FROM "{t}"')).scalar() for t in tables}
    made.dispose()
    return counts


@pytest.fixture
def client(plain):
    with browser_of(plain) as made:
        yield made


def test_the_page_is_for_the_model_that_is_named_or_the_first(client):
    page = client.get("/ui/playground?model=cities")
    assert page.status_code == 200 and 'data-model="cities@' in page.text
    assert 'data-model="ads@' in client.get("/ui/playground").text
    assert client.get("/ui/playground?model=none").status_code == 404


def test_what_may_be_picked_is_told_of_each_kind(client):
    users, ads, cities = (
        client.get(f"/ui/playground/model?model={name}").json() for name in ("users", "ads", "cities")
    )
    assert [one["objective"] for one in (users, ads, cities)] == ["ranking", "click", "choice"]
    assert users["labels"] == {"like": None, "dislike": 0} and ads["labels"] == {"like": 1.0, "dislike": 0.0}
    assert len(users["groups"]) > 1 and users["groups"][0]["items"][0]["title"].startswith("Item")
    assert {one["name"]: one["values"] for one in ads["context"]} == {"position": None, "device": ["desktop", "mobile"]}
    (area,) = cities["areas"]
    assert (area["places"][0]["item"], round(area["places"][0]["lat"], 2)) == ("k0", 40.0)
    assert cities["actors"] and not cities["can_ask"] and not cities["groups"]


def test_a_model_of_ratings_has_labels_of_its_scale_and_lists_that_follow_them(home, light):
    bundles.publish(light, home / "models", "stars", bundles.trained("rating"))
    with serving(settings(home, light)) as server, browser_of(server) as client:
        described = client.get("/ui/playground/model?model=stars").json()
        like, dislike = described["labels"]["like"], described["labels"]["dislike"]
        assert like > dislike

        def best(label):
            both = ask(client, "lists", {"model": "stars", "events": [{"item": "i3", "label": label}], "n": 3}).json()
            return both["adapted"][0]["value"]

        assert best(like) > best(dislike)


def test_items_are_found_by_title_and_by_name(client):
    def found(q, model="users"):
        answer = client.get("/ui/playground/items", params={"model": model, "q": q, "n": 20})
        return [one["item"] for one in answer.json()["items"]]

    assert "i12" in found("item 12") and found("ITEM 12") == found("item 12")
    assert found("p3", "ads") == ["p3"] and found("nothing like it") == []
    assert client.get("/ui/playground/items", params={"q": "x" * 300}).status_code == 422


def test_lists_are_those_of_recommendations_and_nothing_is_stored(client, plain):
    body = {"model": "users", "events": [{"item": "i3"}, {"item": "i8"}, {"item": "i5", "label": 0}], "n": 40}
    wanted = plain.client.post("/v1/recommendations", json=body).json()["items"]
    at_first = plain.client.post("/v1/recommendations", json={**body, "events": [], "exclude": ["i3", "i8", "i5"]})
    before = rows_of(plain)
    both = ask(client, "lists", {**body, "explain": True}).json()
    assert [one["item"] for one in both["adapted"]] == [one["item"] for one in wanted]
    assert [one["item"] for one in both["unadapted"]] == [one["item"] for one in at_first.json()["items"]]
    assert both["adapted"] != both["unadapted"] and both["support_size"] == 3
    assert any(one["why"] for one in both["adapted"])
    for one in both["adapted"]:
        if (rank := one["other_rank"]) <= 40:
            assert both["unadapted"][rank - 1]["item"] == one["item"]
    again = ask(client, "lists", {**body, "explain": True}).json()
    assert again["adapted"] == both["adapted"]
    assert rows_of(plain) == before


def test_a_context_of_clicks_changes_the_chances(client):
    def chances(position):
        body = {"model": "ads", "events": [{"item": "p1", "label": 1, "context": {"position": 1}}], "n": 3}
        both = ask(client, "lists", {**body, "moment": {"context": {"position": position}}}).json()
        return both["adapted"][0]["value"], both["unadapted"][0]["value"]

    assert 1 > chances(1)[0] > chances(5)[0] > 0 and chances(1)[0] > chances(1)[1]


def test_where_one_goes_next_follows_where_one_was(client):
    places = [f"k{n}" for n in range(5)]
    event = {"item": "k3", "context": {"actor": "you", "hour": 9}}
    body = {"model": "cities", "events": [event], "candidates": places, "moment": {"actor": "you"}, "n": 5}
    both = ask(client, "lists", body).json()
    assert both["adapted"][0]["item"] == "k3" and both["adapted"][0]["about"] == "cafe"
    assert sum(one["value"] for one in both["unadapted"]) == pytest.approx(1)


def test_questions_are_about_items_that_were_not_picked(client):
    body = {"model": "users", "events": [{"item": "i3"}]}
    questions = ask(client, "questions", body).json()["questions"]
    assert len({one["item"] for one in questions} - {"i3"}) == 5
    assert all(0 <= one["chance"] <= 1 for one in questions)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("lists", {"model": "users", "entity": {"id": "anna"}}, 422, "made-up"),
        ("lists", {"model": "users", "events": [{"item": "i1", "context": {"x": 1}}]}, 422, "x"),
        ("lists", {"model": "users", "n": 0}, 422, "n"),
        ("lists", {"model": "none"}, 404, "none"),
        ("questions", {"model": "cities"}, 422, "items of its own"),
        ("questions", {"model": "users", "entity": {"features": {"no-such": 1}}}, 422, "no-such"),
    ],
)
def test_what_cannot_be_read_is_one_line(client, path, body, status, words):
    answer = ask(client, path, body)
    assert answer.status_code == status and words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_where_no_model_is_in_service_the_page_says_what_to_do(home, migrated_sqlite):
    with serving(settings(home, migrated_sqlite)) as server, browser_of(server) as client:
        page = client.get("/ui/playground")
        assert page.status_code == 200 and "recsys-meta quickstart" in page.text and 'id="search"' not in page.text


def test_of_a_model_that_fails_a_line_says_so(home, migrated_sqlite, bundle):
    bundles.publish(migrated_sqlite, home / "models", "users", bundles.diverged(bundle))
    with serving(settings(home, migrated_sqlite)) as server, browser_of(server) as client:
        for answer in (client.get("/ui/playground/model", headers={"accept": "*/*"}), ask(client, "lists", {})):
            assert answer.status_code == 503 and answer.json()["detail"].startswith("Model 'users' fails")


def test_a_post_of_another_page_is_refused(client):
    assert client.post("/ui/playground/lists", json={"model": "users"}).status_code == 403


def test_without_a_login_there_is_none_and_with_one_all_of_it(guarded):
    with browser_of(guarded) as stranger:
        assert stranger.get("/ui/playground").status_code == 303
        assert stranger.get("/ui/playground/model", headers={"accept": "*/*"}).status_code == 401
    with browser_of(guarded, "reader-key") as reader:
        assert len(ask(reader, "lists", {"events": [{"item": "i1"}]}).json()["adapted"]) == 10
