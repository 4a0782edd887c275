"""Headers are bounded, all of a request has to come in time, and who goes away is no failure of ours."""

import asyncio
import json
import socket
import threading
import time

import pytest

from api.http import uvicorn_protocol as wire
from api.inference.state_resolver import StateResolver
from tests.api.servers import serving, settings, wait

FIRST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
BODY = b'{"events": [{"item": "i1"}]}'
POST = b"POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
BROKEN = {
    "goes": b"content-length: 500\r\n\r\n{",
    "goes between chunks": b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    "no chunk": b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\nno chunk\r\n",
}


@pytest.fixture
def soon(monkeypatch):
    """Requests have to arrive within a second."""
    monkeypatch.setattr(wire, "ARRIVAL_TIMEOUT_S", 1.0)


@pytest.fixture
def caller(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as made:
        yield made


def rest(caller):
    """All that comes until the server closes."""
    found = b""
    while chunk := caller.recv(65536):
        found += chunk
    return found


def some(caller, most=65536):
    found = caller.recv(most)
    assert found, "closed"
    return found


def answer(caller):
    """One answer that has a length: its status and its body. What comes behind it is left for the next call."""
    head, body = b"", b""
    while not head.endswith(b"\r\n\r\n"):
        head += some(caller, 1)
    (size,) = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < size:
        body += some(caller, size - len(body))
    return int(head.split()[1]), body


def check_refusal(found, status):
    head, _, body = found.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} "), found
    assert {"content-type: application/problem+json", "connection: close", f"content-length: {len(body)}"} <= set(lines)
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert problem["title"] and problem["detail"]


def push(caller, data):
    """Send in small pieces, as much as the other side takes."""
    try:
        for start in range(0, len(data), 1000):
            caller.sendall(data[start : start + 1000])
    except OSError:
        pass


LARGE = {
    "one line without end": FIRST + b"x: " + b"a" * 70_000,
    "a name without end": FIRST + b"a" * 70_000,
    "a path without end": b"GET /" + b"a" * 70_000,
    "many lines without end": FIRST + b"x: a\r\n" * 12_000,
    "one whole line": FIRST + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
    "many whole lines": FIRST + b"x: a\r\n" * 20_000 + b"\r\n",
    "a whole path": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "blank lines without end": b"\r\n" * 40_000,
    "before a body": POST + b"x: " + b"a" * 70_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    "lines behind a body": POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"x: a\r\n" * 80_000,
    "a line behind a body": POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: " + b"a" * 400_000,
}


@pytest.mark.parametrize("small", [True, False], ids=["in pieces", "at once"])
@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
def test_headers_have_a_bound(server, caller, sent, small):
    if small:
        push(caller, sent)
    else:
        caller.sendall(sent)
    check_refusal(rest(caller), 431)
    assert server.client.get("/livez").status_code == 200


def test_what_is_no_http_is_told_so_once(server, caller):
    caller.sendall(b"no HTTP\r\n\r\n")
    check_refusal(rest(caller), 400)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as second:
        second.sendall(FIRST + b"x: " + b"a" * 70_000 + b"\r\n\r\nno HTTP\r\n\r\n")
        check_refusal(rest(second), 431)


def test_nothing_behind_a_refusal_is_done(server, caller):
    caller.sendall(FIRST + b"x: " + b"a" * 70_000 + b"\r\n\r\n" + WHOLE * 3)
    check_refusal(rest(caller), 431)
    assert "/v1/recommendations" not in server.client.get("/metrics").text


def test_what_was_asked_before_is_answered(caller):
    """It may come in one read with the headers that are too large, and then says that it is the last."""
    caller.sendall(WHOLE + FIRST + b"x: " + b"a" * 200_000)
    found = rest(caller)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.count(b"HTTP/1.1") <= 2


def test_headers_within_the_bound_pass_on_one_connection_again_and_again(caller):
    large = b"x: " + b"a" * 60_000 + b"\r\n"
    for _ in range(5):
        push(caller, FIRST + large + b"\r\n")
        assert answer(caller)[0] == 200
        caller.sendall(WHOLE)
        assert answer(caller)[0] == 200


