"""The registry over HTTP: what is live, and that changing it loses no request."""

import json
import threading

import httpx
import pytest

from recsys_meta.store.access import audit_log as audit
from recsys_meta.store.database.engine import connect, reading, session
from recsys_meta.store.tracking import evaluations
from recsys_meta.store.tracking.evaluations import NewEvaluation
from tests.api import bundles
from tests.api.servers import serving, settings, wait


def audited(url):
    """What the audit says, newest first."""
    engine = connect(url)
    with reading(engine) as s:
        rows = audit.list_audit(s).items
    engine.dispose()
    return rows


@pytest.fixture
def versions(home, light, bundle, other):
    """First and second version of 'users'; the second is live."""
    return (
        bundles.publish(light, home / "models", "users", bundle),
        bundles.publish(light, home / "models", "users", other),
    )


def test_models_are_listed_and_shown(server):
    (model,) = server.client.get("/v1/models").json()["items"]
    assert (model["name"], model["live"], model["problem"]) == ("users", model["loaded"], None)
    assert (model["kind"], model["objective"], model["predictor"], model["items"]) == ("user", "ranking", "maml", 80)
    shown = server.client.get("/v1/models/users").json()
    assert [v["version"] for v in shown["registered"]] == [model["live"]]
    assert [m["action"] for m in shown["history"]] == ["publish"]


def test_promote_and_rollback_take_effect_at_once(home, light, versions):
    first, second = versions
    with serving(settings(home, light)) as server:
        before = server.recommend("i1", "i2")
        assert before.json()["model"]["version"] == second
        moved = server.client.post("/v1/models/users/promote", json={"version": first[:6]})
        assert (moved.status_code, moved.json()["version"], moved.json()["previous"]) == (200, first, second)
        after = server.recommend("i1", "i2")
        assert (after.json()["model"]["version"], after.json()["served_by"]) == (first, "adapted")
        assert after.json()["items"] != before.json()["items"]
        assert server.client.post("/v1/models/users/rollback", json={}).json()["version"] == second
        acts = [(a.action, a.target, a.actor) for a in audited(light)]
        assert acts == [(a, f"users@{v}", "this machine") for a, v in (("rollback", second), ("promote", first))]
        assert server.recommend("i1", "i2").json()["model"]["version"] == second
        pinned = server.recommend("i1", "i2", model=f"users@{first}").json()
        assert pinned["model"]["version"] == first
        assert pinned["items"] == after.json()["items"]
        short = server.recommend("i1", "i2", model=f"users@{first[:6]}").json()
        assert short["model"]["version"] == first


def test_versions_asked_for_by_name_stay_loaded_while_they_are_asked_for(home, light, bundle, monkeypatch):
    monkeypatch.setattr("api.inference.model_registry._MAX_PINNED", 2)

    def version(scale, live=False):
        params = {k: scale * v if v.is_floating_point() else v for k, v in bundle.params.items()}
        made = type(bundle)(**{**vars(bundle), "params": params})
        return bundles.publish(light, home / "models", "users", made, live)

    version(1.0, live=True)
    often, second, third = (version(scale) for scale in (0.9, 0.8, 0.7))
    with serving(settings(home, light)) as server:
        for name in (often, second, often, third):
            assert server.recommend("i1", model=f"users@{name}").json()["model"]["version"] == name
        assert [name for _, name in server.container.registry._pinned] == [often, third]


def test_other_processes_follow_within_seconds(home, light, versions):
    first, _ = versions
    with serving(settings(home, light)) as one, serving(settings(home, light)) as two:
        one.client.post("/v1/models/users/promote", json={"version": first})
        wait(lambda: two.recommend("i1").json()["model"]["version"] == first)


def test_publishing_is_noticed_and_a_new_model_served(server, home, light, other):
    bundles.publish(light, home / "models", "more", other)
    wait(lambda: server.recommend("i1", model="more").status_code == 200)


@pytest.mark.slow
def test_no_request_fails_while_versions_change(home, light, versions):
    stop, statuses, seen, answers = threading.Event(), [], set(), {}
    """50 promotes and rollbacks: nobody gets an error, and every answer is of a version that was live meanwhile."""
    with serving(settings(home, light)) as server:

        def ask(n):
            with httpx.Client(base_url=server.url, timeout=20) as client:
                count = 0
                while not stop.is_set():
                    count += 1
                    items = [{"item": f"i{(n * 7 + count) % 60}"}, {"item": f"i{count % 50}"}]
                    response = client.post("/v1/recommendations", json={"events": items})
                    found = response.json()
                    statuses.append((response.status_code, len(found.get("items", []))))
                    version = found.get("model", {}).get("version")
                    seen.add(version)
                    answers.setdefault((version, *(e["item"] for e in items)), set()).add(str(found.get("items")))

        askers = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for asker in askers:
            asker.start()
        for _ in range(25):
            for act, body, version in (
                ("promote", {"version": versions[0]}, versions[0]),
                ("rollback", {}, versions[1]),
            ):
                assert server.client.post(f"/v1/models/users/{act}", json=body).json()["version"] == version
                assert server.recommend("i1").json()["model"]["version"] == version
        stop.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {(200, 10)}
    assert seen == set(versions)
    assert len(statuses) > 50
    # Never a mixture: for a version and a support there is one list.
    assert {len(lists) for lists in answers.values()} == {1}


