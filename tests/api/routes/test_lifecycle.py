"""The life of a model as callers see it: defaults, candidates, versions that fail, lists that end."""

import pytest
import torch

from recsys_meta.models.bundle import Bundle
from recsys_meta.store.database.engine import connect, session
from recsys_meta.store.model_registry import lifecycle, registry
from tests.api import bundles
from tests.api.servers import serving, settings, wait


def change(url, act):
    engine = connect(url)
    with session(engine) as s:
        act(s)
    engine.dispose()


def answering(server, **body):
    response = server.client.post("/v1/recommendations", json={"events": [{"item": "i1"}], **body})
    return response.json()["model"]["name"] if response.status_code == 200 else response.status_code


def test_a_second_model_of_a_kind_does_not_change_who_answers(home, light, other):
    with serving(settings(home, light)) as server:
        assert answering(server, entity={"kind": "user"}) == "users"
        bundles.publish(light, home / "models", "a second one", other)
        wait(
            lambda: (
                server.recommend("i1", model="users").status_code == 200 and len(server.container.registry.live) == 2
            )
        )
        assert [answering(server), answering(server, entity={"kind": "user"})] == ["users"] * 2
        change(light, lambda s: registry.set_default_model(s, "user", "a second one"))
        wait(lambda: answering(server) == "a second one")
        listed = {m["name"]: m["default"] for m in server.client.get("/v1/models").json()["items"]}
        assert listed == {"a second one": True, "users": False}
        change(light, lambda s: lifecycle.retire_model(s, "a second one"))
        wait(lambda: answering(server) == "users")
        assert server.recommend("i1", model="users").status_code == 200


def broken(bundle: Bundle, how: str) -> Bundle:
    params = dict(bundle.params)
    name = max((k for k, v in params.items() if v.is_floating_point()), key=lambda k: params[k].numel())
    if how == "one NaN":
        params[name] = params[name].clone()
        params[name].view(-1)[-1] = torch.nan
    elif how == "a wrong shape":
        params[name] = params[name][:-3].clone()
    elif how == "infinite":
        params[name] = torch.full_like(params[name], torch.inf)
    popularity = bundle.popularity[:-2] if how == "popularity of others" else bundle.popularity
    return Bundle(**{**vars(bundle), "params": params, "popularity": popularity})


@pytest.mark.parametrize("how", ["one NaN", "a wrong shape", "infinite", "popularity of others"])
def test_a_version_that_fails_goes_live_by_no_door(home, light, bundle, how):
    good = bundles.publish(light, home / "models", "users", bundle)
    bad = bundles.publish(light, home / "models", "users", broken(bundle, how), live=False)
    with serving(settings(home, light)) as server:
        post, put = server.client.post, server.client.put
        for refused in (
            post("/v1/models/users/promote?force=true", json={"version": bad}),
            put("/v1/models/users/split?force=true", json={"arms": [{"version": bad, "weight": 1}]}),
        ):
            assert refused.status_code == 409, refused.text
            assert str(home) not in refused.text
        assert server.client.get("/v1/models/users").json()["live"] == good
        assert server.recommend("i1").json()["model"]["version"] == good
        # Another program's door: what was live goes on answering.
        change(light, lambda s: registry.promote_version(s, "users", bad, force=True))
        wait(lambda: server.client.get("/v1/models").json()["items"][0]["problem"])
        found = server.recommend("i2").json()
        assert (found["model"]["version"], found["served_by"]) == (good, "adapted")
        # And it is no version to go back to.
        change(light, lambda s: registry.promote_version(s, "users", good, force=True))
        assert post("/v1/models/users/rollback", json={}).status_code == 409


def test_a_third_candidate_does_not_end_a_split(home, light, bundle, other):
    first, second = (bundles.publish(light, home / "models", "users", b) for b in (bundle, other))
    third = bundles.publish(light, home / "models", "users", bundles.popular(), live=False)
    with serving(settings(home, light)) as server:
        arms = [{"version": v, "weight": 1} for v in (first, second)]
        assert server.client.put("/v1/models/users/split", json={"arms": arms}).status_code == 200
        refused = server.client.post("/v1/models/users/promote", json={"version": third})
        assert (refused.status_code, "end_split=true" in refused.json()["detail"]) == (409, True)
        assert server.client.get("/v1/models/users/split").json()["split"] is not None
        done = server.client.post("/v1/models/users/promote?end_split=true", json={"version": third})
        assert (done.status_code, done.json()["version"]) == (200, third)


