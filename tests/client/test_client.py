"""The client and the OpenAPI document say the same, and the client does well with a server that is busy or away."""

import asyncio
import inspect
import json
import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import unquote

import httpx
import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from api.app import build_app
from recsys_meta.client import (
    ApiError,
    AsyncClient,
    Client,
    Event,
    Explore,
    Filter,
    Member,
    Moment,
    Newcomer,
    NoAnswer,
    Patience,
    Row,
    Share,
    SupportEvent,
    Told,
)
from recsys_meta.client import endpoints as calls
from recsys_meta.client import requests as bodies
from recsys_meta.client import responses as answers
from tests.api.servers import serving, settings

NOON = datetime(2024, 5, 17, 12, tzinfo=UTC)
ANNA = Newcomer(kind="user", id="anna/1", features={"age": 31, "tags": ["a", None], "new": True})
RICH = SupportEvent(item="i1", label=1.0, time=NOON, event_id="e1", context={"price": 1.5, "device": "phone"})
SAMPLES = {
    "recommend": [
        ((), {}),
        ((["i1", RICH],), {"entity": ANNA, "n": 5, "model": "users@abc", "exclude": ["i2"], "include_seen": True}),
        ((), {"entity": "anna", "candidates": ["i1", Told(item="i2", features={"lat": 1.0})]}),
        (
            (),
            {
                "filters": {"genre": Filter(any=["a"], none=["b"]), "year": Filter(min=1990, max=1999.5)},
                "cursor": "abc",
                "explain": True,
            },
        ),
        ((), {"moment": Moment(context={"hour": 3}, actor="bob", lat=1.0, lon=2.0, history=["i1", Told(item="i2")])}),
    ],
    "score": [((["i1", "i2"],), {"entity": "anna"}), ((), {"rows": [Row(item="i1", context={"hour": 3})]})],
    "rank_entities": [
        (([Member(id="a", events=[RICH]), Member(features={"age": 3})], Row(item="i1")), {}),
        (([Member(id="a")], Row(item="i1")), {"explore": Explore(seed=3)}),
    ],
    "onboarding": [((), {"kind": "user", "id": "anna", "model": "users", "n": 3, "strategy": "evidence"})],
    "adapt": [((["i1"],), {"entity": ANNA, "persist": True, "model": "users"})],
    "send_events": [(([Event(entity="anna", item="i1"), Event(kind="user", entity="b", item="i2", time=12.5)],), {})],
    "get_entity": [(("user", "anna/1?#%"), {"events": 3})],
    "put_entity": [(("user", "anna"), {"features": {"age": 3}})],
    "delete_entity": [(("user", "anna"), {})],
    "list_models": [((), {})],
    "get_model": [(("users",), {})],
    "promote": [(("users", "abc"), {}), (("users", "abc"), {"force": True})],
    "rollback": [(("users",), {})],
    "get_split": [(("users",), {})],
    "put_split": [
        (("users", [Share(version="abc", weight=0.9), Share(version="abd", weight=0.1, label="new")]), {}),
        (("users", [Share(version="abc", weight=1.0)]), {"salt": "x", "force": True}),
    ],
    "delete_split": [(("users",), {})],
    "list_runs": [((), {"status": "failed", "limit": 3, "cursor": "x"})],
    "list_metrics": [(("run/1",), {"key": "loss", "limit": 3, "cursor": "x"})],
    "list_evaluations": [
        ((), dict.fromkeys(("dataset", "scenario", "method", "model", "metric", "cursor"), "x") | {"limit": 3})
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
    for name, made in vars(calls).items()
    if inspect.isfunction(made) and made.__module__ == calls.__name__ and not name.startswith("_")
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    made = build_app(settings(home, f"sqlite:///{home}/x.db"))
    return json.loads(json.dumps(made.openapi()))


def operation(document, call):
    """The operation of the document that a call is, and its path there."""
    given = call.path.split("/")
    for path, operations in document["paths"].items():
        parts = path.split("/")
        if len(parts) == len(given) and all(p == g or p.startswith("{") for p, g in zip(parts, given, strict=True)):
            return path, operations[call.method.lower()]
    raise AssertionError(call.path)


def made_calls():
    return [(name, getattr(calls, name)(*args, **more)) for name in SAMPLES for args, more in SAMPLES[name]]


def test_samples_are_of_every_call_and_both_clients_have_them():
    assert set(SAMPLES) == NAMES
    for client in (Client, AsyncClient):
        for name in NAMES:
            method = inspect.signature(getattr(client, name))
            assert method == inspect.signature(getattr(calls, name))
            assert getattr(client, name).__doc__


def test_every_call_of_the_document_has_a_method(document):
    found = {(operation(document, call)[0], call.method.lower()) for _, call in made_calls()}
    assert found == {(path, method) for path, ops in document["paths"].items() for method in ops}


def test_every_parameter_of_the_document_can_be_given(document):
    sent = {}
    for _, call in made_calls():
        path, _ = operation(document, call)
        sent.setdefault((path, call.method.lower()), set()).update(call.params)
    for (path, method), names in sent.items():
        wanted = {p["name"] for p in document["paths"][path][method].get("parameters", []) if p["in"] == "query"}
        assert names == wanted, (path, method)


def test_bodies_are_what_the_document_wants(document):
    for name, call in made_calls():
        _, found = operation(document, call)
        assert ("requestBody" in found) == (call.body is not None), name
        if call.body is not None:
            schema = found["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(call.body)


def test_a_body_that_the_document_does_not_want_would_be_noticed(document):
    schema = {"$ref": "#/components/schemas/RecommendationRequest", "components": document["components"]}
    for wrong in ({"m": 5}, {"n": "5"}, {"events": [{}]}):
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(wrong))


def test_the_client_has_the_fields_of_the_document(document):
    """Every schema, every field of it, and what is always there."""
    seen = set()
    for name, schema in document["components"]["schemas"].items():
        in_bodies, in_answers = getattr(bodies, name, None), getattr(answers, name, None)
        mine = in_bodies or in_answers
        assert mine is not None, f"the client has no {name}"
        seen.add(name)
        assert {f.alias or n for n, f in mine.model_fields.items()} == set(schema["properties"]), name
        required = {n for n, f in mine.model_fields.items() if f.is_required()}
        if in_bodies:
            assert required == set(schema.get("required", [])), name
        elif name != "Problem":
            assert required <= set(schema.get("required", [])), name
    mine = {
        n
        for module in (bodies, answers)
        for n, c in vars(module).items()
        if isinstance(c, type) and issubclass(c, BaseModel)
    }
    assert mine - seen <= {"BaseModel", "Body", "Form", "Answer", "Judgement"}


def test_answers_are_read_as_the_document_says(document):
    """The type that a call reads is the schema that the document promises."""
    for name, call in made_calls():
        content = operation(document, call)[1]["responses"]["200"].get("content")
        if not content or "application/json" not in content or name == "live":
            assert call.answer in (str, dict[str, str]), name
            continue
        schema = content["application/json"]["schema"]
        promised = {s.get("$ref", "").rpartition("/")[2] for s in schema.get("anyOf", [schema])}
        assert call.answer.__name__ in promised, name


def strict(answer):
    """An answer, after a look that it has nothing that the client does not know."""
    for found in [answer, *(getattr(answer, "items", None) or [])]:
        if isinstance(found, BaseModel):
            assert not found.model_extra, found
    return answer


def test_against_a_real_server(server, new_id):
    with Client(server.url) as client:
        events = [Event(entity=new_id, item=f"i{n}", event_id=f"{new_id} {n}", time=NOON) for n in range(3)]
        receipt = client.send_events([*events, Event(entity=new_id, item="")])
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
        for page in (client.list_runs(), client.list_evaluations()):
            assert (page.items, page.next) == ([], None)
        with pytest.raises(ApiError):
            client.list_metrics("none")
        assert (client.live(), client.ready().status) == ({"status": "alive"}, "ready")
        assert "recsys_meta_requests_total" in client.metrics()


def test_the_async_client_answers_the_same(server, new_id):
    async def walk():
        async with AsyncClient(server.url) as client:
            lists = await asyncio.gather(*(client.recommend(["i1", "i2"], n=n) for n in range(1, 9)))
            assert [len(found.items) for found in lists] == list(range(1, 9))
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
    made = settings(home, light).model_copy(update={"rate_limit": "3 per 2 seconds"})
    with serving(made) as server, Client(server.url, patience=Patience(tries=9)) as client:
        assert all(client.recommend(["i1"]).items for _ in range(5))


def test_a_server_that_is_gone_gives_no_answer(home, light):
    with serving(settings(home, light)) as server:
        port = server.port
    with Client(f"http://127.0.0.1:{port}", patience=Patience(tries=2, first=0.01)) as client, pytest.raises(NoAnswer):
        client.live()


class Script:
    """A transport that answers from a list, and counts."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0

    def __call__(self, request):
        self.asked += 1
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        status, headers = found
        body = {"status": "alive"} if status == 200 else {"status": status, "title": "t", "detail": "d"}
        return httpx.Response(status, json=body, headers=headers)


@pytest.fixture
def slept(monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)

    async def later(seconds):
        pauses.append(seconds)

    monkeypatch.setattr("recsys_meta.client.client.asyncio.sleep", later)
    return pauses


def ask(kind, script, name, *args, **patience):
    made = Patience(chance=lambda: 0.5, **patience)
    if kind is Client:
        with Client("http://x", patience=made, transport=httpx.MockTransport(script)) as client:
            return getattr(client, name)(*args)

    async def walk():
        async with AsyncClient("http://x", patience=made, transport=httpx.MockTransport(script)) as client:
            return await getattr(client, name)(*args)

    return asyncio.run(walk())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_the_server_asks_for_is_waited(kind, slept):
    script = Script((503, {"retry-after": "2"}), (429, {"retry-after": "7"}), (503, {}), (200, {}))
    assert ask(kind, script, "live", first=0.2) == {"status": "alive"}
    assert slept == pytest.approx([2.1, 7.1, 0.4])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_patience_has_an_end(kind, slept):
    script = Script(*[(503, {})] * 9)
    with pytest.raises(ApiError, match="503"):
        ask(kind, script, "live", tries=3)
    assert (script.asked, len(slept)) == (3, 2)
    script = Script((429, {"retry-after": "3600"}))
    with pytest.raises(ApiError, match="429"):
        ask(kind, script, "live")
    assert script.asked == 1


def test_a_date_is_a_time_to_come_back_too():
    patience = Patience(chance=lambda: 0.0)
    assert patience.wait(1, "Fri, 17 May 2024 12:00:00 GMT", 0.0) == 0.0
    assert patience.wait(1, "Fri, 17 May 2999 12:00:00 GMT", 0.0) is None
    assert patience.wait(1, "soon", 0.0) == 0.0


@pytest.mark.parametrize(
    ("name", "args", "first", "asked"),
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
def test_only_what_may_be_repeated_is(slept, name, args, first, asked):
    script = Script(first, (404, {}))
    with pytest.raises((ApiError, NoAnswer)):
        ask(Client, script, name, *args)
    assert script.asked == asked


def test_an_answer_that_is_not_the_apis_is_said_to_be_so():
    def proxy(request):
        return httpx.Response(200, text="<html>welcome")

    with (
        Client("http://x", transport=httpx.MockTransport(proxy)) as client,
        pytest.raises(NoAnswer, match="not the API"),
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
        calls.recommend(nn=3)


def test_ids_travel_in_paths_whole():
    for id in ("a/b", "?x=1", "#", "%2F", "a b", "ü", "..a"):
        assert unquote(calls.get_entity("user", id).path.removeprefix("/v1/entities/user/")) == id


def test_it_needs_httpx_and_pydantic_only():
    words = (
        "import sys, recsys_meta.client;"
        "heavy = {'torch', 'numpy', 'pandas', 'sqlalchemy', 'fastapi', 'redis'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
