"""What administrators do over HTTP is written down, with who did it and under which request."""

from recsys_meta.store.access import audit_log as audit
from recsys_meta.store.database.engine import connect, reading
from recsys_meta.store.entities import entities
from tests.api import bundles
from tests.api.servers import serving, settings


def test_acts_are_in_the_audit_with_actor_and_request(home, light, other):
    version = bundles.publish(light, home / "models", "users", other, live=False)
    spare = bundles.publish(light, home / "models", "users", bundles.popular(), live=False)
    engine = connect(light)
    with reading(engine) as s:
        digest = entities.entity_digest(s, "user", "anna")
    engine.dispose()
    acts = [
        ("POST", "/v1/models/users/promote", {"version": version}, "promote", f"users@{version}"),
        ("POST", "/v1/models/users/promote", {"version": version}, "promote", f"users@{version}"),
        ("PUT", "/v1/models/users/split", {"arms": [{"version": version, "weight": 1}]}, "split", "users split 1"),
        ("DELETE", "/v1/models/users/split", None, "split off", "users"),
        ("DELETE", "/v1/entities/user/anna", None, "delete entity", digest),
        ("POST", "/v1/models/users/default", {}, "default", "users for user"),
        ("POST", f"/v1/models/users/versions/{spare[:9]}/archive", {}, "archive", f"users@{spare}"),
        ("POST", f"/v1/models/users/versions/{spare[:9]}/restore", {}, "restore", f"users@{spare}"),
        ("DELETE", f"/v1/models/users/versions/{spare[:9]}", None, "delete model", f"users@{spare}"),
        ("POST", "/v1/models/users/retire", {}, "retire", "users"),
    ]
    with serving(settings(home, light, keys="secret:admin,seeing:read")) as server:
        ids = []
        for method, path, body, _, _ in acts:
            refused = server.client.request(method, path, json=body, headers={"x-api-key": "seeing"})
            assert refused.status_code == 403
            done = server.client.request(method, path, json=body, headers={"x-api-key": "secret"})
            assert done.status_code == 200, done.text
            ids.append(done.headers["x-request-id"])
        history = server.client.get("/v1/models/users", headers={"x-api-key": "secret"}).json()["history"]
    engine = connect(light)
    with reading(engine) as s:
        found = audit.list_audit(s).items[::-1]
    engine.dispose()
    assert [(a.action, a.target, a.request_id) for a in found] == [
        (action, target, id) for (*_, action, target), id in zip(acts, ids, strict=True)
    ]
    (actor,) = {a.actor for a in found}
    assert history[0]["actor"] == actor
    assert "secret" not in actor


def test_an_act_that_fails_is_not_in_the_audit(server, light):
    assert server.client.post("/v1/models/users/rollback", json={}).status_code == 409
    engine = connect(light)
    with reading(engine) as s:
        assert audit.list_audit(s).items == []
    engine.dispose()
