"""The log's lines: gathered for a moment, trouble at once, none lost or torn, and a log that fails harms no answer."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from api.telemetry.logging import BufferedLogWriter, open_log
from tests.api.servers import serving, settings

FULL = Path("/dev/full")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def out(log: Path) -> Iterator[BinaryIO]:
    with log.open("wb") as stream:
        yield stream


def written(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_lines_wait_for_each_other_and_trouble_waits_for_nobody(out: BinaryIO, log: Path) -> None:
    lines = BufferedLogWriter(out)

    async def work() -> None:
        lines.info(b"one")
        lines.info(b"two")
        assert written(log) == []
        lines.error(b"three")
        assert written(log) == ["one", "two", "three"]
        lines.info(b"four")
        lines.warning(b"five")
        lines.info(b"six")
        assert written(log) == ["one", "two", "three", "four", "five"]
        while len(written(log)) < 6:  # nobody asks for it
            await asyncio.sleep(0.02)
        lines.info(b"seven")
        await asyncio.to_thread(lines.info, b"eight")

    asyncio.run(asyncio.wait_for(work(), 60))
    assert written(log)[:6] == ["one", "two", "three", "four", "five", "six"]
    # The loop went before the moment was over: whoever closes the log writes what is left.
    lines.drain()
    assert written(log)[6:] == ["seven", "eight"]
    lines.drain()
    assert len(written(log)) == 8


def test_without_a_loop_a_line_is_written_at_once(out: BinaryIO, log: Path) -> None:
    lines = BufferedLogWriter(out)
    for n in range(3):
        lines.info(str(n).encode())
        assert written(log) == [str(k) for k in range(n + 1)]


def test_a_loop_that_comes_after_one_that_went_is_waited_for_too(out: BinaryIO, log: Path) -> None:
    lines = BufferedLogWriter(out)

    async def work(count: int) -> None:
        lines.info(b"line")
        while len(written(log)) < count:
            await asyncio.sleep(0.02)

    for count in (1, 2):
        asyncio.run(asyncio.wait_for(work(count), 60))


def test_threads_that_write_at_once_to_who_reads_late_lose_and_tear_no_line() -> None:
    def write(lines: BufferedLogWriter, who: int) -> None:
        for n in range(300):
            (lines.error if n % 7 == who % 7 else lines.info)(json.dumps([who, n, "x" * (n % 5 * 300)]).encode())

    async def loop(lines: BufferedLogWriter) -> None:
        write(lines, 99)

    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, ThreadPoolExecutor(9) as pool:
        with os.fdopen(writer, "wb") as out:
            lines = BufferedLogWriter(out)
            work = [pool.submit(write, lines, who) for who in range(7)]
            work.append(pool.submit(asyncio.run, loop(lines)))
            found = pool.submit(source.read)  # far more than the pipe holds
            for one in work:
                one.result(60)
            lines.drain()
        read = [json.loads(line) for line in found.result(60).splitlines()]
    for who in (*range(7), 99):
        assert [n for w, n, _ in read if w == who] == list(range(300))


WRITER = """
import asyncio, json, sys
from api.telemetry.logging import BufferedLogWriter

async def work(lines, who):
    for n in range(1000):
        lines.info(json.dumps([who, n, "x" * 200]).encode())
        if n % 100 == 99:
            lines.drain()

