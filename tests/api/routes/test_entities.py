"""What is stored of a newcomer, and that erasing it leaves nothing."""

import threading
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from sqlalchemy import inspect, text

from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.schema import FeatureField
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database import engine as sql
from tests.api import bundles
from tests.api.servers import serving, settings, wait

THREE = ("i3", "i14", "i15")


def path(entity: str, kind: str = "user") -> str:
    return f"/v1/entities/{kind}/{quote(entity, safe='')}"


def rows_about(server, entity: str) -> int:
    """Rows of any table with the id in any column."""
    found = 0
    with server.container.database.engine.connect() as connection:
        for table in inspect(connection).get_table_names():
            for row in connection.execute(text(f'SELECT * FROM "{table}"')):
                found += any(entity in str(value) for value in row)
    return found


def test_features_are_put_and_read(full, new_id):
    put = full.client.put(path(new_id), json={"features": {"age": 30, "group": ["group1", "group2"]}})
    assert put.status_code == 200
    found = full.client.get(path(new_id)).json()
    assert found["features"] == {"age": 30, "group": ["group1", "group2"]}
    assert (found["events"], found["events_total"], found["last_adaptation"]) == ([], 0, None)
    stored = full.recommend(*THREE, entity={"id": new_id})
    given = full.recommend(*THREE, entity={"features": {"age": 30, "group": ["group1", "group2"]}})
    assert stored.json()["items"] == given.json()["items"]
    full.client.put(path(new_id), json={"features": {"age": 60}})
    assert full.client.get(path(new_id)).json()["features"] == {"age": 60}
    assert full.recommend(*THREE, entity={"id": new_id}).json()["items"] != stored.json()["items"]


def test_a_receipt_says_whether_the_log_still_holds_what_was_erased(server, new_id, monkeypatch):
    """A reader under way keeps SQLite's log; the server empties it once the reader has ended."""
    monkeypatch.setattr(sql, "TRUNCATE_S", 0.1)
    server.client.put(path(new_id), json={"features": {"age": 30}})
    database = server.container.database
    with sql.reading(database.engine) as reader:
        reader.execute(text("SELECT COUNT(*) FROM events")).all()
        assert server.client.delete(path(new_id)).json()["log_emptied"] is False
        assert database.log_pending
    wait(lambda: not database.log_pending)
    folder = Path(str(database.engine.url.database)).parent
    assert {file.name for file in folder.iterdir() if file.is_file() and new_id.encode() in file.read_bytes()} == set()
    assert server.client.delete(path(new_id)).json()["log_emptied"] is True


def test_features_that_no_model_has_are_refused(server, new_id):
    strange = server.client.put(path(new_id), json={"features": {"shoe size": 44}})
    assert (strange.status_code, "'shoe size'" in strange.json()["detail"]) == (422, True)
    assert server.client.put(path(new_id), json={"features": {"age": "old"}}).status_code == 422
    assert server.client.get(path(new_id)).status_code == 404


def aged() -> Bundle:
    """A model of the same kind, which knows ages as groups."""
    made = bundles.popular()
    schema = made.schema.model_copy(update={"entity_features": (FeatureField(name="age"),)})
    vocab = Vocabulary({**made.vocab.values, "entity.age": pd.Index(["18-24", "25-34"], dtype="str")})
    return Bundle(**{**vars(made), "schema": schema, "vocab": vocab})


def test_only_what_no_model_of_the_kind_can_read_is_refused(home, light, new_id):
    bundles.publish(light, home / "models", "aged", aged())
    with serving(settings(home, light)) as server:
        assert {"aged", "users"} <= set(server.container.registry.live)
        for features in ({"age": "18-24"}, {"age": 30}, {"age": "18-24", "group": "group1"}):
            put = server.client.put(path(new_id), json={"features": features})
            assert put.status_code == 200, put.text
            stored = server.client.get(path(new_id)).json()["features"]
            assert stored == features
            assert server.client.put(path(new_id), json={"features": stored}).status_code == 200
            for model in ("aged", "users"):
                assert server.recommend(model=model, entity={"id": new_id}).status_code == 200
        strange = server.client.put(path(new_id), json={"features": {"shoe size": 44}})
        assert (strange.status_code, "'shoe size'" in strange.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    "entity", ["a/b", "a//b/", "ünïcødé 😀", "a b?c#d%25&e", "...", "x" * 200, "'; DROP TABLE events; --"]
)
def test_ids_may_be_anything_that_can_be_seen(server, entity):
    assert server.client.put(path(entity), json={"features": {"age": 30}}).status_code == 200
    server.client.post("/v1/events", json={"events": [{"entity": entity, "item": "i1"}]})
    found = server.client.get(path(entity)).json()
    assert (found["id"], found["events_total"]) == (entity, 1)
    assert server.recommend(entity={"id": entity}).json()["support_size"] == 1
    assert server.client.delete(path(entity)).json()["events"] == 1
    assert server.client.get(path(entity)).status_code == 404


