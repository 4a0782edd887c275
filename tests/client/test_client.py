"""The client and the OpenAPI document say the same, and the client does well with a server that is busy or away."""

import asyncio
import inspect
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

import httpx
import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

import recsys_meta.client
from api.app import build_app
from api.schemas.component_names import COMPONENT_NAMES, component_name
from recsys_meta.client import (
    ApiError,
    AsyncClient,
    CandidateEntity,
    Client,
    EntityInput,
    Event,
    ExplorationOptions,
    Filter,
    ItemInput,
    ItemWithFeatures,
    QueryContextInput,
    RetryPolicy,
    ScoringRow,
    SplitShare,
    SupportEvent,
    TransportError,
    endpoints,
)
from recsys_meta.wire import (
    entity_responses,
    item_responses,
    model_responses,
    requests,
    responses,
    service_responses,
)
from tests.api.servers import serving, settings

BODIES = (requests, responses, entity_responses, item_responses, model_responses, service_responses)
NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ANNA = EntityInput(kind="user", id="anna/1", features={"age": 31, "tags": ["a", None], "new": True})
RICH = SupportEvent(item="i1", label=1.0, time=NOON, event_id="e1", context={"price": 1.5, "device": "phone"})
SAMPLES = {
    "recommend": [
        ((), {}),
        ((["i1", RICH],), {"entity": ANNA, "n": 5, "model": "users@abc", "exclude": ["i2"], "include_seen": True}),
        ((), {"entity": "anna", "candidates": ["i1", ItemWithFeatures(item="i2", features={"lat": 1.0})]}),
        (
            (),
            {
                "filters": {"genre": Filter(any=["a"], none=["b"]), "year": Filter(min=1990, max=1999.5)},
                "cursor": "abc",
                "explain": True,
            },
        ),
        (
            (),
            {
                "moment": QueryContextInput(
                    context={"hour": 3}, actor="bob", lat=1.0, lon=2.0, history=["i1", ItemWithFeatures(item="i2")]
                )
            },
        ),
    ],
    "score": [((["i1", "i2"],), {"entity": "anna"}), ((), {"rows": [ScoringRow(item="i1", context={"hour": 3})]})],
    "rank_entities": [
        (([CandidateEntity(id="a", events=[RICH]), CandidateEntity(features={"age": 3})], ScoringRow(item="i1")), {}),
        (([CandidateEntity(id="a")], ScoringRow(item="i1")), {"explore": ExplorationOptions(seed=3)}),
    ],
    "onboarding": [((), {"kind": "user", "id": "anna", "model": "users", "n": 3, "strategy": "evidence"})],
    "adapt": [((["i1"],), {"entity": ANNA, "persist": True, "model": "users"})],
    "send_events": [(([Event(entity="anna", item="i1"), Event(kind="user", entity="b", item="i2", time=12.5)],), {})],
    "get_entity": [(("user", "anna/1?#%"), {"events": 3})],
    "put_entity": [(("user", "anna"), {"features": {"age": 3}})],
    "delete_entity": [(("user", "anna"), {})],
    "list_items": [((), {"kind": "user", "available": True, "since": 12.5, "limit": 3, "cursor": "x"})],
    "send_items": [
        (([ItemInput(id="i1", features={"genre": ["a"]}, title="One"), ItemInput(id="i2", available=False)],), {}),
        (([ItemInput(id="i1")],), {"kind": "user"}),
    ],
    "get_item": [(("a/1?#%",), {"kind": "user"})],
    "put_item": [(("i1", {"genre": "a"}), {"title": "One", "available": False, "kind": "user"}), (("i1",), {})],
    "show_item": [(("i1",), {"kind": "user"}), (("i1", False), {})],
    "delete_item": [(("i1",), {"kind": "user"})],
    "similar_items": [(("i1",), {"n": 3, "model": "users", "kind": "user", "filter": ["genre=a"]})],
    "list_models": [((), {})],
    "get_model": [(("users",), {})],
    "promote": [(("users", "abc"), {}), (("users", "abc"), {"force": True, "end_split": True})],
    "rollback": [(("users",), {})],
    "retire_model": [(("users",), {})],
    "set_default_model": [(("users",), {})],
    "archive_version": [(("users", "abc"), {})],
    "restore_version": [(("users", "abc"), {})],
    "delete_version": [(("users", "abc"), {})],
    "delete_model": [(("users",), {})],
    "get_split": [(("users",), {})],
    "put_split": [
        (("users", [SplitShare(version="abc", weight=0.9), SplitShare(version="abd", weight=0.1, label="new")]), {}),
        (("users", [SplitShare(version="abc", weight=1.0)]), {"salt": "x", "force": True}),
    ],
    "delete_split": [(("users",), {})],
    "list_runs": [((), {"status": "failed", "limit": 3, "cursor": "x"})],
    "list_metrics": [(("run/1",), {"key": "loss", "limit": 3, "cursor": "x"})],
    "list_evaluations": [
        ((), dict.fromkeys(("dataset", "scenario", "method", "model", "metric", "run", "cursor"), "x") | {"limit": 3})
    ],
    "list_adaptations": [
        ((), {"kind": "user", "entity": "a", "model_version": "v", "served_by": "cache", "limit": 3, "cursor": "x"})
    ],
    "live": [((), {})],
    "ready": [((), {})],
    "metrics": [((), {})],
}
NAMES = {
    name
    for name, function in vars(endpoints).items()
    if inspect.isfunction(function) and function.__module__ == endpoints.__name__ and not name.startswith("_")
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    app = build_app(settings(home, f"sqlite:///{home}/x.db"))
    return json.loads(json.dumps(app.openapi()))


def operation(document, call):
    """The operation of the document that a call is, and its path there."""
    segments = call.path.split("/")
    for path, operations in document["paths"].items():
        parts = path.split("/")
        if len(parts) == len(segments) and all(
            p == s or p.startswith("{") for p, s in zip(parts, segments, strict=True)
        ):
            return path, operations[call.method.lower()]
    raise AssertionError(call.path)


def sample_calls():
    return [(name, getattr(endpoints, name)(*args, **more)) for name in SAMPLES for args, more in SAMPLES[name]]


def test_samples_are_of_every_call_and_both_clients_have_them():
    assert set(SAMPLES) == NAMES
    for client in (Client, AsyncClient):
        for name in NAMES:
            method = inspect.signature(getattr(client, name))
            assert method == inspect.signature(getattr(endpoints, name))
            assert getattr(client, name).__doc__


def test_every_call_of_the_document_has_a_method(document):
    operations = {(operation(document, call)[0], call.method.lower()) for _, call in sample_calls()}
    assert operations == {(path, method) for path, ops in document["paths"].items() for method in ops}


def test_every_parameter_of_the_document_can_be_given(document):
    params = {}
    for _, call in sample_calls():
        path, _ = operation(document, call)
        params.setdefault((path, call.method.lower()), set()).update(call.params)
    for (path, method), names in params.items():
        expected = {p["name"] for p in document["paths"][path][method].get("parameters", []) if p["in"] == "query"}
        assert names == expected, (path, method)


def test_bodies_are_what_the_document_wants(document):
    for name, call in sample_calls():
        _, described = operation(document, call)
        assert ("requestBody" in described) == (call.body is not None), name
        if call.body is not None:
            schema = described["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(call.body)


def test_a_body_that_the_document_does_not_want_would_be_noticed(document):
    schema = {"$ref": "#/components/schemas/RecommendationRequest", "components": document["components"]}
    for wrong in ({"m": 5}, {"n": "5"}, {"events": [{}]}):
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(wrong))


def wire_models():
    """Classes of bodies by the name of their component."""
    models = {
        component_name(name): model
        for module in BODIES
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }
    models["Problem"] = models.pop("ProblemDocument")
    return models


def test_the_bodies_are_the_components_of_the_document(document):
    """Every schema, every field of it, and what is always there."""
    models = wire_models()
    for name, schema in document["components"]["schemas"].items():
        model = models.pop(name)
        assert {f.alias or n for n, f in model.model_fields.items()} == set(schema["properties"]), name
        required = {f.alias or n for n, f in model.model_fields.items() if f.is_required()}
        always = {f.alias or n for n, f in model.model_fields.items() if f.json_schema_extra}
        assert required | always == set(schema.get("required", [])), name
    assert set(models) == {"RequestModel", "ResponseModel", "EntityResponse", "RowScore"}


def test_every_component_that_keeps_an_older_name_is_one_of_a_body():
    assert set(COMPONENT_NAMES) <= {n for module in BODIES for n in vars(module)}
    assert len(set(COMPONENT_NAMES.values()) - set(COMPONENT_NAMES)) == len(COMPONENT_NAMES)


def test_answers_are_read_as_the_document_says(document):
    """The type that a call reads is the schema that the document promises."""
    for name, call in sample_calls():
        content = operation(document, call)[1]["responses"]["200"].get("content")
        if not content or "application/json" not in content or name == "live":
            assert call.response_type in (str, dict[str, str]), name
            continue
        schema = content["application/json"]["schema"]
        promised = {s.get("$ref", "").rpartition("/")[2] for s in schema.get("anyOf", [schema])}
        assert component_name(call.response_type.__name__) in promised, name


def strict(answer):
    """An answer, after a look that it has nothing that the client does not know."""
    for body in [answer, *(getattr(answer, "items", None) or [])]:
        if isinstance(body, BaseModel):
            assert not body.model_extra, body
    return answer


def test_against_a_real_server(server, new_id):
    with Client(server.url) as client:
        events = [Event(entity=new_id, item=f"i{n}", event_id=f"{new_id} {n}", time=NOON) for n in range(3)]
        receipt = client.send_events([*events, Event(entity=new_id, item="i1", time=4e9)])
        assert (receipt.accepted, len(receipt.refused)) == (3, 1)
        assert client.send_events(events).duplicates == 3
        listed = strict(client.recommend(entity=new_id, n=5))
        assert (len(listed.items), listed.support_size, listed.served_by) == (5, 3, "adapted")
        plain = server.client.post("/v1/recommendations", json={"entity": {"id": new_id}, "n": 5}).json()
        assert [i.item for i in listed.items] == [i["item"] for i in plain["items"]]
        scores = client.score([i.item for i in listed.items], entity=new_id)
        assert [s.score for s in scores.scores] == pytest.approx([i.score for i in listed.items], abs=1e-4)
        pages = [client.recommend(entity=new_id, n=2)]
        pages.append(client.recommend(entity=new_id, n=2, cursor=pages[0].next))
        assert [i.item for page in pages for i in page.items] == [i.item for i in listed.items[:4]]
        assert client.recommend(["i1"], explain=True).items[0].why.events[0].item == "i1"
        assert len(strict(client.onboarding(kind="user", n=3)).items) == 3
        assert client.adapt(["i1", "i2"]).loss_after is not None
        strange = f"{new_id}/a?b#c%2F"
        assert client.put_entity("user", strange, {"age": 3}).id == strange
        assert client.get_entity("user", strange, events=0).features == {"age": 3}
        assert client.delete_entity("user", strange).entities == 1
        with pytest.raises(ApiError) as caught:
            client.get_entity("user", strange)
        assert caught.value.status == 404
        assert caught.value.problem.request_id in str(caught.value)
        (model,) = strict(client.list_models()).items
        assert client.get_model(model.name).registered[0].version == model.live
        assert client.promote(model.name, model.live).version == model.live
        with pytest.raises(ApiError, match="409"):
            client.rollback(model.name)
        server.container.writer.flush()
        assert client.list_adaptations(entity=new_id, limit=1).items[0]["entity"] == new_id
        assert (client.list_runs().items, client.list_runs().next) == ([], None)
        assert {row["method"] for row in client.list_evaluations().items} == {"maml", "popularity"}
        with pytest.raises(ApiError):
            client.list_metrics("none")
        assert (client.live(), client.ready().status) == ({"status": "alive"}, "ready")
        assert "recsys_meta_requests_total" in client.metrics()


def test_the_async_client_answers_the_same(server, new_id):
    async def walk():
        async with AsyncClient(server.url) as client:
            lists = await asyncio.gather(*(client.recommend(["i1", "i2"], n=n) for n in range(1, 9)))
            assert [len(response.items) for response in lists] == list(range(1, 9))
            assert (await client.ready()).status == "ready"
            with pytest.raises(ApiError, match="404"):
                await client.get_model("nobody")
            return lists[7]

    with Client(server.url) as client:
        assert asyncio.run(walk()).items == client.recommend(["i1", "i2"], n=8).items


def test_a_key_opens_and_a_refusal_names_the_request(home, light):
    with serving(settings(home, light, keys="mine:read")) as server:
        with Client(server.url, key="mine") as client:
            assert client.recommend(["i1"]).items
            with pytest.raises(ApiError, match=r"403.*scope"):
                client.send_events([Event(entity="e", item="i1")])
        with Client(server.url) as client, pytest.raises(ApiError, match="401"):
            client.recommend()


def test_a_limited_client_waits_and_gets_its_answer(home, light):
    limited = settings(home, light).model_copy(update={"rate_limit": "3 per 2 seconds"})
    with serving(limited) as server, Client(server.url, patience=RetryPolicy(tries=9)) as client:
        assert all(client.recommend(["i1"]).items for _ in range(5))


def test_a_server_that_is_gone_gives_no_answer(home, light):
    with serving(settings(home, light)) as server:
        port = server.port
    with (
        Client(f"http://127.0.0.1:{port}", patience=RetryPolicy(tries=2, first=0.01)) as client,
        pytest.raises(TransportError),
    ):
        client.live()


class Script:
    """A transport that answers from a list, and counts."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), 0

    def __call__(self, request):
        self.requests += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, headers = answer
        body = {"status": "alive"} if status == 200 else {"status": status, "title": "t", "detail": "d"}
        return httpx.Response(status, json=body, headers=headers)


@pytest.fixture
def pauses(monkeypatch):
    seconds_slept = []
    monkeypatch.setattr("time.sleep", seconds_slept.append)

    async def later(seconds):
        seconds_slept.append(seconds)

    monkeypatch.setattr("recsys_meta.client.client.asyncio.sleep", later)
    return seconds_slept


def ask(kind, script, name, *args, **options):
    policy = RetryPolicy(jitter=lambda: 0.5, **options)
    if kind is Client:
        with Client("http://x", patience=policy, transport=httpx.MockTransport(script)) as client:
            return getattr(client, name)(*args)

    async def walk():
        async with AsyncClient("http://x", patience=policy, transport=httpx.MockTransport(script)) as client:
            return await getattr(client, name)(*args)

    return asyncio.run(walk())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_the_server_asks_for_is_waited(kind, pauses):
    script = Script((503, {"retry-after": "2"}), (429, {"retry-after": "7"}), (503, {}), (200, {}))
    assert ask(kind, script, "live", first=0.2) == {"status": "alive"}
    assert pauses == pytest.approx([2.1, 7.1, 0.4])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_patience_has_an_end(kind, pauses):
    script = Script(*[(503, {})] * 9)
    with pytest.raises(ApiError, match="503"):
        ask(kind, script, "live", tries=3)
    assert (script.requests, len(pauses)) == (3, 2)
    script = Script((429, {"retry-after": "3600"}))
    with pytest.raises(ApiError, match="429"):
        ask(kind, script, "live")
    assert script.requests == 1


def test_a_date_is_a_time_to_come_back_too():
    patience = RetryPolicy(jitter=lambda: 0.0)
    assert patience.wait(1, "Fri, 17 May 2024 12:00:00 GMT", 0.0) == 0.0
    assert patience.wait(1, "Fri, 17 May 2999 12:00:00 GMT", 0.0) is None
    assert patience.wait(1, "soon", 0.0) == 0.0


@pytest.mark.parametrize(
    ("name", "args", "first", "requests_sent"),
    [
        ("rollback", ("users",), (503, {}), 1),  # it may have happened
        ("rollback", ("users",), (429, {}), 2),
        ("rollback", ("users",), httpx.ReadTimeout(""), 1),
        ("rollback", ("users",), httpx.ConnectError(""), 2),
        ("live", (), httpx.ReadTimeout(""), 2),
        ("live", (), (500, {}), 1),
        ("live", (), (404, {}), 1),
        ("ready", (), (503, {}), 1),  # an answer by itself
        ("send_events", ([Event(entity="e", item="i")],), (503, {}), 1),
        ("send_events", ([Event(entity="e", item="i", event_id="1")],), (503, {}), 2),
    ],
)
def test_only_what_may_be_repeated_is(pauses, name, args, first, requests_sent):
    script = Script(first, (404, {}))
    with pytest.raises((ApiError, TransportError)):
        ask(Client, script, name, *args)
    assert script.requests == requests_sent


def test_an_answer_that_is_not_the_apis_is_said_to_be_so():
    def proxy(request):
        return httpx.Response(200, text="<html>welcome")

    with (
        Client("http://x", transport=httpx.MockTransport(proxy)) as client,
        pytest.raises(TransportError, match="not the API"),
    ):
        client.recommend()

    def broken(request):
        return httpx.Response(502, text="<html>bad gateway")

    with Client("http://x", transport=httpx.MockTransport(broken)) as client, pytest.raises(ApiError, match="502"):
        client.recommend()


def test_a_misspelt_field_does_not_travel():
    with pytest.raises(ValidationError):
        SupportEvent(item="i1", labl=1)
    with pytest.raises(TypeError):
        endpoints.recommend(nn=3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SupportEvent(item=""),
        lambda: SupportEvent(item="i1", time=datetime(2024, 5, 17)),
        lambda: QueryContextInput(lat=1.0),
        lambda: endpoints.recommend(["i1"], n=0),
        endpoints.score,
        lambda: endpoints.promote("users", "../x"),
        lambda: endpoints.put_entity("user", "anna", {"age": float("nan")}),
    ],
)
def test_a_value_that_the_api_would_refuse_does_not_travel(build):
    with pytest.raises(ValidationError):
        build()


def test_times_are_read_by_the_rule_of_the_server():
    for value in (NOON, NOON.isoformat(), NOON.timestamp(), NOON.timestamp() * 1000):
        assert SupportEvent(item="i1", time=value).time == NOON.timestamp()


def test_an_answer_of_another_release_is_read():
    """Fields that a newer server adds are kept; fields that an older one lacks have a default."""
    answer = {
        "request_id": "r", "model": {"name": "users", "version": "abc", "new": 1}, "degraded": True,
        "missing": ["clock"], "support_size": 0, "unknown_items": [], "served_by": "prior", "items": [], "next": None,
        "also": {"new": True},
    }  # fmt: skip
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    with Client("http://x", transport=transport) as client:
        response = client.recommend()
    assert (response.also, response.model.new) == ({"new": True}, 1)
    assert (response.variant, response.unknown_features, response.missing) == (None, [], ["clock"])
    counts = {"entities": 1, "events": 2, "adaptations": 3, "cached": 0}
    old = {"receipt": "r", "kind": "user", "entity": "e", "at": "2024-05-17T00:00:00Z", **counts}
    receipt = entity_responses.DeletionReceipt.model_validate(old)
    assert (receipt.impressions, receipt.outcomes, receipt.log_emptied) == (0, 0, True)


def test_the_names_of_earlier_versions_are_importable():
    client = recsys_meta.client
    assert (client.Newcomer, client.Told, client.Moment) == (EntityInput, ItemWithFeatures, QueryContextInput)
    assert (client.Row, client.Member, client.Share) == (ScoringRow, CandidateEntity, SplitShare)
    assert (client.Explore, client.Patience, client.NoAnswer) == (ExplorationOptions, RetryPolicy, TransportError)


def test_ids_travel_in_paths_whole():
    for id in ("a/b", "?x=1", "#", "%2F", "a b", "ü", "..a"):
        assert unquote(endpoints.get_entity("user", id).path.removeprefix("/v1/entities/user/")) == id


def test_it_needs_httpx_and_pydantic_only(tmp_path):
    """Copied to another project with the bodies, and with nothing else of this one."""
    root = Path(recsys_meta.client.__file__).parents[1]
    (tmp_path / "recsys_meta").mkdir()
    shutil.copy(root / "__init__.py", tmp_path / "recsys_meta")
    for package in ("client", "wire", "core"):
        shutil.copytree(
            root / package, tmp_path / "recsys_meta" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    words = (
        "import sys, recsys_meta.client;"
        "recsys_meta.client.SupportEvent(item='i', time='2024-05-17T12:00:00Z');"
        "heavy = {'torch', 'numpy', 'pandas', 'sqlalchemy', 'fastapi', 'redis'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or recsys_meta.client.__file__)"
    )
    alone = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == str(tmp_path / "recsys_meta" / "client" / "__init__.py")
