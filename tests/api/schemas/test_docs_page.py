"""The API's page is whole by itself, under a policy that lets nothing else in."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest

from api.app import build_app
from tests.api.servers import settings

STAND_IN = """
const nodes = {};
function node(tag) {
  const made = { tag, children: [], append: (...c) => made.children.push(...c) };
  made.replaceChildren = (...c) => { made.children = c; };
  return made;
}
const document = {
  createElement: node,
  getElementById: (id) => (nodes[id] ??= node(id)),
};
const asked = [];
const read = JSON.parse(require("fs").readFileSync(0, "utf-8"));
function fetch(at, how) {
  asked.push([at, how]);
  return Promise.resolve({ json: () => read, status: 200, statusText: "OK", text: () => '{"a":1}' });
}
function all(found, out = []) {
  out.push(found);
  (found.children || []).forEach((child) => all(child, out));
  return out;
}
%s
setTimeout(async () => {
  const every = all(nodes.calls);
  const bodies = every.filter((n) => n.tag === "textarea").map((n) => n.value);
  const paths = every.filter((n) => n.tag === "b").map((n) => n.textContent);
  const press = every.filter((n) => n.tag === "button")[0];
  nodes.key = { value: "my key" };
  await press.onclick();
  const schemas = read.components.schemas, request = schemas.RecommendationRequest.properties;
  const opened = expandable("RecommendationRequest", schemas);
  opened.ontoggle();
  const inside = all(opened).filter((n) => n.tag === "code").map((n) => n.textContent);
  console.log(JSON.stringify({ limits: [limitsOf(request.n, schemas), limitsOf(request.exclude, schemas)], inside,
    curl: shellCommand("POST", "http://h/v1/x", '{"a": "it\\'s"}'), bodies, paths, asked,
    links: target("/v1/e/{id}", [{ in: "path", name: "id" },
    { in: "query", name: "n" }], ["a/b?", "3"]) }));
}, 50);
"""


def script(page):
    (text,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return text


def test_the_page_needs_nothing_from_elsewhere(server):
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.findall(r"https?:|url\(|@import|\bimport\b", answer.text)
    assert set(re.findall(r"""(?:src|href)=["']([^"']*)""", answer.text)) == {"openapi.json"}
    assert not re.findall(r"\binnerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", answer.text)
    home = server.client.get("/", follow_redirects=False)
    assert (home.status_code, home.headers["location"]) == (307, "ui/")


def test_the_policy_lets_in_this_script_and_no_other(server):
    answer = server.client.get("/docs")
    policy = answer.headers["content-security-policy"]
    digest = base64.b64encode(hashlib.sha256(script(answer.text).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_pages_of_the_framework_are_gone(server):
    assert server.client.get("/redoc").status_code == 404
    assert "cdn" not in server.client.get("/docs").text


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's script in node, which is not installed")
def test_the_script_draws_every_call(server, tmp_path):
    document = build_app(settings(tmp_path, f"sqlite:///{tmp_path}/x.db")).openapi()
    page = server.client.get("/docs").text
    done = subprocess.run(
        ["node", "-e", STAND_IN % script(page)], input=json.dumps(document), capture_output=True, text=True, check=True
    )
    page_calls = json.loads(done.stdout)
    calls = [(method, path) for path, operations in document["paths"].items() for method in operations]
    assert len(page_calls["paths"]) == len(calls)
    assert len(page_calls["bodies"]) == sum(
        "requestBody" in op for ops in document["paths"].values() for op in ops.values()
    )
    assert page_calls["asked"][0][0] == "openapi.json"
    at, how = page_calls["asked"][1]
    assert (at, how["method"], how["headers"]["X-API-Key"]) == ("v1/recommendations", "POST", "my key")
    assert page_calls["links"] == "v1/e/a%2Fb%3F?n=3"
    assert page_calls["limits"][0] == "\u2265 1, \u2264 1000, default 10"
    assert "at most items: 10000" in page_calls["limits"][1]
    assert {"n", "filters", "Filter"} <= set(page_calls["inside"])
    quoted = """curl -s -X POST 'http://h/v1/x' -H "X-API-Key: $KEY" -H 'content-type: application/json' -d """
    assert page_calls["curl"] == quoted + """'{"a": "it'\\''s"}'"""
    # What the form offers for the first call is something the API takes.
    first = json.loads(page_calls["bodies"][0])
    assert first["entity"]["kind"] == "user"
    assert server.client.post("/v1/recommendations", json=first).status_code == 200
