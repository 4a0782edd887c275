"""Load generator that costs little: keep-alive connections that send the next request as soon as one is answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import orjson


@dataclass
class LoadResult:
    """Answers to a load: seconds that each took, and how many had each status and `x-cache`."""

    seconds: float = 0.0
    taken: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Number of answers a second."""
        return len(self.taken) / self.seconds

    def quantile(self, q: float) -> float:
        """Return the milliseconds within which this share was answered."""
        ordered = sorted(self.taken)
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def post(path: str, body: object) -> bytes:
    """Build a request as it goes over the line."""
    raw = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


class _LoadConnection(asyncio.Protocol):
    """Connection that sends requests, one after the other, until the time or the requests are over."""

    def __init__(self, requests: Iterator[bytes], result: LoadResult, until: float, done: asyncio.Future[None]) -> None:
        self.requests, self.result, self.until, self.done = requests, result, until, done
        self.buffer, self.began = b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def _send(self) -> None:
        self.began = time.perf_counter()
        request = next(self.requests, None) if self.began < self.until else None
        if request is None:
            self.transport.close()
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end]
        at = head.find(b"content-length: ") + 16
        length = int(head[at : at + 12].partition(b"\r")[0])
        if len(self.buffer) < end + 4 + length:
            return
        result = self.result
        result.taken.append(time.perf_counter() - self.began)
        mark = head.find(b"x-cache: ")
        cache = head[mark + 9 : mark + 20].partition(b"\r")[0].decode() if mark >= 0 else ""
        result.seen[f"{head[9:12].decode()} {cache}".strip()] += 1
        self.buffer = b""
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self.buffer or error is not None:
            self.result.seen["cut off"] += 1
        if not self.done.done():
            self.done.set_result(None)


def call(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> LoadResult:
    """Send requests for so many seconds over so many connections; return what came back."""
    result = LoadResult()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        ends = [loop.create_future() for _ in range(connections)]
        began = time.perf_counter()
        for done in ends:
            connection = partial(_LoadConnection, requests, result, began + seconds, done)
            await loop.create_connection(connection, "127.0.0.1", port)
        await asyncio.wait(ends, timeout=seconds + 30)
        result.seconds = time.perf_counter() - began

    try:
        import uvloop
    except ImportError:
        asyncio.run(work())
    else:
        uvloop.run(work())
    return result
