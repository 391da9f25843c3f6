"""Exchanges with Redis: a packet of commands out, one reply for each back, in either flavour.

Threads share one pool; every event loop has its own, which is closed with the loop. A connection that was left in the
middle of an exchange is closed, never reused. The driver's errors end here: an unreachable or silent server is
:class:`BackendUnavailable`, and a reply that is an error is handed back in its place among the replies.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import redis.exceptions
from fast_cache.backends.redis.breaker import Breaker
from fast_cache.backends.redis.layout import TOKEN_LENGTH, Command, Layout
from fast_cache.backends.redis.target import Target
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import BLOCKING, Port

Reply = Any
"""Bytes, an integer, ``None``, or the ``ResponseError`` that the server answered with."""

_LOST = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.InvalidResponse,
    OSError,
    EOFError,
    asyncio.IncompleteReadError,
)


class Link:
    """The way to one server."""

    def __init__(self, target: Target, layout: Layout, breaker: Breaker) -> None:
        self._target = target
        self._layout = layout
        self._breaker = breaker
        self._lock = threading.Lock()
        self._blocking_pool: Any = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = WeakKeyDictionary()
        self._had_loop = False

    async def exchange(self, port: Port, packet: Sequence[Command]) -> list[Reply]:
        """Send ``packet`` and return one reply per command.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
        """
        admission = self._breaker.admit()
        if admission is None:
            raise BackendUnavailable("Redis is taken to be away; it is asked again shortly")
        first = self._owed_commands(admission.owed.keys, everything=admission.owed.everything)
        try:
            replies = await self._exchange(port, [*first, *packet])
        except _LOST as error:
            admission.failed()
            raise BackendUnavailable("Redis did not answer") from error
        except BaseException:
            admission.abandoned()
            raise
        if any(isinstance(reply, Exception) for reply in replies[: len(first)]):
            # A replica or a server that forbids it: as long as it can't be told, nothing it holds may be believed.
            admission.failed()
            raise BackendUnavailable("Redis refuses the invalidations it is owed")
        admission.succeeded()
        return replies[len(first) :]

    def close(self) -> None:
        """Close the connections of threads."""
        with self._lock:
            held, self._blocking_pool = self._blocking_pool, None
        if held is not None and held[1]:
            held[0].disconnect()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        with self._lock:
            held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held.closing.aclose()

    async def _exchange(self, port: Port, packet: Sequence[Command]) -> list[Reply]:
        pool = await port.do(self._pool_of_threads, self._pool_of_loop)
        connection = await _either(port, pool.get_connection)
        clean = False
        try:
            await _either(port, connection.send_packed_command, connection.pack_commands(packet))
            replies = [await _one_reply(port, connection) for _ in packet]
            clean = True
        finally:
            # Closed without waiting: the one who is cancelled here must not be held up by a server that is silent.
            if not clean:
                await _drop(port, connection)
            await _either(port, pool.release, connection)
        return replies

    def _owed_commands(self, keys: Sequence[str], *, everything: bool) -> list[Command]:
        if everything:
            return self._layout.clear(new_token())
        return [command for key in keys for command in self._layout.delete(key)]

    def _pool_of_threads(self) -> Any:
        with self._lock:
            if self._blocking_pool is None:
                self._blocking_pool = self._target.blocking_pool()
            return self._blocking_pool[0]

    async def _pool_of_loop(self) -> Any:
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            with self._lock:
                first, self._had_loop = not self._had_loop, True
            pool, ours = self._target.suspending_pool(first_loop=first)
            held = _LoopPool(pool, ours)
            self._loops[loop] = held
            await held.closing.__anext__()
        return held.pool


class _LoopPool:
    """The pool of one event loop, and the generator by which the loop closes it.

    A loop that shuts down closes its asynchronous generators; one that is suspended here thus needs no hook and no
    finaliser to learn of it. The pool's connections refer to the loop, so the pool is let go when it closes.
    """

    def __init__(self, pool: Any, ours: bool) -> None:
        self.pool = pool
        self.closing = self._close_at_end(ours)

    async def _close_at_end(self, ours: bool) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            pool, self.pool = self.pool, None
            if ours:
                await pool.disconnect()


def new_token() -> bytes:
    """A random token: it can't be guessed, and rubbish in its place can't be taken for it."""
    return secrets.token_bytes(TOKEN_LENGTH)


async def _either(port: Port, method: Any, *args: Any) -> Any:
    """Call a driver's method that exists under one name in both flavours."""
    return await port.do(method, method, *args)


async def _one_reply(port: Port, connection: Any) -> Reply:
    try:
        return await port.do(
            connection.read_response, connection.read_response, disable_decoding=True, disconnect_on_error=False
        )
    except redis.exceptions.ResponseError as error:
        return error


async def _drop(port: Port, connection: Any) -> None:
    if port is BLOCKING:
        connection.disconnect()
    else:
        await connection.disconnect(nowait=True)
