"""Exchanges with Redis: a packet of commands out, one reply for each back, in either flavour.

Threads share one pool; every event loop has its own, which is closed with the loop; a forked child begins with none.
The driver's errors end here: whatever it raises while it connects, sends or reads means that the server could not be
used, and is :class:`BackendUnavailable`; a reply that is an error is handed back in its place among the replies.
What is raised outside the driver is a defect of this package, and passes through.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import threading
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from time import sleep
from typing import Any, NamedTuple
from weakref import WeakSet

import redis.exceptions
from fast_cache.backends.redis.breaker import Admission, Breaker, Owed
from fast_cache.backends.redis.layout import EPOCH_LENGTH, TOKEN_LENGTH, Command, Layout
from fast_cache.backends.redis.pool import Pool, cut_off, drop
from fast_cache.backends.redis.target import Target
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import BLOCKING, Port

Reply = Any
"""Bytes, an integer, ``None``, or the ``ResponseError`` that the server answered with."""

_CLOSED = (redis.exceptions.ConnectionError, ConnectionError, EOFError)
"""How a connection fails that the other side has closed, unlike one on which nothing is heard."""

_LAST_LOOK = 0.01
"""Seconds."""

_BETWEEN_LOOKS = (0.05, 0.25)
"""Seconds: how often those look who find no connection to wait on."""

_AWAY = "Redis is taken to be away; it is asked again shortly"


class Link:
    """The way to one server."""

    def __init__(self, target: Target, layout: Layout, breaker: Breaker) -> None:
        self._target = target
        self._layout = layout
        self._breaker = breaker
        self._lock = threading.Lock()
        self._blocking_pool: Pool | None = None
        self._loops: dict[asyncio.AbstractEventLoop, _LoopPool] = {}
        self._ending: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        _links.add(self)

    async def exchange(self, port: Port, packet: Sequence[Command]) -> list[Reply]:
        """Send ``packet`` and return one reply per command.

        It may be sent twice, the second time over a new connection, if the server closed the first one meanwhile.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
            BackendError: no connection became free.
        """
        return await port.send(self._exchange, packet)

    async def _exchange(self, port: Port, packet: Sequence[Command]) -> list[Reply]:
        if self._breaker.refuses():
            raise BackendUnavailable(_AWAY)
        pool = await port.do(self._pool_of_threads, self._pool_of_loop)
        return await self._talk(port, pool, await pool.take(port), packet)

    async def wait(self, port: Port, packet: Sequence[Command], seconds: float) -> list[Reply] | None:
        """Send ``packet``, which the server may answer only after ``seconds``, over a connection for such.

        If none is free, nothing is sent, and ``None`` returned after a while; also if another of a batch has waited.
        """
        return await port.later(partial(self._wait, packet, seconds))

    async def _wait(self, packet: Sequence[Command], seconds: float, port: Port) -> list[Reply] | None:
        if self._breaker.is_open:  # whoever waits is no probe: it would tell too late
            raise BackendUnavailable(_AWAY)
        pool = (await port.do(self._pool_of_threads, self._pool_of_loop)).waiting
        taken = pool.take_free() if pool is not None else None
        if pool is None or taken is None:
            await self.pause(port, seconds)
            return None
        return await self._talk(port, pool, taken, packet)

    async def _talk(self, port: Port, pool: Pool, taken: tuple[Any, bool], packet: Sequence[Command]) -> list[Reply]:
        """Send ``packet`` over a connection of ``pool``, and give that back."""
        connection, reused = taken
        usable = False
        try:
            # Asked for only now: while this caller waited for a connection, the server may have gone away.
            admission = self._breaker.admit()
            if admission is None:
                raise BackendUnavailable(_AWAY)
            replies = await self._admitted(port, connection, admission, packet, reused=reused)
            usable = True
        finally:
            await pool.give_back(port, connection, usable=usable)
        return replies

    async def pause(self, port: Port, seconds: float) -> None:
        """Let some time pass between two looks, not more than ``seconds``."""
        await port.do(sleep, _suspended, min(seconds, random.uniform(*_BETWEEN_LOOKS)))

    def close(self) -> None:
        """Close the connections of threads."""
        with self._lock:
            pool, self._blocking_pool = self._blocking_pool, None
        if pool is not None:
            for connection in pool.drain():
                connection.disconnect()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        with self._lock:
            held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None and held.closing is not None:
            await held.closing.aclose()

    def forked(self) -> None:
        """Leave the connections to the parent: this is its child, and both hold the same sockets."""
        # Kept, because closing them would be felt by the parent, whose event loop shares even its selector with us.
        _inherited.append((self._blocking_pool, self._loops))
        self._lock = threading.Lock()
        self._blocking_pool = None
        self._loops = {}
        self._breaker.forked()

    async def _admitted(
        self, port: Port, connection: Any, admission: Admission, packet: Sequence[Command], *, reused: bool
    ) -> list[Reply]:
        try:
            first = self._owed_commands(admission.owed)
            commands = [*first, *packet]
            packed = connection.pack_commands(commands)
            replies = await _converse(port, connection, packed, len(commands), reused=reused)
            if any(isinstance(reply, Exception) for reply in replies[: len(first)]):
                # A replica or a server that forbids it: until it can be told, nothing it holds may be believed.
                raise BackendUnavailable("Redis refuses the invalidations it is owed")
        except BackendUnavailable:
            admission.failed()
            raise
        except BaseException:
            admission.abandoned()
            raise
        admission.succeeded()
        return replies[len(first) :]

    def _owed_commands(self, owed: Owed) -> list[Command]:
        if not owed:
            return []
        commands = self._layout.clear(new_token()) if owed.everything else []
        tags = [key for key in owed.keys if isinstance(key, bytes)]
        if tags or owed.everything:
            commands += self._layout.forget_tags(tags, new_epoch())
        return commands + [command for key in owed.keys if isinstance(key, str) for command in self._layout.delete(key)]

    def _pool_of_threads(self) -> Pool:
        with self._lock:
            if self._blocking_pool is None:
                self._blocking_pool = self._target.pool(self._target.blocking_connection)
            return self._blocking_pool

    async def _pool_of_loop(self) -> Pool:
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            self._sweep()
            pool = self._target.pool(self._target.suspending_connection)
            if loop in self._ending:
                # Its asynchronous generators are shut down, ours among them: nothing may stay open from now on.
                pool.drain()
                held = _LoopPool(pool, None)
            else:
                held = _LoopPool(pool, self._close_at_end(loop, pool))
            with self._lock:
                self._loops[loop] = held
            if held.closing is not None:
                await held.closing.__anext__()
        return held.pool

    async def _close_at_end(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> AsyncGenerator[None, None]:
        """Close ``pool`` when ``loop`` shuts down its asynchronous generators.

        One that is suspended here thus needs no hook and no finaliser to learn of it.
        """
        try:
            yield
        finally:
            with self._lock:
                if self._loops.pop(loop, None) is not None:  # else it was closed for its own sake, by ``aclose``
                    self._ending.add(loop)
            for connection in pool.drain():
                await connection.disconnect()

    def _sweep(self) -> None:
        """Let go of loops that were closed without shutting down their asynchronous generators."""
        with self._lock:
            closed = [self._loops.pop(loop) for loop in list(self._loops) if loop.is_closed()]
        for held in closed:
            for connection in held.pool.drain():
                cut_off(connection)


class _LoopPool(NamedTuple):
    """The pool of one event loop, and the generator by which the loop closes it."""

    pool: Pool
    closing: AsyncGenerator[None, None] | None


_links: WeakSet[Link] = WeakSet()
_inherited: list[Any] = []


def _forked() -> None:
    for link in list(_links):
        link.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def new_token() -> bytes:
    """A random token: it can't be guessed, and rubbish in its place can't be taken for it.

    Its first byte is below 128 and its last one is not, so that it is known from one that is written backwards.
    """
    token = bytearray(secrets.token_bytes(TOKEN_LENGTH))
    token[0] &= 0x7F
    token[-1] |= 0x80
    return bytes(token)


def new_epoch() -> bytes:
    """The first half of the tokens that order the invalidations of tags; its first byte is above 127."""
    epoch = bytearray(secrets.token_bytes(EPOCH_LENGTH))
    epoch[0] |= 0x80
    return bytes(epoch)


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _converse(port: Port, connection: Any, packed: Any, count: int, *, reused: bool) -> list[Reply]:
    """Send, and read ``count`` replies, connecting first where need be."""
    while True:
        replies: list[Reply] = []
        try:
            if port is BLOCKING:
                connection.send_packed_command(packed)
            else:
                await _send(connection, packed)
            while len(replies) < count:
                replies.append(await _one_reply(port, connection))
        except Exception as error:
            if not reused or replies or not isinstance(error, _CLOSED):
                raise BackendUnavailable("Redis did not answer") from error
        else:
            return replies
        # The server closed it while it was idle, or restarted. All our commands may be repeated.
        await drop(port, connection)
        reused = False


async def _send(connection: Any, packed: Any) -> None:
    """Send in the suspending flavour, and stay cancelled if that is what happened meanwhile.

    The driver sends under ``asyncio.wait_for``, which before Python 3.12 may swallow a cancellation.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    await connection.send_packed_command(packed)
    if task is not None and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


async def _one_reply(port: Port, connection: Any) -> Reply:
    read = connection.read_response
    try:
        try:
            return await port.do(read, read, disable_decoding=True, disconnect_on_error=False)
        except redis.exceptions.TimeoutError:
            if port is BLOCKING:
                raise
            # It may have been the event loop that was busy: then the reply is here by now, and needs no waiting.
            async with asyncio.timeout(_LAST_LOOK):  # with a timeout of its own the driver would return None
                return await read(disable_decoding=True, disconnect_on_error=False)
    except redis.exceptions.ResponseError as error:
        return error