@pytest.mark.parametrize("entity", ["a\nb", "a\x00b", "\x7f", "x" * 201, ""])
def test_other_ids_are_refused(server, entity):
    # A path with a line break is not one of ours at all.
    assert server.client.get(path(entity)).status_code == (404 if "\n" in entity else 422)
    assert server.recommend(entity={"id": entity}).status_code == 422


@pytest.mark.parametrize("entity", [".", ".."])
def test_ids_that_no_path_can_hold_are_refused_everywhere(server, entity):
    assert server.recommend(entity={"id": entity}).status_code == 422
    sent = server.client.post("/v1/events", json={"events": [{"entity": entity, "item": "i1"}]}).json()
    assert (sent["accepted"], len(sent["refused"])) == (0, 1)


def test_the_same_id_of_another_kind_is_another_entity(server, new_id):
    server.client.put(path(new_id), json={"features": {"age": 30}})
    assert server.client.get(path(new_id, "city")).status_code == 404


def test_erasing_leaves_no_row_and_no_key(full, keys_of, new_id):
    full.client.put(path(new_id), json={"features": {"age": 30}})
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": i} for i in THREE]})
    before = full.recommend(entity={"id": new_id})
    assert before.json()["support_size"] == 3
    wait(lambda: full.client.get(path(new_id)).json()["last_adaptation"])
    wait(lambda: len(keys_of()) >= 2)
    full.recommend(entity={"id": new_id})
    receipt = full.client.delete(path(new_id))
    assert receipt.status_code == 200
    told = receipt.json()
    assert (told["entity"], told["entities"], told["events"]) == (new_id, 1, 3)
    assert told["adaptations"] >= 1
    assert told["cached"] >= 2
    assert full.container.writer.flush()
    assert rows_about(full, new_id) == 0
    assert keys_of() == []
    assert len(full.container.memory) == 0
    assert full.client.get(path(new_id)).status_code == 404
    again = full.client.delete(path(new_id)).json()
    assert again["receipt"] == told["receipt"]
    after = full.recommend(entity={"id": new_id})
    assert (after.json()["support_size"], after.json()["served_by"]) == (0, "prior")
    assert after.json()["items"] != before.json()["items"]


@pytest.mark.parametrize("n", [6, 7], ids=["a list", "a state"])
def test_what_a_process_found_in_redis_is_gone_from_its_memory_once_it_is_erased(full, new_id, n):
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": i} for i in THREE]})
    for made in (5, 6):  # a list whose state was at hand is kept in Redis
        full.recommend(entity={"id": new_id}, n=made)
    wait(lambda: not full.container.cache_writer.pending)
    full.container.memory.close()
    assert full.recommend(entity={"id": new_id}, n=n).headers["x-cache"] == "redis"
    assert len(full.container.memory) == (1 if n == 6 else 2), "the list, or the state and the list made of it"
    assert full.client.delete(path(new_id)).status_code == 200
    assert len(full.container.memory) == 0


def test_erasing_under_load_leaves_nothing_made_before(full, keys_of, new_id):
    full.client.post("/v1/events", json={"events": [{"entity": new_id, "item": i} for i in THREE]})
    stop, failed = threading.Event(), []

    def ask(n):
        import httpx

        with httpx.Client(base_url=full.url, timeout=20) as client:
            while not stop.is_set():
                body = {"entity": {"id": new_id}, "n": 5 + n}
                failed.extend([r for r in [client.post("/v1/recommendations", json=body)] if r.status_code != 200])

    askers = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for asker in askers:
        asker.start()
    threading.Event().wait(0.3)
    erased = full.client.delete(path(new_id)).json()
    assert erased["events"] == 3
    after = full.recommend(entity={"id": new_id}, n=20)
    stop.set()
    for asker in askers:
        asker.join()
    assert not failed
    assert after.json()["support_size"] == 0
    assert full.container.writer.flush()
    rows = full.client.get("/v1/adaptations", params={"entity": new_id, "limit": 1000}).json()["items"]
    assert all(row["support_size"] == 0 for row in rows)