def test_bodies_do_not_count_as_headers(caller):
    spaces = b" " * 900_000
    for _ in range(2):
        caller.sendall(POST + b"content-length: %d\r\n\r\n" % (len(BODY) + len(spaces)) + spaces + BODY)
        assert answer(caller)[0] == 200
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in [b" "] * 50_000 + [BODY])
    caller.sendall(POST + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\nx: a\r\n\r\n")
    assert answer(caller)[0] == 200


SLOW = {
    "a head": [FIRST],
    "a head in pieces": [FIRST, *[b"x: a\r\n"] * 100],
    "a body": [POST + b"content-length: 500\r\n\r\n", b"{"],
    "a body in pieces": [POST + b"content-length: 500\r\n\r\n", *[b" "] * 100],
    "a head on a used connection": [WHOLE, FIRST],
}


@pytest.mark.parametrize("pieces", SLOW.values(), ids=SLOW)
def test_a_request_has_to_arrive_in_time(soon, server, caller, pieces):
    began = time.monotonic()
    if pieces[0] is WHOLE:
        caller.sendall(WHOLE)
        assert answer(caller)[0] == 200
        pieces = pieces[1:]
    threading.Thread(target=dribble, args=(caller, pieces), daemon=True).start()
    check_refusal(rest(caller), 408)
    assert 0.9 < time.monotonic() - began < 15
    assert server.client.get("/livez").status_code == 200


def dribble(caller, pieces):
    for piece in pieces:
        try:
            caller.sendall(piece)
        except OSError:
            return
        time.sleep(0.05)


def test_a_body_that_comes_late_is_cut_off_though_it_was_answered(soon, home, light):
    with (
        serving(settings(home, light, keys="secret")) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as caller,
    ):
        caller.sendall(POST + b"content-length: 500\r\n\r\n{")
        found = rest(caller)
        assert found.startswith(b"HTTP/1.1 401 ")
        assert found.count(b"HTTP/1.1 ") == 1


def test_who_is_slow_but_in_time_is_answered(soon, caller):
    for _ in range(3):  # together they take longer than one may
        for start in range(0, len(WHOLE), 50):
            caller.sendall(WHOLE[start : start + 50])
            time.sleep(0.1)
        assert answer(caller)[0] == 200


def test_neither_idling_nor_answering_counts(soon, caller, monkeypatch):
    caller.sendall(WHOLE)
    assert answer(caller)[0] == 200
    time.sleep(1.5)
    real = StateResolver.resolve

    async def late(self, *given, **named):
        await asyncio.sleep(2.5)
        return await real(self, *given, **named)

    monkeypatch.setattr(StateResolver, "resolve", late)
    other = WHOLE.replace(b"i1", b"i2")  # of whom no list is at hand
    caller.sendall(other + other[:-1])  # the second is not read on while the first is answered
    began = time.monotonic()
    assert answer(caller)[0] == 200
    assert time.monotonic() - began > 2
    caller.sendall(other[-1:])
    assert answer(caller)[0] == 200


@pytest.mark.parametrize("path", [b"/v1/recommendations", b"/v1/score", b"/v1/events"])
@pytest.mark.parametrize("way", BROKEN)
def test_who_goes_away_is_no_failure_of_ours(home, light, path, way, capsys):
    with serving(settings(home, light)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as caller:
            caller.sendall(POST.replace(b"/v1/recommendations", path) + BROKEN[way])
            if way != "no chunk":
                time.sleep(0.1)  # the head is to be read first
            else:
                check_refusal(rest(caller), 400)

        def counted():
            text = server.client.get("/metrics").text
            return [line for line in text.splitlines() if f'route="{path.decode()}"' in line and "_total{" in line]

        wait(counted, 10)
        (line,) = counted()
        assert 'status="400"' in line
    said = capsys.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    (request,) = [line for line in lines if line.get("route") == path.decode()]
    assert (request["event"], request["status"], request["level"]) == ("request", 400, "info")
    assert "Traceback" not in said.out + said.err
    assert "request failed" not in said.out


def test_who_goes_away_with_two_requests_under_way_is_no_failure_of_ours(home, light, capsys, monkeypatch):
    """The first is being answered, the second waits for its turn."""
    real = StateResolver.resolve

    async def late(self, *given, **named):
        await asyncio.sleep(0.5)
        return await real(self, *given, **named)

    with serving(settings(home, light)) as server:
        monkeypatch.setattr(StateResolver, "resolve", late)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as caller:
            caller.sendall(WHOLE + WHOLE)
            time.sleep(0.2)
        wait(lambda: 'route="/v1/recommendations"' in server.client.get("/metrics").text, 10)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "request failed" not in said.out
