"""A request with `Upgrade` is answered as without it: its body is its own, and never the next request."""

import http.client
import shutil
import socket
import subprocess

import pytest

from tests.api.http.test_uvicorn_protocol import answer, check_refusal, rest

BODY = b'{"events": [{"item": "i1"}]}'
HEAD = b"POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"connection: upgrade\r\nupgrade: TLS/1.0\r\n",
    "two fields": b"connection: keep-alive\r\nconnection: upgrade\r\nupgrade: h2c\r\nupgrade: websocket\r\n",
}
# A body that would be a request by itself: what a proxy that shares connections would hand to somebody else.
INNER = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(users_server):
    return users_server


@pytest.fixture
def caller(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as made:
        yield made


@pytest.mark.parametrize("split", ["at once", "body later", "in pieces"])
@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_the_body_of_a_request_that_would_upgrade_is_read(caller, upgrade, split):
    whole = HEAD + upgrade + LENGTH + b"\r\n" + BODY
    cuts = {"at once": [whole], "body later": [whole[: -len(BODY)], BODY]}
    for piece in cuts.get(split) or [whole[i : i + 7] for i in range(0, len(whole), 7)]:
        caller.sendall(piece)
        if split == "body later":
            caller.settimeout(20)
    status, body = answer(caller)
    assert status == 200 and b'"support_size":1' in body
    caller.sendall(INNER)  # the connection goes on
    assert answer(caller) == (200, b'{"status":"alive"}')


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("later", [False, True], ids=["one read", "two reads"])
def test_a_body_is_never_the_next_request(caller, upgrade, later):
    head = HEAD + upgrade + b"content-length: %d\r\n\r\n" % len(INNER)
    if later:
        caller.sendall(head)
        caller.sendall(INNER)
    else:
        caller.sendall(head + INNER)
    status, body = answer(caller)
    assert status == 422 and b"alive" not in body
    caller.sendall(INNER.replace(b"/livez", b"/v1/models"))
    status, body = answer(caller)
    assert status == 200 and b"users" in body  # and no answer lay between the two


def test_chunks_of_a_request_that_would_upgrade_are_its_body(caller):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (BODY[:5], BODY[5:])) + b"0\r\n\r\n"
    caller.sendall(HEAD + UPGRADES["h2c"] + b"transfer-encoding: chunked\r\n\r\n")
    caller.sendall(chunks + INNER)
    assert answer(caller)[0] == 200
    assert answer(caller) == (200, b'{"status":"alive"}')


def test_several_in_one_read_are_answered_in_turn(caller):
    whole = HEAD + UPGRADES["h2c"] + LENGTH + b"\r\n" + BODY
    caller.sendall(INNER + whole * 3 + INNER)
    statuses = [answer_in(caller) for _ in range(5)]
    assert statuses == [200] * 5


def answer_in(caller):
    """The status of one answer, read byte by byte: others follow it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += caller.recv(1)
    size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while size:
        size -= len(caller.recv(size))
    return int(head.split()[1])


def test_two_lengths_are_refused_with_an_upgrade_too(caller):
    caller.sendall(HEAD + UPGRADES["h2c"] + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + INNER)
    check_refusal(rest(caller), 400)


def test_no_tunnels(caller):
    caller.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n" + INNER)
    found = rest(caller)
    check_refusal(found, 405)
    assert b"alive" not in found


def test_pythons_own_client_may_ask_for_an_upgrade(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {"content-type": "application/json", "connection": "Upgrade", "upgrade": "h2c"}
    for _ in range(3):
        connection.request("POST", "/v1/recommendations", BODY, headers)
        response = connection.getresponse()
        assert response.status == 200 and response.read()
    connection.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_that_would_rather_speak_http2(server):
    command = ["curl", "-sS", "--http2", "-m", "20", "-H", "content-type: application/json", "-w", " %{http_code}"]
    command += ["--data", BODY.decode(), f"{server.url}/v1/recommendations"]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert said.endswith(" 200") and '"support_size":1' in said
