"""Items that came after the training: stored, listed by every process, hidden, deleted, and what is like them."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from api.inference.item_evidence import FIRST_WINDOW_S, WINDOW_S, ItemEvidenceReader
from api.persistence.item_table import ItemTable
from recsys_meta.inference import recommender as recommenders
from recsys_meta.inference.new_items.item_placer import ItemPlacer
from recsys_meta.inference.recommender import Recommender
from recsys_meta.store.entities.tables import EventRecord
from tests.api import bundles
from tests.api.servers import serving, settings, wait

GENRES = "genre"
EVENTS = ("i3", "i14", "i15")


def item_feature(bundle) -> tuple[str, list[str]]:
    """A feature of items, and its values."""
    field = next(f for f in bundle.schema.item_features if f.kind != "numeric")
    return field.name, list(bundle.vocab.values[f"item.{field.name}"])


def put(server, item: str, **body):
    return server.client.put(f"/v1/items/{item}", json=body)


def listed(server, *items: str, **body) -> list[str]:
    answer = server.recommend(*(items or EVENTS), **{"n": 1000, **body})
    assert answer.status_code == 200, answer.text
    return [one["item"] for one in answer.json()["items"]]


def test_a_new_item_is_stored_listed_explained_hidden_and_forgotten(full, bundle):
    name, values = item_feature(bundle)
    before = listed(full)
    answer = put(full, "fresh", features={name: values[:1]}, title="Fresh")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["features"], document["title"], document["available"]) == ({name: values[:1]}, "Fresh", True)
    assert (document["kind"], document["trained_by"]) == ("user", [])
    wait(lambda: "fresh" in listed(full))
    rows = full.recommend(*EVENTS, n=1000, explain=True).json()["items"]
    (row,) = [one for one in rows if one["item"] == "fresh"]
    assert (row["title"], row["why"]["new"]) == ("Fresh", {"by": "content", "likes": 0})
    assert all("new" not in one["why"] for one in rows if one["item"] != "fresh")
    assert [item for item in listed(full) if item != "fresh"] == before
    scores = full.client.post("/v1/score", json={"events": [{"item": i} for i in EVENTS], "items": ["fresh", "i3"]})
    assert scores.json()["unknown_items"] == []
    assert scores.json()["scores"][0]["score"] == pytest.approx(row["score"])
    assert full.client.patch("/v1/items/fresh", json={"available": False}).json()["available"] is False
    wait(lambda: "fresh" not in listed(full))
    full.client.patch("/v1/items/fresh", json={"available": True})
    wait(lambda: "fresh" in listed(full))
    assert full.client.delete("/v1/items/fresh").json() == {"kind": "user", "id": "fresh", "deleted": True}
    wait(lambda: "fresh" not in listed(full))
    assert full.client.delete("/v1/items/fresh").json()["deleted"] is False
    assert full.client.get("/v1/items/fresh").status_code == 404
    assert full.client.patch("/v1/items/fresh", json={"available": True}).status_code == 404
    assert put(full, "fresh").status_code == 200
    wait(lambda: "fresh" in listed(full))


def test_items_that_the_model_was_trained_on_can_be_hidden(full):
    assert "i7" in listed(full)
    assert full.client.get("/v1/items/i7").status_code == 404
    document = full.client.patch("/v1/items/i7", json={"available": False}).json()
    assert (document["trained_by"], document["available"]) == (["users"], False)
    wait(lambda: "i7" not in listed(full))
    assert "i7" not in [one["item"] for one in full.client.get("/v1/onboarding?n=50").json()["items"]]
    full.client.delete("/v1/items/i7")
    wait(lambda: "i7" in listed(full))


def test_every_process_hears_of_it(home, published, own_redis, bundle):
    with serving(settings(home, published, own_redis.url)) as one, serving(settings(home, published)) as other:
        put(one, "fresh")
        began = time.monotonic()
        wait(lambda: "fresh" in listed(other))
        assert time.monotonic() - began < 10  # a bound for a busy machine
        other.client.patch("/v1/items/fresh", json={"available": False})
        wait(lambda: "fresh" not in listed(one))
    with serving(settings(home, published)) as anew:
        assert "fresh" not in listed(anew)
        anew.client.patch("/v1/items/fresh", json={"available": True})
        wait(lambda: "fresh" in listed(anew))
    with serving(settings(home, published)) as anew:
        assert "fresh" in listed(anew)


def test_lists_that_were_kept_are_not_given_again(full):
    """A list lies in the caches under what it was made from."""
    body = {"entity": {"id": "anna"}, "n": 1000}
    first = listed(full, **body)
    assert listed(full, **body) == first
    put(full, "fresh")
    wait(lambda: "fresh" in listed(full, **body))
    full.client.delete("/v1/items/fresh")
    wait(lambda: listed(full, **body) == first)


def test_an_item_that_was_met_is_not_listed_again(full):
    put(full, "fresh")
    wait(lambda: "fresh" in listed(full, entity={"id": "anna"}))
    sent = {"events": [{"entity": "anna", "item": "fresh"}, {"entity": "anna", "item": "never there"}]}
    receipt = full.client.post("/v1/events", json=sent).json()
    assert (receipt["accepted"], receipt["unknown_items"]) == (2, ["never there"])
    answer = full.recommend(entity={"id": "anna"}, n=1000).json()
    assert "fresh" not in [one["item"] for one in answer["items"]]
    assert answer["unknown_items"] == ["never there"]
    assert "fresh" in listed(full, entity={"id": "anna"}, include_seen=True)


def test_first_events_move_an_item_for_those_who_are_alike(light, home, bundle):
    with serving(settings(home, light)) as server:
        for name in ("liked", "plain"):
            put(server, name)
        wait(lambda: {"liked", "plain"} <= set(listed(server)))
        recommender = server.container.registry.live["users"].recommender
        places = recommender._placer.projection.places
        other = bundle.vocab.values["item"][int((places[2:] @ places[2]).argmin())]

        def lead(item: str) -> float:
            """How much higher the item with events is than the one without, for somebody who met another item."""
            rows = server.recommend(item, n=1000, include_seen=True).json()["items"]
            scores = {one["item"]: one["score"] for one in rows}
            return scores["liked"] - scores["plain"]

        assert lead("i0") == pytest.approx(0, abs=1e-5)
        events = [{"entity": f"e{n}", "item": item} for n in range(5) for item in ("i0", "liked")]
        server.client.post("/v1/events", json={"events": events})
        wait(lambda: abs(lead("i0")) > 1e-4)
        assert lead("i0") > lead(other)
        why = server.recommend("i0", n=1000, explain=True, include_seen=True).json()["items"]
        assert {one["item"]: one["why"]["new"]["likes"] for one in why if "new" in one["why"]}["liked"] == 5


def test_a_model_that_was_trained_on_an_item_takes_over(server, home, light, bundle):
    """Under the item's own name nothing is counted twice."""
    before = server.recommend(*EVENTS, n=1000).json()["items"]
    name, values = item_feature(bundle)
    document = put(server, "i9", features={name: values[:1]}).json()
    assert document["trained_by"] == ["users"]
    put(server, "fresh")
    wait(lambda: "fresh" in listed(server))
    after = [one for one in server.recommend(*EVENTS, n=1000).json()["items"] if one["item"] != "fresh"]
    assert [(o["item"], o["score"]) for o in after] == [(o["item"], o["score"]) for o in before]


