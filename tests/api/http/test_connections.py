"""Connections on which nothing happens are closed, and too many of them keep nobody out."""

import contextlib
import socket
import subprocess
import sys
import time

import httpx
import pytest

from api.http import uvicorn_protocol as wire
from tests.api.http.test_uvicorn_protocol import WHOLE, answer, rest
from tests.api.servers import Workers, wait

LINES = 20


@pytest.fixture(scope="module")
def server(users_server):
    return users_server


@pytest.fixture
def soon(monkeypatch):
    for name in ("ARRIVAL_TIMEOUT_S", "READING_TIMEOUT_S"):
        monkeypatch.setattr(wire, name, 1.0)


@contextlib.contextmanager
def callers(server, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 20)) for _ in range(count)]


def test_who_says_nothing_is_hung_up_on(soon, server):
    with callers(server, 1) as (caller,):
        assert rest(caller) == b""
    assert server.client.get("/livez").status_code == 200


def test_empty_lines_keep_no_connection_open(soon, server, monkeypatch):
    with callers(server, 1) as (caller,):
        with contextlib.suppress(OSError):
            for _ in range(100):
                caller.sendall(b"\r\n")
                time.sleep(0.05)
        with contextlib.suppress(ConnectionResetError):
            assert rest(caller) == b""


def test_empty_lines_after_an_answer_keep_no_connection_open(server, monkeypatch):
    with callers(server, 1) as (caller,):
        caller.sendall(WHOLE)
        assert answer(caller)[0] == 200
        protocol = next(iter(server._server.server_state.connections - idle_of(server)))
        protocol.timeout_keep_alive = 0.5
        caller.sendall(b"\r\n\r\n")
        assert rest(caller) == b""


def idle_of(server):
    """The connections of the test's own client."""
    pooled = server.client._transport._pool.connections
    ports = {c._connection._network_stream.get_extra_info("client_addr")[1] for c in pooled}
    return {one for one in server._server.server_state.connections if one.client[1] in ports}


def test_who_reads_no_answer_is_hung_up_on(soon, server):
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect(("127.0.0.1", server.port))
        caller.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(3000):  # far more than the system itself takes for who does not read
                caller.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wait(lambda: not (server._server.server_state.connections - idle_of(server)), 20)
    assert server.client.get("/livez").status_code == 200


def test_where_there_are_too_many_the_oldest_silent_ones_go(server, monkeypatch, caplog):
    monkeypatch.setattr(wire, "connection_limit", lambda: LINES)
    monkeypatch.setattr(wire.BoundedHttpProtocol, "_last_warning", float("-inf"))
    server.client.get("/livez")
    with callers(server, 3 * LINES) as silent:
        wait(lambda: len(server._server.server_state.connections) <= LINES)
        with socket.create_connection(("127.0.0.1", server.port), 20) as caller:
            caller.sendall(WHOLE)
            assert answer(caller)[0] == 200
        assert is_closed(silent[0])
    assert caplog.text.count("too many connections") == 1


def is_closed(caller):
    caller.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        return caller.recv(1) == b""
    return True


SERVER = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); sys.argv[0] = 'recsys-meta'"
)


@pytest.mark.slow
def test_descriptors_do_not_run_out(home, light):
    """A process with few descriptors, and more silent callers than it has of them."""
    workers = Workers(home, light, None, workers=1)
    workers._command[1:3] = ["-c", f"{SERVER}; runpy.run_module('pipelines', run_name='__main__')"]
    workers.start()
    try:
        with callers(workers, 400):
            time.sleep(0.5)
            for _ in range(5):
                assert httpx.get(f"{workers.url}/livez", timeout=10).status_code == 200
        assert "too many connections" in workers.log.read_text()
    finally:
        workers.stop()


def test_a_server_asks_for_as_many_descriptors_as_it_may_have():
    code = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))\n"
        "from pipelines.commands import serve\n"
        "serve._raise_descriptor_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, serve.DESCRIPTORS))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "True"
