"""The registry over HTTP: what is live, and that changing it loses no request."""

import threading

import httpx
import pytest

from tests.api import bundles
from tests.api.servers import serving, settings, wait


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
        assert server.client.post("/v1/models/users/rollback").json()["version"] == second
        assert server.recommend("i1", "i2").json()["model"]["version"] == second
        pinned = server.recommend("i1", "i2", model=f"users@{first}").json()
        assert pinned["model"]["version"] == first
        assert pinned["items"] == after.json()["items"]
        short = server.recommend("i1", "i2", model=f"users@{first[:6]}").json()
        assert short["model"]["version"] == first


def test_other_processes_follow_within_seconds(home, light, versions):
    first, _ = versions
    with serving(settings(home, light)) as one, serving(settings(home, light)) as two:
        one.client.post("/v1/models/users/promote", json={"version": first})
        wait(lambda: two.recommend("i1").json()["model"]["version"] == first, 5)


def test_publishing_is_noticed_and_a_new_model_served(server, home, light, other):
    bundles.publish(light, home / "models", "more", other)
    wait(lambda: server.recommend("i1", model="more").status_code == 200, 5)


def test_no_request_fails_while_versions_change(home, light, versions):
    stop, statuses, seen = threading.Event(), [], set()
    with serving(settings(home, light)) as server:

        def ask(n):
            with httpx.Client(base_url=server.url, timeout=20) as client:
                count = 0
                while not stop.is_set():
                    count += 1
                    items = [{"item": f"i{(n * 7 + count) % 60}"}, {"item": f"i{count % 50}"}]
                    response = client.post("/v1/recommendations", json={"events": items})
                    statuses.append((response.status_code, len(response.json().get("items", []))))
                    seen.add(response.json().get("model", {}).get("version"))

        askers = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for asker in askers:
            asker.start()
        for turn in range(12):
            moved = server.client.post("/v1/models/users/promote", json={"version": versions[turn % 2]})
            assert moved.status_code == 200
            if turn % 4 == 3:
                assert server.client.post("/v1/models/users/rollback").status_code == 200
        stop.set()
        for asker in askers:
            asker.join()
    assert set(statuses) == {(200, 10)}
    assert seen == set(versions)
    assert len(statuses) > 50


def test_unknown_names_and_versions_are_404(server):
    assert server.recommend(model="nobody").status_code == 404
    assert server.recommend(model="users@abcdef").status_code == 404
    assert server.client.get("/v1/models/nobody").status_code == 404
    assert server.client.post("/v1/models/nobody/promote", json={"version": "abc"}).status_code == 404
    assert server.client.post("/v1/models/users/promote", json={"version": "abc"}).status_code == 404
    assert server.client.post("/v1/models/nobody/rollback").status_code == 404


def test_nothing_to_roll_back_to_is_409(server):
    assert server.client.post("/v1/models/users/rollback").status_code == 409


def test_a_damaged_version_is_never_promoted(server, home, light, other):
    version = bundles.publish(light, home / "models", "users", other, live=False)
    weights = home / "models" / "users" / version / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    before = server.recommend("i1").json()["model"]
    refused = server.client.post("/v1/models/users/promote", json={"version": version})
    assert refused.status_code == 503
    assert "damaged" in refused.json()["detail"]
    assert server.client.get("/v1/models/users").json()["live"] == before["version"]
    assert server.recommend("i1").json()["model"] == before


def test_a_version_damaged_after_it_went_live_leaves_the_one_before_in_service(server, home, light, other):
    before = server.recommend("i1").json()["model"]["version"]
    path = bundles.save_bundle(other, home / "models" / "users")
    (path / "bundle.json").write_text("{}")
    bundles.register(light, "users", path)
    wait(lambda: server.client.get("/v1/models").json()["items"][0]["problem"], 5)
    assert server.recommend("i1").json()["model"]["version"] == before
    ready = server.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")


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