def test_what_was_never_evaluated_is_promoted_by_force_only(home, light, other):
    path = bundles.save_bundle(other, home / "models" / "users")
    bundles.register(light, "users", path, live=False)
    with serving(settings(home, light)) as server:
        refused = server.client.post("/v1/models/users/promote", json={"version": path.name})
        assert (refused.status_code, "never evaluated" in refused.json()["detail"]) == (409, True)
        assert server.client.post("/v1/models/users/promote?force=true", json={"version": path.name}).status_code == 200


def test_a_model_ends_over_http_as_on_the_command_line(home, light, bundle, other):
    first, live = (bundles.publish(light, home / "models", "users", b) for b in (bundle, other))
    with serving(settings(home, light)) as server:

        def call(method, path, status=200):
            answer = server.client.request(method, f"/v1/models/users{path}", json={} if method == "POST" else None)
            assert answer.status_code == status, answer.text
            return answer.json()

        for method, path in (("POST", f"/{live}/archive"), ("DELETE", f"/{live}"), ("DELETE", f"/{live[:8]}")):
            assert "is live" in call(method, f"/versions{path}", 409)["detail"]
        assert "is live" in call("DELETE", "", 409)["detail"]
        call("POST", "/versions/00/archive", 404)
        archived = call("POST", f"/versions/{first[:8]}/archive")
        assert (archived["version"], archived["archived"] is not None) == (first, True)
        assert "is archived" in server.recommend("i1", model=f"users@{first}").json()["detail"]
        assert call("POST", f"/versions/{first}/restore")["archived"] is None
        assert server.recommend("i1", model=f"users@{first}").status_code == 200
        assert call("DELETE", f"/versions/{first}") == {"model": "users", "version": first, "bundles": 1}
        assert [p.name for p in (home / "models" / "users").iterdir()] == [live]
        assert call("POST", "/default") == {"kind": "user", "model": "users"}
        assert [call("POST", "/retire")["version"] for _ in range(2)] == [live, None]
        assert server.recommend("i1", model="users").status_code == 404
        call("POST", "/default", 404)
        assert call("DELETE", "") == {"model": "users", "version": None, "bundles": 1}
        call("GET", "", 404)
        assert not (home / "models" / "users").exists()


def test_bundles_that_lie_elsewhere_are_not_deleted(home, light, other, tmp_path):
    path = bundles.save_bundle(other, tmp_path / "elsewhere")
    bundles.register(light, "users", path, live=False)
    with serving(settings(home, light)) as server:
        assert server.client.delete(f"/v1/models/users/versions/{path.name}").json()["bundles"] == 0
    assert (path / "bundle.json").is_file()


def test_ranks_go_on_across_pages(plain):
    body, ranks = {"model": "users", "events": [{"item": "i3"}], "n": 7}, []
    for _ in range(3):
        page = plain.client.post("/v1/recommendations", json=body).json()
        ranks += [item["rank"] for item in page["items"]]
        body["cursor"] = page["next"]
    assert ranks == list(range(1, 22))


def test_a_list_that_is_short_says_why(plain):
    def short(**body):
        found = plain.client.post("/v1/recommendations", json={"model": "users", **body}).json()
        assert len(found["items"]) < body.get("n", 10)
        return found["shortfall"]

    assert plain.client.post("/v1/recommendations", json={"model": "users"}).json()["shortfall"] is None
    nothing_else, events = "the catalogue has no other item", [{"item": "i3"}, {"item": "i4", "label": 0}]
    assert short(n=1000) == nothing_else  # a newcomer who met nothing
    assert short(n=1000, events=events) == "no other item is left by what was met"
    assert short(n=1000, events=events, include_seen=True) == "no other item is left by what was disliked"
    assert short(n=1000, events=events[:1], include_seen=True) == nothing_else
    assert "exclude" in short(exclude=[f"i{i}" for i in range(100)])
    assert "candidates" in short(candidates=["i1", "nowhere"])


def test_events_are_told_what_became_of_them(server):
    def send(*events):
        return server.client.post("/v1/events", json={"events": list(events)}).json()

    good = {"entity": "a", "item": "i1", "event_id": "1", "time": 1e9}
    strange = {"entity": "a", "item": "from nowhere", "event_id": "2", "time": 1e9}
    assert send(good, strange)["outcome"] == "stored"
    assert send(good)["outcome"] == "nothing new"
    assert send({"entity": "a"})["outcome"] == "nothing stored"
    assert send({**good, "event_id": "3"}, {"entity": "a"})["outcome"] == "partly stored"
    assert (send({**strange, "event_id": "4"})["unknown_items"], send(good)["unknown_items"]) == (["from nowhere"], [])