def test_a_batch_is_stored_in_part(server, bundle):
    name, values = item_feature(bundle)
    items = [
        {"id": "a", "features": {name: values[:2]}},
        {"id": "b", "features": {"shoe size": 1}},
        {"id": "", "features": {}},
        {"id": "c", "available": False},
        "no object",
        {"id": "d", "features": {name: [str(n) for n in range(10_000)]}},
    ]
    receipt = server.client.post("/v1/items", json={"items": items}).json()
    assert (receipt["stored"], receipt["refused"], receipt["kind"]) == (2, 4, "user")
    assert [(one["id"], one["outcome"]) for one in receipt["items"]] == [
        ("a", "new"),
        ("b", "refused"),
        ("", "refused"),
        ("c", "new"),
        (None, "refused"),
        ("d", "refused"),
    ]
    assert "shoe size" in receipt["items"][1]["reason"]
    assert name in receipt["items"][1]["reason"]
    again = server.client.post("/v1/items", json={"items": items[:1]}).json()
    assert [one["outcome"] for one in again["items"]] == ["unchanged"]


def test_pages_and_filters(server):
    server.client.post("/v1/items", json={"items": [{"id": f"a{n}", "available": n % 2 == 0} for n in range(5)]})
    found, cursor = [], None
    while True:
        page = server.client.get("/v1/items", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        found += [one["id"] for one in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(found) == [f"a{n}" for n in range(5)]
    hidden = server.client.get("/v1/items", params={"available": False}).json()["items"]
    assert sorted(one["id"] for one in hidden) == ["a1", "a3"]
    later = server.client.get("/v1/items", params={"since": time.time() + 60}).json()
    assert later == {"items": [], "next": None}
    assert len(server.client.get("/v1/items", params={"since": "2020-01-01T00:00:00Z"}).json()["items"]) == 5
    assert server.client.get("/v1/items", params={"since": "yesterday"}).status_code == 422
    assert server.client.get("/v1/items", params={"cursor": "x"}).status_code == 422


def test_what_cannot_be_stored_is_refused_with_the_reason(server, bundle):
    name, _ = item_feature(bundle)
    strange = put(server, "x", features={"shoe size": 44})
    assert strange.status_code == 422
    assert "shoe size" in strange.json()["detail"]
    assert name in strange.json()["detail"]
    assert put(server, "x", features={name: [str(n) for n in range(10_000)]}).status_code == 422
    assert put(server, "x", features={name: ["v"] * 101}).status_code == 422
    assert put(server, "x", size=44).status_code == 422
    assert put(server, "x%2Fsimilar").status_code in (405, 422)
    assert put(server, "x" * 201).status_code == 422
    million = b'{"items": [' + b",".join([b'{"id":"a"}'] * 1_000_000) + b"]}"
    answer = server.client.post("/v1/items", content=million, headers={"content-type": "application/json"})
    assert answer.status_code in (413, 422)
    assert server.client.post("/v1/items", json={"items": [{"id": "a"}] * 1001}).status_code == 422
    assert server.client.get("/v1/items").json()["items"] == []


def test_values_that_no_item_had_say_nothing(server, bundle):
    """Such an item is ranked as one without features."""
    name, _ = item_feature(bundle)
    assert put(server, "odd", features={name: ["never seen"]}).status_code == 200
    put(server, "bare")
    wait(lambda: {"odd", "bare"} <= set(listed(server)))
    rows = server.recommend(*EVENTS, n=1000, explain=True).json()["items"]
    new = {one["item"]: one for one in rows if "new" in one["why"]}
    assert {name: one["why"]["new"]["by"] for name, one in new.items()} == {"odd": "popularity", "bare": "popularity"}
    assert new["odd"]["score"] == pytest.approx(new["bare"]["score"])


def test_of_too_many_new_items_those_that_were_changed_last_are_ranked(server, monkeypatch):
    monkeypatch.setattr(recommenders, "MOST_NEW_ITEMS", 3)
    for n in range(5):
        put(server, f"new{n}")
    wait(lambda: "new4" in listed(server))
    assert {item for item in listed(server) if item.startswith("new")} == {"new2", "new3", "new4"}


def test_similar_items_are_alike_in_taste_and_say_what_they_share(server, bundle):
    name, values = item_feature(bundle)
    put(server, "fresh/one", features={name: values[:1]}, title="Fresh")
    wait(lambda: "fresh/one" in listed(server))
    answer = server.client.get("/v1/items/i3/similar", params={"n": 5}).json()
    assert [one["rank"] for one in answer["items"]] == [1, 2, 3, 4, 5]
    assert "i3" not in [one["item"] for one in answer["items"]]
    similarities = [one["similarity"] for one in answer["items"]]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1.001 <= s <= 1.001 for s in similarities)
    of_new = server.client.get("/v1/items/fresh%2Fone/similar", params={"n": 5, "filter": f"{name}={values[0]}"})
    assert of_new.status_code == 200, of_new.text
    assert all(one["shared"] == {name: [values[0]]} for one in of_new.json()["items"])
    server.client.patch(f"/v1/items/{answer['items'][0]['item']}", json={"available": False})
    wait(
        lambda: (
            answer["items"][0]["item"]
            not in [o["item"] for o in server.client.get("/v1/items/i3/similar").json()["items"]]
        )
    )
    assert server.client.get("/v1/items/never there/similar").status_code == 404
    assert server.client.get("/v1/items/i3/similar", params={"filter": "genre"}).status_code == 422
    assert server.client.get("/v1/items/i3/similar", params={"filter": "shoe=1"}).status_code == 422


def test_an_item_of_which_nothing_is_known_is_like_none(server):
    put(server, "bare")
    wait(lambda: "bare" in listed(server))
    assert server.client.get("/v1/items/bare/similar").json()["items"] == []
    everybody = server.client.get("/v1/items/i3/similar", params={"n": 100}).json()["items"]
    assert len(everybody) > 50 and "bare" not in [one["item"] for one in everybody]


def test_kinds_are_told_apart(kinds):
    assert kinds.client.put("/v1/items/a", json={}).status_code == 422
    assert kinds.client.put("/v1/items/a?kind=ad", json={}).status_code == 200
    refused = kinds.client.put("/v1/items/a?kind=city", json={})
    assert (refused.status_code, "items of its own" in refused.json()["detail"]) == (422, True)
    assert kinds.client.get("/v1/items/a?kind=ad").json()["kind"] == "ad"
    assert kinds.client.post("/v1/items", json={"kind": "ad", "items": [{"id": "b"}]}).json()["stored"] == 1


def test_an_item_is_listed_while_first_events_are_still_read(server, monkeypatch):
    put(server, "before")
    wait(lambda: "before" in listed(server))
    reading, done = threading.Event(), threading.Event()

    async def stall(*_):
        reading.set()
        await asyncio.to_thread(done.wait)
        return False

    monkeypatch.setattr(ItemEvidenceReader, "read", stall)
    server.container.items._events_due = 0.0
    put(server, "fresh")
    try:
        wait(lambda: reading.is_set() and "fresh" in listed(server))
    finally:
        done.set()


def test_a_swap_of_models_keeps_new_items_and_hidden_ones(full, home, published, other):
    put(full, "fresh")
    full.client.patch("/v1/items/i7", json={"available": False})
    wait(lambda: "fresh" in listed(full) and "i7" not in listed(full))
    seen: list[set[str]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(set(listed(full)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    version = bundles.publish(published, home / "models", "users", other)
    wait(lambda: full.recommend(*EVENTS).json()["model"]["version"] == version)
    time.sleep(0.1)
    stop.set()
    watcher.join()
    assert all("fresh" in one and "i7" not in one for one in seen)


class Log:
    """Takes down errors."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **_) -> None:
        self.errors.append(event)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ((ItemPlacer, "place"), "new items cannot be placed"),
        ((ItemEvidenceReader, "read"), "first events of new items cannot be read"),
        ((Recommender, "with_items"), "items of a model stay as they were"),
        ((ItemTable, "read_changes"), "items could not be refreshed"),
    ],
)
def test_a_failure_takes_nothing_down_and_is_logged_once(server, monkeypatch, place, says):
    log = server.container.items._log = Log()

    def fail(*_, **__):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        put(server, "fresh")
        wait(lambda: says in log.errors)
        for n in range(3):
            put(server, f"fresh{n}")
            assert len(listed(server)) > 70
            time.sleep(0.1)
        server.client.patch("/v1/items/i7", json={"available": False})
        if place[0] in (ItemPlacer, ItemEvidenceReader):
            wait(lambda: "i7" not in listed(server))
    put(server, "after")
    wait(lambda: {"fresh", "fresh2", "after"} <= set(listed(server)) and "i7" not in listed(server))
    assert log.errors.count(says) == 1


class EvidenceReading:
    """Readers of evidence about stored items, at moments of a clock."""

    def __init__(self, server) -> None:
        items = server.container.items
        (model,) = items._registry.loaded().values()
        self._table, self._database, self._recommender = items.table, items._database, model.recommender
        self._engine = server.container.database.engine
        self.moment = 0.0

    def reader(self) -> ItemEvidenceReader:
        return ItemEvidenceReader(self._database, self._recommender, lambda: self.moment)

    def read(self, reader: ItemEvidenceReader, moment: float, **created: float) -> dict:
        """Evidence that a reader has at a moment, of items that came at others: likes, traffic and tastes by item."""
        self.moment = moment
        stored = self._table.of("user").copy()
        stored.items = {name: stored.items[name] for name in created}
        stored.created = {name: datetime.fromtimestamp(at, UTC) for name, at in created.items()}
        asyncio.run(reader.read(stored))
        return {name: (one.events, one.traffic, one.tastes.tolist()) for name, one in reader.evidence.items()}

    def received(self, moment: float, entity: str | None = None) -> None:
        """Set when events were stored, those of an entity or all."""
        change = update(EventRecord).values(received=datetime.fromtimestamp(moment, UTC))
        with self._engine.begin() as connection:
            assert connection.execute(change if entity is None else change.where(EventRecord.entity == entity)).rowcount


def test_processes_that_read_at_other_times_of_a_window_know_the_same(server):
    put(server, "fresh")
    server.client.post("/v1/events", json={"events": [{"entity": "anna", "item": "fresh"}]})
    wait(lambda: "fresh" in server.container.items.table.of("user").items)
    reading, begin = EvidenceReading(server), time.time() // WINDOW_S * WINDOW_S
    reading.received(begin - 2)
    first, last, later = (
        reading.read(reading.reader(), begin + seconds, fresh=begin) for seconds in (1, WINDOW_S - 1, 2 * WINDOW_S)
    )
    assert first == last != later
    assert first["fresh"][0] == 1


def test_an_item_that_came_after_a_reading_is_weighed_as_by_a_process_that_reads_now(server):
    """That nobody liked it since it came is known of it too."""
    for name in ("fresh", "later"):
        put(server, name)
    server.client.post("/v1/events", json={"events": [{"entity": "anna", "item": "i3"}]})
    wait(lambda: {"fresh", "later"} <= set(server.container.items.table.of("user").items))
    reading, begin = EvidenceReading(server), time.time() // WINDOW_S * WINDOW_S
    reading.received(begin - 2)
    reader = reading.reader()
    assert set(reading.read(reader, begin + 1, fresh=begin)) == {"fresh"}
    evidence = reading.read(reader, begin + 5, fresh=begin, later=begin + 2)
    assert evidence == reading.read(reading.reader(), begin + 9, fresh=begin, later=begin + 2)
    assert evidence["fresh"][1] > evidence["later"][1] > 0


def test_before_a_window_has_events_before_it_short_ones_are_shared(server):
    put(server, "fresh")
    server.client.post("/v1/events", json={"events": [{"entity": "anna", "item": "i3"}]})
    wait(lambda: "fresh" in server.container.items.table.of("user").items)
    reading, begin = EvidenceReading(server), time.time() // WINDOW_S * WINDOW_S
    reading.received(begin + 1)
    moments = (2, FIRST_WINDOW_S + 1, 2 * FIRST_WINDOW_S - 1, 2 * FIRST_WINDOW_S + 1)
    traffic = [reading.read(reading.reader(), begin + s, fresh=begin)["fresh"][1] for s in moments]
    assert 0 == traffic[0] < traffic[1] == traffic[2] != traffic[3]


def test_tastes_are_read_anew_of_those_who_had_events(server):
    put(server, "fresh")
    events = [{"entity": e, "item": item} for e in ("anna", "ben") for item in ("i3", "fresh")]
    server.client.post("/v1/events", json={"events": events})
    wait(lambda: "fresh" in server.container.items.table.of("user").items)
    reading, begin = EvidenceReading(server), time.time() // WINDOW_S * WINDOW_S
    reading.received(begin - 2)
    reader = reading.reader()
    before = reading.read(reader, begin + 1, fresh=begin)
    server.client.post("/v1/events", json={"events": [{"entity": "anna", "item": i} for i in ("i14", "i15", "i16")]})
    reading.received(begin + 2, "anna")
    after = reading.read(reader, begin + WINDOW_S + 1, fresh=begin)
    assert after["fresh"][2] != before["fresh"][2]
    assert after == reading.read(reading.reader(), begin + WINDOW_S + 9, fresh=begin)


def test_what_is_done_is_in_the_audit_log(server):
    put(server, "a")
    server.client.patch("/v1/items/a", json={"available": False})
    server.client.delete("/v1/items/a")
    with server.container.database.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT action, target FROM audit ORDER BY id").all()
    assert [tuple(row) for row in rows] == [("hide item", "user a"), ("delete item", "user a")]
