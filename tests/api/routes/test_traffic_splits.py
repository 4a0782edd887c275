"""Versions that answer side by side: each entity has its own, in every process, and every answer says which."""

import shutil
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from recsys_meta.core.atomic_io import dump_checksummed
from recsys_meta.store.access import audit_log as audit
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.model_registry import split_arms as arms
from recsys_meta.store.model_registry import traffic_splits as splits
from recsys_meta.store.model_registry.split_arms import SplitArm
from recsys_meta.store.tracking import evaluations
from tests.api import bundles
from tests.api.servers import Wire, serving, settings, wait
from tests.fixtures import stub_predictors as choosing
from tests.fixtures.services import free_port
from tests.store.samples import an_evaluation

IDS = [f"anna {n}" for n in range(40)]
EVENTS = [{"item": "i1"}, {"item": "i2"}]


@pytest.fixture
def versions(home, light, bundle, other):
    """First and second version of 'users'; the first is live."""
    first = bundles.publish(light, home / "models", "users", bundle)
    return first, bundles.publish(light, home / "models", "users", other, live=False)


@pytest.fixture
def server(home, light, versions):
    with serving(settings(home, light)) as made:
        yield made


def split(server, *weights, versions, labels=("old", "new"), params="", **more):
    given = zip(versions, weights, labels, strict=False)
    body = {"arms": [{"version": v, "weight": w, "label": name} for v, w, name in given], **more}
    return server.client.put(f"/v1/models/users/split{params}", json=body)


def ask(server, entity, **body):
    who = {} if entity is None else {"entity": {"kind": "user", "id": entity}}
    return server.client.post("/v1/recommendations", json={"events": EVENTS, **who, **body}).json()


def told(answer):
    return answer["variant"], answer["model"]["version"]


def read(url, work):
    engine = connect(url)
    with reading(engine) as s:
        found = work(s)
    engine.dispose()
    return found


def test_every_entity_has_its_arm_and_every_answer_says_which(server, light, versions):
    live = ask(server, IDS[0])
    assert told(live) == (None, versions[0])
    document = split(server, 1, 3, versions=versions, salt="s").json()
    assert [(a["label"], a["version"], a["weight"]) for a in document["split"]["arms"]] == [
        ("old", versions[0], 0.25), ("new", versions[1], 0.75),
    ]  # fmt: skip
    assert server.client.get("/v1/models/users/split").json() == document
    (stored,) = read(light, arms.current_splits)
    found = {one: told(ask(server, one)) for one in IDS}
    assert found == {one: (stored.arm_for(one).label, stored.arm_for(one).version) for one in IDS}
    assert set(found.values()) == {("old", versions[0]), ("new", versions[1])}
    assert found == {one: told(ask(server, one, n=3)) for one in IDS}
    ended = server.client.delete("/v1/models/users/split").json()
    assert (ended["split"], [len(c["arms"]) for c in ended["history"]]) == (None, [0, 2])
    assert {told(ask(server, one)) for one in IDS} == {(None, versions[0])}
    acts = [(a.action, a.target, a.actor) for a in read(light, audit.list_audit).items]
    assert acts == [("split off", "users", "this machine"), ("split", "users split 1", "this machine")]


def test_an_arm_answers_as_its_version_does(server, versions):
    split(server, 1, 1, versions=versions)
    for one in IDS[:6]:
        variant, version = told(answer := ask(server, one))
        pinned = ask(server, one, model=f"users@{version}")
        assert told(pinned) == (None, version)
        assert pinned["items"] == answer["items"]
        assert variant is not None
        other = next(v for v in versions if v != version)
        assert told(ask(server, one, model=f"users@{other}")) == (None, other)
        assert told(ask(server, one, model="users")) == (variant, version)


def test_every_call_about_an_entity_is_answered_by_the_same_arm(server, versions):
    split(server, 1, 1, versions=versions)
    for one in IDS[:6]:
        variant = told(ask(server, one))
        body = {"entity": {"kind": "user", "id": one}, "events": EVENTS}
        assert told(server.client.post("/v1/score", json={**body, "items": ["i3"]}).json()) == variant
        assert told(server.client.post("/v1/adapt", json=body).json()) == variant
        found = server.client.get("/v1/onboarding", params={"kind": "user", "id": one, "n": 1}).json()
        assert told(found) == variant
        pages = ask(server, one, n=4)
        following = ask(server, one, n=4, cursor=pages["next"])
        assert told(following) == told(pages) == variant
        wait(lambda one=one, v=variant[1]: rows(server, one) == {v})


def rows(server, entity):
    found = server.client.get("/v1/adaptations", params={"entity": entity}).json()["items"]
    return {row["model_version"] for row in found}


