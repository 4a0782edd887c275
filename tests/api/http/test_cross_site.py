"""A web page of another origin cannot make a browser write, whatever it sends."""

import pytest

from tests.api.servers import serving, settings

PATHS = ["/v1/models/users/rollback", "/v1/models/users/promote", "/v1/events", "/v1/recommendations", "/v1/adapt"]
PATHS += [f"/v1/models/users/{act}" for act in ("retire", "default", "versions/abc/archive", "versions/abc/restore")]
FOREIGN = {
    "another site": {"origin": "https://evil.example"},
    "another port": {"origin": "http://127.0.0.1:1"},
    "no origin to speak of": {"origin": "null"},
    "a page of the same name": {"origin": "http://127.0.0.1.evil.example"},
    "nonsense": {"origin": "::"},
    "a browser that says so": {"sec-fetch-site": "cross-site"},
    "a sister site": {"sec-fetch-site": "same-site"},
    "a browser that says so, whatever the origin": {
        "origin": "http://localhost",
        "host": "localhost",
        "sec-fetch-site": "cross-site",
    },
    "two words of it": [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
}


@pytest.fixture(scope="module")
def server(users_server):
    return users_server


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", PATHS)
def test_pages_of_others_cannot_write(server, path, headers):
    refused = server.client.post(path, json={}, headers=headers)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_whatever_the_method(server, method):
    for path in ("/v1/entities/user/u", "/v1/models/users", "/v1/models/users/versions/abc"):
        assert server.client.request(method, path, json={}, headers=FOREIGN["another site"]).status_code == 403


def test_keys_do_not_change_that(home, light):
    with serving(settings(home, light, keys="secret")) as server:
        headers = {"x-api-key": "secret", "origin": "https://evil.example"}
        assert server.client.post("/v1/recommendations", json={}, headers=headers).status_code == 403


def test_its_own_pages_and_programs_may_write(server):
    for headers in (
        {},
        {"origin": server.url},
        {"origin": server.url, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        # A proxy put its own name into Host: the browser's word is enough.
        {"origin": "https://a-proxy.example", "host": "localhost", "sec-fetch-site": "same-origin"},
        {"origin": "https://shop.example", "host": "shop.example:443"},
    ):
        sent = {"host": "localhost", **headers} if "origin" not in headers else headers
        found = server.client.post("/v1/recommendations", json={}, headers=sent)
        assert found.status_code == (200 if "shop" not in str(headers) else 403), (
            headers
        )  # 403: not this machine's name


def test_behind_a_proxy_the_host_that_it_passes_on_counts(home, light):
    with serving(settings(home, light, keys="secret")) as server:
        headers = {"x-api-key": "secret", "origin": "https://shop.example", "host": "shop.example"}
        assert server.client.post("/v1/recommendations", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_may_send_without_asking_is_no_write(server, path, kind):
    """With or without a body: a rollback needs none."""
    headers = {} if kind is None else {"content-type": kind}
    for content in (b"", b"{}"):
        refused = server.client.post(path, content=content, headers=headers)
        assert refused.status_code == 422
        assert "application/json" in refused.json()["detail"]


def test_reading_is_for_everybody_who_may_read(server):
    for headers in FOREIGN.values():
        assert server.client.get("/livez", headers=headers).status_code == 200
