"""A connection to Redis that one caller keeps, for the exchanges of the hot path.

redis-py takes a connection from its pool for each command, looks after it and gives it back, and has a timer and a task
for each half of an exchange: two hundred calls of functions. Here it opens the connection, with all that belongs to
that (TLS, authentication, the database), and then hands over its transport: an exchange is one write, one timer, and
what hiredis makes of the bytes that come back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio

Command = tuple[str | bytes | int, ...]

_INCOMPLETE = object()
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]


class RedisConnection:
    """A connection with the settings of a client's pool, for one event loop.

    ``timeout`` is in seconds, for each exchange; opening the connection may take `connect_timeout`.
    """

    def __init__(self, client: Any, timeout: float, connect_timeout: float) -> None:
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._opening = asyncio.Lock()
        self._connection: Any = client.connection_pool.make_connection()
        self._replies: _ReplyProtocol | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once; return their replies. Raises the first error that is among them, a RedisError or
        OSError for a connection that fails, and TimeoutError."""
        replies = self._replies
        if replies is not None and replies.is_open:
            try:
                return await replies.request(commands, self._timeout)
            except redis.ConnectionError:  # the server had closed the connection meanwhile
                pass
        return await (await self._open()).request(commands, self._connect_timeout)

    async def close(self) -> None:
        """Close the connection, which the next exchange opens again."""
        async with self._opening:
            await self._disconnect()

    async def _open(self) -> "_ReplyProtocol":
        async with self._opening:
            if self._replies is not None and self._replies.is_open:  # another exchange opened it
                return self._replies
            await self._disconnect()
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await self._connection.connect()
            except BaseException:
                await self._disconnect()
                raise
            self._replies = _ReplyProtocol(self._connection._writer.transport, self._connection._parser.parse_error)
            return self._replies

    async def _disconnect(self) -> None:
        if self._replies is not None:
            self._replies.close(redis.ConnectionError("the connection was closed"))
        await self._connection.disconnect(nowait=True)


class _ReplyProtocol(asyncio.Protocol):
    """Requests over an open transport, each of some commands, and their replies, which come in the same order.

    `to_error` makes the exception of an error's text.
    """

    def __init__(self, transport: Any, to_error: Callable[[str], Exception]) -> None:
        self.is_open = True
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._reader = hiredis.Reader(redis.InvalidResponse, to_error, notEnoughData=_INCOMPLETE)
        self._pending: deque[tuple[asyncio.Future[list[Any]], int]] = deque()  # with the number of commands
        self._received: list[Any] = []
        transport.set_protocol(self)

    async def request(self, commands: Sequence[Command], timeout: float) -> list[Any]:
        """Send commands; return their replies. Raises as `RedisConnection.exchange`."""
        replies: asyncio.Future[list[Any]] = self._loop.create_future()
        self._pending.append((replies, len(commands)))
        self._transport.write(b"".join([_pack(command) for command in commands]))
        timer = self._loop.call_later(timeout, self._expire, replies)
        try:
            return await replies
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if isinstance(reply, redis.ConnectionError):  # a server that is loading, or full
                    self.close(reply)
                    return
                if not isinstance(reply, hiredis.PushNotification):
                    self._take(reply)
        except redis.RedisError as error:
            self.close(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.close(redis.ConnectionError(f"Connection closed by server. {error or ''}".strip()))

    def close(self, error: Exception) -> None:
        """Close the transport; requests that have no reply yet fail with an error."""
        self.is_open = False
        pending, self._pending = self._pending, deque()
        for replies, _ in pending:
            if not replies.done():
                replies.set_exception(error)
        self._transport.close()

    def _take(self, reply: Any) -> None:
        if not self._pending:
            raise redis.InvalidResponse("a reply to no command")
        self._received.append(reply)
        replies, count = self._pending[0]
        if len(self._received) < count:
            return
        self._pending.popleft()
        received, self._received = self._received, []
        if replies.done():  # cancelled
            return
        error = next((reply for reply in received if isinstance(reply, redis.ResponseError)), None)
        if error is None:
            replies.set_result(received)
        else:
            replies.set_exception(error)

    def _expire(self, replies: "asyncio.Future[list[Any]]") -> None:
        """Fail a request whose replies do not come. They may still be on their way, so the connection ends."""
        if not replies.done():
            replies.set_exception(TimeoutError())
        self.close(redis.ConnectionError("a request before this one was not answered in time"))