def test_the_anonymous_and_lists_of_several_entities_are_answered_by_the_live_version(server, versions):
    split(server, 1e-9, 1, versions=versions)
    assert {told(ask(server, one)) for one in IDS} == {("new", versions[1])}
    assert {told(ask(server, None, n=n)) for n in range(1, 9)} == {(None, versions[0])}
    members = {"entities": [{"id": one} for one in IDS[:3]], "row": {"item": "i1"}}
    ranked = server.client.post("/v1/score", json={**members, "entity": {"kind": "user"}}).json()
    assert told(ranked) == (None, versions[0])


def test_other_processes_give_the_same_entity_the_same_arm(home, light, versions, server):
    with serving(settings(home, light)) as two:
        split(server, 1, 1, versions=versions)
        here = {one: told(ask(server, one)) for one in IDS}
        wait(lambda: {one: told(ask(two, one)) for one in IDS} == here)
        for version in versions:
            assert told(ask(two, IDS[0], model=f"users@{version}")) == (None, version)
            assert told(ask(two, IDS[0], model=f"users@{version[:9]}")) == (None, version)
        server.client.delete("/v1/models/users/split")
        wait(lambda: {told(ask(two, one)) for one in IDS} == {(None, versions[0])})


def test_a_server_that_starts_without_its_database_keeps_the_arms(home, migrated_schema, bundle, other):
    versions = [bundles.publish(migrated_schema, home / "models", "users", one) for one in (other, bundle)]
    wire = Wire(make_url(migrated_schema).port or 5432)
    url = make_url(migrated_schema).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    with serving(settings(home, migrated_schema)) as first:
        split(first, 1, 3, versions=versions)
        before = {one: told(ask(first, one)) for one in IDS}
        assert {variant for variant, _ in before.values()} == {"old", "new"}
        with serving(settings(home, url)) as late:
            found = {one: ask(late, one) for one in IDS}
            assert {one: told(answer) for one, answer in found.items()} == before
            assert {tuple(answer["missing"]) for answer in found.values()} == {("database",)}
            # An arm that is gone meanwhile is left to the live version, as ever.
            shutil.rmtree(home / "models" / "users" / versions[0])
            with serving(settings(home, url)) as later:
                halves = {one: told(ask(later, one)) for one in IDS}
                assert halves == {one: b if b[0] == "new" else (None, versions[1]) for one, b in before.items()}
            # The database is back and says that the split ended.
            first.client.delete("/v1/models/users/split")
            wire.mend()
            wait(lambda: {told(ask(late, one)) for one in IDS} == {(None, versions[1])})
    wire.cut()


def test_notes_of_before_splits_were_noted_are_read(home, light, versions):
    with serving(settings(home, light)):  # so that it is known that there are no keys
        pass
    (home / "live-models.json").write_text(dump_checksummed({"live": {"users": versions[0]}}))
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with serving(settings(home, nowhere)) as server:
        assert told(ask(server, IDS[0])) == (None, versions[0])


def test_one_version_may_be_two_arms(server, versions):
    """A/A: what differs between two equal arms is chance."""
    split(server, 1, 1, versions=[versions[0]] * 2)
    counts = Counter(told(ask(server, one)) for one in IDS)
    assert set(counts) == {("old", versions[0]), ("new", versions[0])}


def test_rows_say_which_arm_answered(server, light, versions):
    """Also where a version is two arms: nothing else could tell them apart afterwards."""
    split(server, 1, 1, versions=[versions[0]] * 2)
    arms_of = {one: ask(server, one)["variant"] for one in IDS[:8]}
    assert set(arms_of.values()) == {"old", "new"}
    assert {ask(server, one)["served_by"] for one in IDS[:8]} == {"cache"}
    ask(server, IDS[0], model=f"users@{versions[0]}")
    ask(server, None)
    server.client.post("/v1/adapt", json={"entity": {"id": IDS[0]}})
    wait(lambda: sum(row["answers"] for row in listed(server)) == 19)
    told = Counter((row["entity"], row["variant"]) for row in listed(server) for _ in range(row["answers"]))
    named = Counter(dict.fromkeys(arms_of.items(), 2))
    adapted = {(IDS[0], arms_of[IDS[0]]): 1}
    assert told == named + Counter({(IDS[0], None): 1, ("", None): 1}) + Counter(adapted)
    document = server.client.put(f"/v1/entities/user/{IDS[1]}", json={"features": {}}).json()
    assert document["last_adaptation"]["variant"] == arms_of[IDS[1]]
    by_arm = read(light, lambda s: s.execute(text(QUERY), {"model": "users"}).all())
    counts = Counter(arms_of.values())
    answers = Counter(dict.fromkeys([arms_of[IDS[0]]], 1))
    by_day = Counter()  # a test may run over midnight
    for row in by_arm:
        by_day[row.label] += row.answers
    assert by_day == {arm: 2 * n + answers[arm] for arm, n in counts.items()}


DOCS = Path(__file__).parents[3] / "docs" / "database.md"
QUERY = next(
    part.replace("'...'", ":model")
    for part in DOCS.read_text().split("```sql")[1].split("```")[0].split(";")
    if "FROM split_periods AS arm JOIN adaptation_daily" in part
)


