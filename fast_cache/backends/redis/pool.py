"""Connections, for threads together or for one event loop: how many there may be, and who waits for one.

Waiting is first come, first served. A queue is no sign of a server that is away, so whoever waits goes on waiting as
long as others get answers, and nobody's waiting is charged to the server. A connection that was left in the middle of
an exchange is closed, never reused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fast_cache.errors import BackendError
from fast_cache.ports import BLOCKING, Port

_Turn = Any
"""A future, of the event loop or for a thread; its result is a connection to reuse, or ``None``: open one."""


class Pool:
    """At most ``most`` connections; ``keep`` of them stay open while nobody uses them.

    Args:
        make: makes a connection, not connected yet.
        patience: for how long (seconds) nobody may get an answer before those who wait give up.
        waiting: a pool beside this one, for exchanges whose answers are waited for: they must not hold up others.
    """

    def __init__(
        self, make: Callable[[], Any], *, keep: int, most: int, patience: float, waiting: Pool | None = None
    ) -> None:
        self.waiting = waiting
        self._make = make
        self._keep = keep
        self._patience = patience
        self._lock = threading.Lock()
        self._free = most
        self._idle: list[Any] = []
        self._waiting: OrderedDict[_Turn, None] = OrderedDict()
        self._answers = 0
        self._watch: asyncio.TimerHandle | None = None

    async def take(self, port: Port) -> tuple[Any, bool]:
        """Return a connection, and whether it has been used before. It has to be given back.

        Raises:
            BackendError: all connections are in use, and none of them gets an answer.
        """
        turn: _Turn = None
        idle = None
        with self._lock:
            if self._free:
                self._free -= 1
                idle = self._idle.pop() if self._idle else None
            else:
                turn = concurrent.futures.Future() if port is BLOCKING else asyncio.get_running_loop().create_future()
                self._waiting[turn] = None
        if turn is not None:
            idle = await self._wait(port, turn)
        if idle is not None:
            return idle, True
        return self._made(), False

    def take_free(self) -> tuple[Any, bool] | None:
        """The same without waiting: ``None`` if all connections are in use."""
        with self._lock:
            if not self._free:
                return None
            self._free -= 1
            idle = self._idle.pop() if self._idle else None
        if idle is not None:
            return idle, True
        return self._made(), False

    async def give_back(self, port: Port, connection: Any, *, usable: bool) -> None:
        """Let the next one have it. ``usable``: every command that was sent over it has had its reply."""
        if usable:
            self._answers += 1
            surplus = self._pass_on(connection)
            if surplus is not None:
                await drop(port, surplus)
            return
        try:
            # Closed without waiting: the one who is cancelled here must not be held up by a server that is silent.
            await drop(port, connection)
        finally:
            self._pass_on(None)

    def drain(self) -> list[Any]:
        """Keep no connection open from now on. Returns those that were idle, for closing."""
        with self._lock:
            self._keep = 0
            idle, self._idle = self._idle, []
        return idle if self.waiting is None else idle + self.waiting.drain()

    async def _wait(self, port: Port, turn: _Turn) -> Any:
        try:
            return await port.do(self._blocked, self._suspended, turn)
        except BaseException:
            with self._lock:
                self._waiting.pop(turn, None)
                given = turn.done() and not turn.cancelled() and turn.exception() is None
            if given:
                await self.give_back(port, turn.result(), usable=turn.result() is not None)
            raise

    def _blocked(self, turn: _Turn) -> Any:
        answers = self._answers
        while not concurrent.futures.wait((turn,), self._patience).done:
            if answers == self._answers:
                raise _exhausted()
            answers = self._answers
        return turn.result()

    async def _suspended(self, turn: _Turn) -> Any:
        if self._watch is None:
            self._watch_on()
        return await turn

    def _watch_on(self) -> None:
        """One timer for all the tasks that wait: one for each would make a burst of them its own delay."""
        self._watch = asyncio.get_running_loop().call_later(self._patience, self._look, self._answers)

    def _look(self, answers: int) -> None:
        self._watch = None
        with self._lock:
            waiting = list(self._waiting)
            if answers == self._answers:
                self._waiting.clear()
        for turn in waiting if answers == self._answers else ():
            if not turn.done():
                turn.set_exception(_exhausted())
        if self._waiting:
            self._watch_on()

    def _made(self) -> Any:
        try:
            return self._make()
        except BaseException:
            self._pass_on(None)
            raise

    def _pass_on(self, connection: Any) -> Any:
        """Free a place, with its connection if that can be used again. Returns what has to be closed, if anything."""
        with self._lock:
            while self._waiting:
                turn, _ = self._waiting.popitem(last=False)
                if not turn.done():  # else it is being cancelled
                    turn.set_result(connection)
                    return None
            self._free += 1
            if connection is None or len(self._idle) >= self._keep:
                return connection
            self._idle.append(connection)
            return None


def _exhausted() -> BackendError:
    return BackendError("no connection to Redis became free; raise max_connections")


async def drop(port: Port, connection: Any) -> None:
    """Close without waiting. A connection that can't even be closed is of no interest any more."""
    if connection is not None:
        with contextlib.suppress(Exception):
            if port is BLOCKING:
                connection.disconnect()
            else:
                await connection.disconnect(nowait=True)


def cut_off(connection: Any) -> None:
    """Part from the server where the event loop of the connection is closed, and nothing can be awaited any more.

    The descriptor itself is closed when the transport is collected.
    """
    writer = getattr(connection, "_writer", None)  # the driver offers no other way to the socket
    if writer is not None:
        with contextlib.suppress(Exception):
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
