"""Properties of lists: exactly n different items, nothing excluded or seen, filters, pages that make up the whole."""

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api import bundles
from tests.api.routes.test_choice_recommendations import checkins
from tests.api.servers import serving, wait
from tests.api.servers import settings as own

ITEMS = [f"i{n}" for n in range(80)]
SOME = st.lists(st.sampled_from([*ITEMS[:30], "strange"]), max_size=12)
BODIES = st.fixed_dictionaries(
    {"events": SOME.map(lambda items: [{"item": i} for i in items]), "n": st.integers(1, 90)},
    optional={
        "exclude": SOME,
        "candidates": st.lists(st.sampled_from([*ITEMS, "other"]), max_size=40),
        "include_seen": st.booleans(),
        "filters": st.sampled_from(
            [
                {"genres": {"any": ["genres0", "genres2"]}},
                {"genres": {"none": ["genres1"]}, "length": {"min": 90}},
                {"length": {"min": 80, "max": 110}},
                {"genres": {"any": ["no such"]}},
            ]
        ),
    },
)
# Each example is a request to a server that stays the same.
OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(server, model="users", **body):
    response = server.client.post("/v1/recommendations", json={"model": model, **body})
    assert response.status_code == 200, response.text
    return response.json()


def names(found):
    return [row["item"] for row in found["items"]]


def fulfils(bundle, item, filters):
    """The filters, one item at a time, from the bundle's own tables."""
    row = bundle.vocab.values["item"].get_loc(item) + 2
    words = {bundle.vocab.value("item.genres", i) for i in bundle.params["catalogue.genres"][row].tolist() if i > 1}
    length = float(bundle.params["catalogue.length"][row])
    wanted, numbers = filters.get("genres", {}), filters.get("length", {})
    return (
        ("any" not in wanted or bool(words & set(wanted["any"])))
        and not words & set(wanted.get("none", ()))
        and numbers.get("min", -1e9) <= length <= numbers.get("max", 1e9)
    )


def allowed(bundle, body):
    """What may be in a list, by its definition."""
    seen = set() if body.get("include_seen") else {e["item"] for e in body["events"]}
    left = set(ITEMS) - seen - set(body.get("exclude", ()))
    left &= set(body.get("candidates", ITEMS))
    return {i for i in left if fulfils(bundle, i, body.get("filters", {}))}


@OFTEN
@given(body=BODIES)
def test_exactly_n_different_items_that_may_be_there(plain, bundle, body):
    found, may = names(ask(plain, **body)), allowed(bundle, body)
    assert len(found) == len(set(found)) == min(body["n"], len(may))
    assert set(found) <= may