def listed(server):
    return server.client.get("/v1/adaptations", params={"limit": 1000}).json()["items"]


def test_promoting_concludes_the_experiment(server, versions):
    split(server, 1, 1, versions=versions)
    server.client.post("/v1/models/users/promote", json={"version": versions[1]})
    assert {told(ask(server, one)) for one in IDS} == {(None, versions[1])}
    split(server, 1, 1, versions=versions)
    server.client.post("/v1/models/users/rollback", json={})
    assert {told(ask(server, one)) for one in IDS} == {(None, versions[0])}
    assert server.client.get("/v1/models/users/split").json()["split"] is None


def test_an_arm_that_loses_to_popularity_has_to_be_forced(server, light, versions):
    engine = connect(light)
    with session(engine) as s:
        ours = an_evaluation(model="users", model_version=versions[1], value=0.1)
        evaluations.save_evaluations(s, [ours, an_evaluation(method="popularity", role="baseline", value=0.2)])
    engine.dispose()
    refused = split(server, 1, 1, versions=versions)
    assert (refused.status_code, "loses to the simplest baseline" in refused.text) == (409, True)
    assert told(ask(server, IDS[0])) == (None, versions[0])
    assert split(server, 1, 1, versions=versions, params="?force=true").status_code == 200


def test_an_arm_that_is_damaged_is_refused_and_one_damaged_later_is_left_to_the_live_version(
    home, light, versions, server
):
    weights = home / "models" / "users" / versions[1] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"damaged!")
    refused = split(server, 1, 1, versions=versions)
    assert (refused.status_code, str(home) in refused.text, "retry-after" in refused.headers) == (409, False, False)
    weights.write_bytes(whole)
    assert split(server, 1, 1, versions=versions).status_code == 200
    weights.write_bytes(whole[:-8] + b"damaged!")
    with serving(settings(home, light)) as late:
        assert {told(ask(late, one)) for one in IDS} == {("old", versions[0]), (None, versions[0])}
        assert "arm" in late.client.get("/v1/models").json()["items"][0]["problem"]


def test_an_arm_for_other_newcomers_is_refused_and_never_served(home, light, versions, server, predictors):
    ads = bundles.publish(light, home / "models", "users", choosing.clicks(), live=False)
    refused = split(server, 1, 1, versions=[versions[0], ads])
    assert (refused.status_code, "of kind 'ad', not 'user'" in refused.text) == (409, True)
    engine = connect(light)
    with session(engine) as s:  # as the command line does, which loads nothing
        splits.start_split(s, "users", [SplitArm("old", versions[0], 1), SplitArm("new", ads, 1)])
    engine.dispose()
    wait(lambda: server.client.get("/v1/models").json()["items"][0]["problem"])
    assert {told(ask(server, one)) for one in IDS} == {("old", versions[0]), (None, versions[0])}


def test_what_makes_no_sense_is_refused(server, versions):
    put = server.client.put
    nobody = put("/v1/models/nobody/split", json={"arms": [{"version": "abc", "weight": 1}]})
    assert (nobody.status_code, "there is no model 'nobody'" in nobody.text) == (404, True)
    assert put("/v1/models/users/split", json={"arms": [{"version": "abc", "weight": 1}]}).status_code == 404
    for path in ("/v1/models/nobody/split",):
        assert server.client.get(path).status_code == server.client.delete(path).status_code == 404
    for weight in (0, -1, "1", None, 1e10):
        wrong = {"arms": [{"version": versions[0], "weight": weight}]}
        assert put("/v1/models/users/split", json=wrong).status_code == 422
    assert split(server, 1, 1, versions=versions, labels=("a", "a")).status_code == 422
    assert split(server, versions=versions).status_code == 422
    assert server.client.delete("/v1/models/users/split").json()["history"] == []


def test_no_request_fails_and_none_is_mixed_while_splits_come_and_go(server, versions):
    stop, statuses, lists = threading.Event(), Counter(), {}

    def go(n):
        with httpx.Client(base_url=server.url, timeout=20) as client:
            while not stop.is_set():
                for one in IDS[n::4]:
                    body = {"entity": {"kind": "user", "id": one}, "events": EVENTS}
                    response = client.post("/v1/recommendations", json=body)
                    statuses[response.status_code] += 1
                    found = response.json()
                    lists.setdefault(found["model"]["version"], set()).add(str([i["item"] for i in found["items"]]))

    askers = [threading.Thread(target=go, args=(n,)) for n in range(4)]
    for asker in askers:
        asker.start()
    for turn in range(10):
        assert split(server, 1, turn + 1, versions=versions).status_code == 200
        if turn % 3 == 2:
            assert server.client.delete("/v1/models/users/split").status_code == 200
    stop.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}
    assert {version: len(found) for version, found in lists.items()} == dict.fromkeys(versions, 1)