asyncio.run(work(BufferedLogWriter(sys.stdout.buffer), sys.argv[1]))
"""


def test_processes_that_share_a_full_pipe_tear_no_line() -> None:
    reader, writer = os.pipe()
    workers = [subprocess.Popen([sys.executable, "-c", WRITER, who], stdout=writer) for who in "abc"]
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as source:
        # Little by little: all of them wait for room, and take it as it comes.
        read = b"".join(iter(lambda: source.read(3000), b""))
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    found = [json.loads(line) for line in read.splitlines()]
    for who in "abc":
        assert [n for w, n, _ in found if w == who] == list(range(1000))


@contextmanager
def unread() -> Iterator[BinaryIO]:
    reader, writer = os.pipe()
    os.close(reader)
    with open_raw(writer) as out:
        yield out


@contextmanager
def full() -> Iterator[BinaryIO]:
    with open_raw(os.open(FULL, os.O_WRONLY)) as out:
        yield out


@contextmanager
def closed() -> Iterator[BinaryIO]:
    out = io.BytesIO()
    out.close()
    yield out


@contextmanager
def open_raw(number: int) -> Iterator[BinaryIO]:
    """A stream that is closed by its number: what it could not write is not tried again."""
    out = os.fdopen(number, "wb", closefd=False)
    try:
        yield out
    finally:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), number)
        out.close()
        os.close(number)


@pytest.mark.parametrize("kind", [unread, full, closed])
def test_a_stream_that_cannot_be_written_raises_nothing(kind: Any) -> None:
    if kind is full and not FULL.exists():
        pytest.skip("this system has no /dev/full")
    trouble: list[Any] = []

    async def work(lines: BufferedLogWriter) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: trouble.append(context))
        lines.info(b"one")
        lines.error(b"two")
        lines.info(b"three")
        await asyncio.to_thread(lines.error, b"four")
        await asyncio.sleep(0.3)  # the loop's turn to write comes before this one's end, however slow the machine

    with kind() as out:
        lines = BufferedLogWriter(out)
        lines.info(b"zero")
        asyncio.run(asyncio.wait_for(work(lines), 60))
        lines.error(b"x" * 100_000)
        lines.drain()
    assert not trouble


def test_a_disk_that_has_room_again_is_written_again(out: BinaryIO, log: Path) -> None:
    if not FULL.exists():
        pytest.skip("this system has no /dev/full")
    lines = BufferedLogWriter(out)
    number = out.fileno()
    well, ill = os.dup(number), os.open(FULL, os.O_WRONLY)
    expected = [f"line {n} {'x' * 100}" for n in range(500)]
    for n, line in enumerate(expected):
        os.dup2(ill if 100 <= n < 400 else well, number)
        lines.error(line.encode())
    found = written(log)
    assert found == [line for line in expected if line in set(found)], "what is there is whole and in order"
    assert set(found) >= {*expected[:100], *expected[400:]}
    for one in (well, ill):
        os.close(one)


def test_what_is_no_text_is_written_all_the_same(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with log.open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        logger, _ = open_log()
        logger.info("half a pair", reason="\ud800", size=2**70, path=log)
        try:
            raise ValueError("\udfff")
        except ValueError:
            logger.error("failed", exc_info=True)
    first, second = map(json.loads, written(log))
    assert (first["event"], first["reason"], first["size"], first["path"]) == ("half a pair", "\ud800", 2**70, str(log))
    assert "ValueError: \udfff" in second["exception"]


def test_a_server_writes_a_line_for_each_request_before_it_is_gone(log: Path, home: Path, light: str) -> None:
    with log.open("w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with serving(settings(home, light)) as server:
            for n in range(30):
                headers = {"x-request-id": f"r{n}"}
                answer = server.client.post("/v1/recommendations", json={"events": [{"item": "i1"}]}, headers=headers)
                assert answer.status_code == 200
        found = [json.loads(line) for line in written(log)]
    requests = [line for line in found if line["event"] == "request"]
    assert [(line["request_id"], line["status"]) for line in requests] == [(f"r{n}", 200) for n in range(30)]


def test_a_server_whose_log_cannot_be_written_answers(home: Path, light: str) -> None:
    with unread() as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(out))
        with serving(settings(home, light)) as server:

            async def fail(*given: object) -> None:
                raise RuntimeError("\ud800")

            patch.setattr(server.container.profiles, "load", fail)
            assert server.recommend("i1").status_code == 200
            answer = server.recommend("i1", entity={"id": "anna"})
            assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
            assert server.recommend("i1").status_code == 200


def test_what_the_store_says_is_a_line_like_all_others(home: Path, light: str, capsys: pytest.CaptureFixture) -> None:
    with serving(settings(home, light, "redis://127.0.0.1:1/0")) as server:
        server.recommend("i3")
    logging.getLogger("recsys_meta.store").warning("nobody retells this any more")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    said = [line for line in lines if line["event"].startswith("going on without Redis")]
    assert said and {line["level"] for line in said} == {"warning"}
    assert not [line for line in lines if "any more" in line["event"]]
