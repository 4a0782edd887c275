"""A connection to Redis that one caller keeps, for the exchanges of the hot path.

redis-py takes a connection from its pool for each command, looks after it and gives it back, and has a timer and a task
for each half of an exchange: two hundred calls of functions, four times what sending and reading need.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio

Command = tuple[str | bytes | int, ...]


class RedisConnection:
    """A connection with the settings of a client's pool, for one event loop. Exchanges wait for one another.

    ``timeout`` is in seconds, for each exchange; opening the connection may take `connect_timeout`.
    """

    def __init__(self, client: Any, timeout: float, connect_timeout: float) -> None:
        self._pool: Any = client.connection_pool
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._lock = asyncio.Lock()
        self._connection: Any = self._pool.make_connection()
        self._connection.socket_timeout = None  # one timer for the exchange instead of one for each half

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once; return their replies. Raises the first error that is among them, a RedisError or
        OSError for a connection that fails, and TimeoutError."""
        async with self._lock:
            was_open = self._connection.is_connected
            try:
                replies = await self._send(commands)
            except redis.ConnectionError:
                if not was_open:
                    raise
                replies = await self._send(commands)  # the server had closed the connection meanwhile
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise reply
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout if connection.is_connected else self._connect_timeout):
                if not connection.is_connected:
                    await connection.connect()
                await connection.send_packed_command(_packed(commands), check_health=False)
                return [await _read_reply(connection) for _ in commands]
        except BaseException:  # replies may be on their way that nobody waits for
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """Close the connection, which the next exchange opens again."""
        async with self._lock:
            await self._connection.disconnect(nowait=True)


def _packed(commands: Sequence[Command]) -> bytes:
    """Commands as Redis reads them (RESP): the number of words, and each word after its length."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            raw = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


async def _read_reply(connection: Any) -> Any:
    """Read a reply; an error of a command is one, so that those behind it are read too."""
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error