def test_a_version_that_loses_to_popularity_is_refused_and_may_be_forced(server, light, home, other):
    version = bundles.publish(light, home / "models", "users", other, live=False)
    common = {"dataset": "d", "scenario": "s", "metric": "ndcg@10", "seed": None, "shots": 5}
    common |= {"low": None, "high": None, "n": 9}
    mine = {"method": "maml", "role": "learner", "value": 0.2, "model": "users", "model_version": version}
    engine = connect(light)
    with session(engine) as s:
        theirs = NewEvaluation(method="popularity", role="baseline", value=0.3, **common)
        evaluations.save_evaluations(s, [NewEvaluation(**mine, **common), theirs])
    engine.dispose()
    before = server.recommend("i1").json()["model"]
    refused = server.client.post("/v1/models/users/promote", json={"version": version})
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert "loses to the simplest baseline: ndcg@10 0.2000 against 0.3000 of 'popularity'" in refused.json()["detail"]
    assert server.recommend("i1").json()["model"] == before
    assert audited(light) == []
    forced = server.client.post("/v1/models/users/promote?force=true", json={"version": version})
    assert (forced.status_code, forced.json()["version"]) == (200, version)
    assert server.recommend("i1").json()["model"]["version"] == version


def test_unknown_names_and_versions_are_404(server):
    assert server.recommend(model="nobody").status_code == 404
    assert server.recommend(model="users@abcdef").status_code == 404
    assert server.client.get("/v1/models/nobody").status_code == 404
    nobody = server.client.post("/v1/models/nobody/promote", json={"version": "abc"})
    assert (nobody.status_code, "there is no model 'nobody'" in nobody.json()["detail"]) == (404, True)
    assert server.client.post("/v1/models/users/promote", json={"version": "abc"}).status_code == 404
    assert server.client.post("/v1/models/nobody/rollback", json={}).status_code == 404


def test_nothing_to_roll_back_to_is_409(server):
    assert server.client.post("/v1/models/users/rollback", json={}).status_code == 409


def test_a_damaged_version_is_never_promoted(home, light, other, capfd):
    version = bundles.publish(light, home / "models", "users", other, live=False)
    weights = home / "models" / "users" / version / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    with serving(settings(home, light)) as server:
        before = server.recommend("i1").json()["model"]
        refused = server.client.post("/v1/models/users/promote", json={"version": version})
        # To ask again would not mend it.
        assert (refused.status_code, "retry-after" in refused.headers) == (409, False)
        assert refused.json()["detail"] == f"users@{version}: the version cannot be loaded; the server's log says why"
        assert server.client.get("/v1/models/users").json()["live"] == before["version"]
        assert server.recommend("i1").json()["model"] == before
    out, err = capfd.readouterr()
    (line,) = (line for line in map(json.loads, out.splitlines()) if line["event"] == "a version cannot be loaded")
    assert (line["level"], line["model"], line["version"]) == ("error", "users", version)
    assert "damaged (its hash differs)" in line["exception"]
    assert err == ""


def test_a_version_damaged_after_it_went_live_leaves_the_one_before_in_service(server, home, light, other):
    before = server.recommend("i1").json()["model"]["version"]
    path = bundles.save_bundle(other, home / "models" / "users")
    (path / "bundle.json").write_text("{}")
    bundles.register(light, "users", path)
    wait(lambda: server.client.get("/v1/models").json()["items"][0]["problem"])
    told = server.client.get("/v1/models").text + server.client.get("/readyz").text
    assert str(home) not in told
    assert "the server's log says why" in told
    assert server.recommend("i1").json()["model"]["version"] == before
    ready = server.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")


def test_a_folder_that_holds_another_version_than_it_is_registered_as_is_not_served(home, light, other, capfd):
    with serving(settings(home, light)) as server:
        before = server.recommend("i1").json()["model"]["version"]
        path = bundles.save_bundle(other, home / "models" / "users")
        wrong = path.rename(path.with_name("0" * 16))
        bundles.register(light, "users", wrong)
        wait(lambda: server.client.get("/v1/models").json()["items"][0]["problem"])
        assert server.recommend("i1").json()["model"]["version"] == before
    assert f"holds version {path.name}, not {wrong.name}" in capfd.readouterr().out


def test_a_model_that_fails_is_answered_for_by_popularity(home, light, bundle):
    bundles.publish(light, home / "models", "users", bundles.diverged(bundle))
    with serving(settings(home, light)) as server:
        found = server.recommend("i1", "i2").json()
        assert (found["served_by"], found["degraded"], found["missing"]) == ("popular", True, ["model"])
        assert len(found["items"]) == 10
        names = list(bundle.vocab.values["item"])
        counts = [float(bundle.popularity[names.index(row["item"]) + 2]) for row in found["items"]]
        assert counts == sorted(counts, reverse=True)
        assert server.client.post("/v1/adapt", json={"events": [{"item": "i1"}]}).status_code == 503
        assert server.client.get("/readyz").json()["status"] == "degraded"


def test_a_baseline_is_served_like_a_learner(home, light):
    bundles.publish(light, home / "models", "users", bundles.popular())
    with serving(settings(home, light)) as server:
        found = server.recommend("i1", "i2").json()
        assert (found["served_by"], len(found["items"])) == ("adapted", 10)


def test_before_anything_is_published_the_server_says_so(home, sqlite_url):
    with serving(settings(home, sqlite_url)) as server:
        assert server.client.get("/livez").status_code == 200
        assert server.client.get("/readyz").status_code == 503
        response = server.recommend("i1")
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert server.client.get("/v1/models").json() == {"items": [], "degraded": False}