@OFTEN
@given(body=BODIES, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_pages_make_up_the_list(plain, bundle, body, sizes):
    whole = ask(plain, **{**body, "n": 200})
    assert whole["next"] is None
    pages, cursor, turn = [], None, 0
    while True:
        asked = {**body, "n": sizes[turn % len(sizes)]}
        page = ask(plain, **asked, **({"cursor": cursor} if cursor else {}))
        assert len(page["items"]) <= asked["n"]
        pages += [(row["item"], row["score"]) for row in page["items"]]
        cursor, turn = page["next"], turn + 1
        if cursor is None:
            break
        assert len(page["items"]) == asked["n"]
    assert pages == [(row["item"], row["score"]) for row in whole["items"]]


def test_a_page_that_holds_all_there_is_has_no_next(plain):
    whole = ask(plain, events=[{"item": "i3"}], n=200)["items"]
    assert ask(plain, events=[{"item": "i3"}], n=len(whole))["next"] is None
    assert ask(plain, events=[{"item": "i3"}], n=len(whole) - 1)["next"] is not None


@OFTEN
@given(body=BODIES, order=st.randoms(use_true_random=False))
def test_the_order_of_a_support_is_irrelevant_and_answers_repeat(plain, body, order):
    mixed = {**body, "events": order.sample(body["events"], len(body["events"]))}
    first, second, again = ask(plain, **body), ask(plain, **mixed), ask(plain, **body)
    assert first["items"] == second["items"] == again["items"]
    plain.container.memory.close()
    assert ask(plain, **body)["items"] == first["items"], "made anew"


def test_pages_of_a_city_make_up_its_list(plain):
    body = {"events": checkins(40), "moment": {"actor": "u1", "context": {"hour": 9}}}
    whole = ask(plain, "cities", **body, n=100)
    pages, cursor = [], None
    for _ in range(20):
        page = ask(plain, "cities", **body, n=5, **({"cursor": cursor} if cursor else {}))
        pages += page["items"]
        if (cursor := page["next"]) is None:
            break
    assert [p["item"] for p in pages] == names(whole) and len(pages) == 12
    changed = {**body, "events": checkins(41), "cursor": ask(plain, "cities", **body, n=5)["next"]}
    gone = plain.client.post("/v1/recommendations", json={"model": "cities", **changed})
    assert gone.status_code == 409 and "first page" in gone.json()["detail"]


def test_pages_go_on_where_events_come_in_between(full, new_id):
    """A click on the first page does not shuffle the second: it goes on in the old order, without what was met."""
    entity = {"id": new_id}
    event = {"entity": new_id, "item": "i3"}
    full.client.post("/v1/events", json={"events": [event]})
    whole = ask(full, entity=entity, n=80)
    first = ask(full, entity=entity, n=10)
    clicked = names(whole)[14]
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": clicked}]})
    wait(lambda: not full.container.cache_writer.pending)
    for forget in (False, True):
        if forget:
            full.container.memory.close()
        second = ask(full, entity=entity, n=10, cursor=first["next"])
        assert names(second) == [i for i in names(whole)[10:21] if i != clicked]
        assert second["support_size"] == 1, "of the list, not of what came since"
    third = ask(full, entity=entity, n=80, cursor=second["next"])
    assert (names(third), third["support_size"]) == (names(whole)[21:], 1)
    assert full.container.writer.flush()
    rows = full.client.get("/v1/adaptations", params={"entity": new_id, "served_by": "cache"}).json()["items"]
    assert rows and {row["support_size"] for row in rows} == {1}, "so do their rows"
    assert names(ask(full, entity=entity, n=10)) != names(first), "a new first page knows the click"


def test_pages_go_on_where_an_event_comes_before_the_state_was_sent(full, new_id, held):
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i3"}]})
    first = ask(full, entity={"id": new_id}, n=10)
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i5"}]})
    assert full.container.cache_writer.pending, "else this is another test"
    held.free.set()
    wait(lambda: not full.container.cache_writer.pending)
    for _ in range(2):
        ask(full, entity={"id": new_id}, n=10, cursor=first["next"])
        full.container.memory.close()


def test_a_state_that_is_sent_when_its_entity_is_erased_does_not_stay(full, new_id, held):
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i3"}]})
    first = ask(full, entity={"id": new_id}, n=10)
    assert full.client.delete(f"/v1/entities/user/{new_id}").status_code == 200
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i5"}]})
    assert full.container.cache_writer.pending, "else this is another test"
    held.free.set()
    wait(lambda: not full.container.cache_writer.pending)
    body = {"model": "users", "entity": {"id": new_id}, "n": 10, "cursor": first["next"]}
    assert full.client.post("/v1/recommendations", json=body).status_code == 409


def cached(server, new_id):
    """Where the state of an entity with one event, of which nothing is stored, is found."""
    return server.recommend("i3", entity={"id": new_id}, n=11).headers["x-cache"]


def test_a_state_that_is_sent_when_its_entity_is_erased_and_back_does_not_stay(full, new_id, held):
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i3"}]})
    ask(full, entity={"id": new_id}, n=10)
    assert full.client.delete(f"/v1/entities/user/{new_id}").status_code == 200
    ask(full, entity={"id": new_id}, n=10)  # there is a stamp again, and it is another
    assert full.container.cache_writer.pending, "else this is another test"
    held.free.set()
    wait(lambda: not full.container.cache_writer.pending)
    assert cached(full, new_id) == "miss"


def test_a_state_that_is_sent_when_its_entity_is_erased_elsewhere_does_not_stay_here(
    full, home, own_redis, new_id, held
):
    url = full.container.database.engine.url.render_as_string(hide_password=False)
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": "i3"}]})
    ask(full, entity={"id": new_id}, n=10)
    with serving(own(home, url, own_redis.url)) as elsewhere:
        assert elsewhere.client.delete(f"/v1/entities/user/{new_id}").status_code == 200
    assert full.container.cache_writer.pending, "else this is another test"
    held.free.set()
    wait(lambda: not full.container.cache_writer.pending)
    assert cached(full, new_id) == "miss"


def test_a_list_that_nobody_holds_any_more_is_gone(plain):
    first = ask(plain, events=[{"item": "i3"}], n=5)
    plain.container.memory.close()
    body = {"model": "users", "events": [{"item": "i3"}, {"item": "i4"}], "n": 5, "cursor": first["next"]}
    response = plain.client.post("/v1/recommendations", json=body)
    assert response.status_code == 409 and response.headers["content-type"] == "application/problem+json"
    same = {**body, "events": [{"item": "i3"}]}
    assert plain.client.post("/v1/recommendations", json=same).status_code == 200, "made anew from the same support"


def test_pages_stay_with_the_version_they_began_with(full, home, other, new_id):
    events = [{"item": "i3"}, {"item": "i9"}]
    whole, first = ask(full, events=events, n=80), ask(full, events=events, n=7)
    url = full.container.database.engine.url.render_as_string(hide_password=False)
    version = bundles.publish(url, home / "models", "users", other)
    wait(lambda: full.container.registry.live["users"].version == version)
    second = ask(full, events=events, n=80, cursor=first["next"])
    assert second["model"]["version"] == first["model"]["version"] != version
    assert names(first) + names(second) == names(whole)
    pinned = {"model": f"users@{version}", "events": events, "cursor": first["next"]}
    refused = full.client.post("/v1/recommendations", json=pinned)
    assert refused.status_code == 422 and "another version" in refused.json()["detail"]


@pytest.mark.parametrize("length", [1, 6, 16])
def test_pages_of_a_version_named_by_its_start_go_on(plain, length):
    version = plain.container.registry.live["users"].version
    model, events = f"users@{version[:length]}", [{"item": "i3"}]
    whole = names(ask(plain, model, events=events, n=40))
    first = ask(plain, model, events=events, n=7)
    second = ask(plain, model, events=events, n=33, cursor=first["next"])
    assert second["model"]["version"] == version
    assert names(first) + names(second) == whole
    by_name = ask(plain, "users", events=events, n=33, cursor=first["next"])
    assert by_name["items"] == second["items"], "the cursor names the version"


def test_pages_go_on_where_the_start_of_a_version_became_that_of_several(full, home, new_id):
    """The first page was unambiguous: its cursor says which of the versions was meant."""
    events = [{"item": "i3"}, {"item": "i9"}]
    version = full.container.registry.live["users"].version
    start = version[:1]
    first = ask(full, f"users@{start}", events=events, n=7)
    url = full.container.database.engine.url.render_as_string(hide_password=False)
    second = start + ("0" if version[1:] != "0" * 15 else "1") * 15
    bundles.register(url, "users", home / second, live=False)
    body = {"model": f"users@{start}", "events": events, "n": 7}
    assert full.client.post("/v1/recommendations", json=body).status_code == 409, "the start is that of two by now"
    page = ask(full, body["model"], events=events, n=7, cursor=first["next"])
    assert page["model"]["version"] == version
    assert names(first) + names(page) == names(ask(full, f"users@{version}", events=events, n=14))


def test_only_our_cursors_are_followed(plain):
    body = {"model": "users", "events": [{"item": "i3"}], "n": 5}
    cursor = ask(plain, **{k: v for k, v in body.items() if k != "model"})["next"]
    raw = bytearray(base64.urlsafe_b64decode(cursor))

    def status(given, **more):
        return plain.client.post("/v1/recommendations", json={**body, **more, "cursor": given}).status_code

    assert status(cursor) == 200
    for place in range(len(raw)):
        raw[place] ^= 1
        assert status(base64.urlsafe_b64encode(raw).decode()) == 422, place
        raw[place] ^= 1
    for wrong in ("x", cursor[:-4], cursor[:-1] + "=", "A" * 88, "ä", "a" * 89):
        assert status(wrong) == 422, wrong
    assert status(cursor, entity={"kind": "user", "id": "somebody else"}) == 422
    assert status("") == 200, "an empty cursor is none"


def test_a_cursor_belongs_to_its_model(plain):
    cursor = ask(plain, "users", events=[{"item": "i3"}], n=5)["next"]
    for model in ("ads", "cities", f"ads@{plain.container.registry.live['ads'].version}"):
        refused = plain.client.post("/v1/recommendations", json={"model": model, "n": 5, "cursor": cursor})
        assert (refused.status_code, "This cursor" in refused.json()["detail"]) == (422, True), model
    unknown = plain.client.post("/v1/recommendations", json={"model": "users@abc", "n": 5, "cursor": cursor})
    assert unknown.status_code == 404, "the caller's own words are another matter"


def test_a_cursor_belongs_to_its_moment(plain):
    body = {"model": "ads", "moment": {"context": {"position": 1}}, "n": 3}
    cursor = ask(plain, "ads", **{k: v for k, v in body.items() if k != "model"})["next"]
    assert plain.client.post("/v1/recommendations", json={**body, "cursor": cursor}).status_code == 200
    other = {**body, "cursor": cursor, "moment": {"context": {"position": 2}}}
    assert plain.client.post("/v1/recommendations", json=other).status_code == 422


def test_filters_work_on_an_entitys_own_items(plain):
    events = checkins(40)
    cafes = {e["item"] for e in events if e["context"]["category"] == "cafe"}
    assert set(names(ask(plain, "cities", events=events, filters={"category": {"any": ["cafe"]}}, n=50))) == cafes
    north = {e["item"] for e in events if e["context"]["lat"] >= 50.06}
    assert set(names(ask(plain, "cities", events=events, filters={"lat": {"min": 50.06}}, n=50))) == north


@pytest.mark.parametrize(
    ("model", "filters", "says"),
    [
        (
            "users",
            {"color": {"any": ["red"]}},
            "'color': the model knows no such feature of items. Known: genres, length",
        ),
        ("users", {"genres": {"min": 3}}, "'genres': holds no numbers"),
        ("users", {"length": {"any": ["3"]}}, "'length': holds numbers"),
        ("users", {"length": {}}, "a filter needs any, all or none"),
        ("users", {"length": {"least": 3}}, "filters/length/least"),
        ("users", {"length": {"min": "3"}}, "filters/length/min"),
        ("ads", {"genres": {"any": ["x"]}}, "Known: none"),
    ],
)
def test_wrong_filters_are_refused(plain, model, filters, says):
    response = plain.client.post("/v1/recommendations", json={"model": model, "filters": filters})
    assert response.status_code == 422
    assert says.split(":")[0] in response.json()["detail"] and says.split(". ")[-1] in response.json()["detail"]
