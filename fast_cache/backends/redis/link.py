"""Exchanges with Redis: a packet of commands out, one reply for each back, in either flavour.

Threads share their lanes; every event loop has its own, closed with the loop; a forked child begins with none.
The driver's errors end here: whatever it raises while it connects means that the server could not be used, and is
:class:`BackendUnavailable`; a reply that is an error is handed back in its place among the replies. What is raised
outside the driver is a defect of this package, and passes through.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from time import sleep
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from fast_cache.backends.redis.batch import MOST, Packet
from fast_cache.backends.redis.breaker import Breaker, Prober
from fast_cache.backends.redis.invalidations import Invalidations, Name
from fast_cache.backends.redis.lane import TaskLane, ThreadLane, unavailable
from fast_cache.backends.redis.lanes import L, Lanes
from fast_cache.backends.redis.large import LargeKeys
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command, Reply, pack
from fast_cache.backends.redis.target import LONGEST_WAIT, Target
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import BLOCKING, Port
from redis.exceptions import ResponseError

_BETWEEN_LOOKS: Final = (0.05, 0.25)
"""Seconds: how often those look who find no connection to wait on."""


class Link:
    """The way to one server.

    Args:
        silence: for how many seconds the server may say nothing before it is taken to be away.
    """

    def __init__(
        self, target: Target, layout: Layout, breaker: Breaker, invalidations: Invalidations, *, silence: float
    ) -> None:
        self._target = target
        self._layout = layout
        self._breaker = breaker
        self._invalidations = invalidations
        self._silence = silence
        self._prober = Prober(breaker, self._probe)
        self._large = LargeKeys()
        self._identity: bytes | None = None
        self._lock = threading.Lock()
        self._threads: Lanes[ThreadLane] | None = None
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._ending: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        _links.add(self)

    @property
    def epoch(self) -> int:
        """Changes whenever the server is found to be away, or back."""
        return self._breaker.epoch

    def away(self) -> bool:
        """Whether the server is taken to be away; then it is asked again shortly."""
        if self._breaker.is_open:
            self._prober.awake()
            return True
        return False

    def lost(self, epoch: int) -> None:
        """Something that was sent in ``epoch`` was not answered."""
        if self._breaker.lost(epoch):
            self._prober.awake()

    def owe(self, name: Name) -> None:
        """See to it that ``name`` is invalidated before anything else is asked."""
        self._invalidations.owe(name)

    def confirm(self, name: Name) -> None:
        """The server has confirmed that ``name`` is invalidated."""
        self._invalidations.confirm(name)

    def exchange(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """Send ``packet`` and return one reply per command.

        It may be sent twice, the second time over a new connection, if the server closed the first one meanwhile.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
        """
        return port.send(self._exchange, packet)

    async def _exchange(self, port: Port, packet: Packet) -> list[Reply]:
        if self._breaker.is_open:
            self._prober.awake()
            raise unavailable()
        if self._invalidations.pending:
            await self._settle(port)
        return await port.do(self._by_thread, self._by_task, packet)

    def _by_thread(self, packet: Packet) -> list[Reply]:
        return self._of_threads().lane_for(packet).exchange(packet)

    async def _by_task(self, packet: Packet) -> list[Reply]:
        held = self._loops.get(asyncio.get_running_loop())
        lanes = await self._of_loop() if held is None else held.lanes
        return await lanes.lane_for(packet).exchange(packet)

    async def wait(self, port: Port, packet: Packet, seconds: float) -> list[Reply] | None:
        """Send ``packet``, which the server may answer only after ``seconds``, over a connection for such.

        If none is free, nothing is sent, and ``None`` returned after a while; also if another of a batch has waited.
        """
        return await port.later(partial(self._wait, packet, seconds))

    async def _wait(self, packet: Packet, seconds: float, port: Port) -> list[Reply] | None:
        if self._breaker.is_open:
            self._prober.awake()
            raise unavailable()
        replies = await port.do(self._wait_by_thread, self._wait_by_task, packet)
        if replies is None:
            await self.pause(port, seconds)
        return replies

    def _wait_by_thread(self, packet: Packet) -> list[Reply] | None:
        with self._of_threads().waiting() as lane:
            return None if lane is None else lane.exchange(packet)

    async def _wait_by_task(self, packet: Packet) -> list[Reply] | None:
        with (await self._of_loop()).waiting() as lane:
            return None if lane is None else await lane.exchange(packet)

    async def pause(self, port: Port, seconds: float) -> None:
        """Let some time pass between two looks, not more than ``seconds``."""
        await port.do(sleep, _suspended, min(seconds, random.uniform(*_BETWEEN_LOOKS)))

    def close(self) -> None:
        """Close the connections of threads, and ask no more whether a server that is away is back."""
        self._prober.close()
        with self._lock:
            lanes, self._threads = self._threads, None
        for lane in lanes.all() if lanes is not None else ():
            lane.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        with self._lock:
            held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None and held.closing is not None:
            await held.closing.aclose()

    def forked(self) -> None:
        """Leave the connections to the parent: this is its child, and both hold the same sockets."""
        # Kept, because closing them would be felt by the parent, whose event loop shares even its selector with us.
        _inherited.append((self._threads, self._loops))
        self._lock = threading.Lock()
        self._threads = None
        self._loops = {}
        self._breaker.forked()
        self._prober.forked()
        self._invalidations.forked()

    async def _open(self, port: Port) -> Any:
        """Make a connection, and tell the server what it has to know before anything else."""
        connection = await self._target.connect(port)
        try:
            await self._greet(port, connection)
        except BaseException:
            await _drop(port, connection)
            raise
        return connection

    async def _greet(self, port: Port, connection: Any) -> None:
        """Find out whether the server is another one than before: then it may lack what that one confirmed."""
        (reply,) = await _converse(port, connection, [("INFO", "server")])
        identity = _identity(reply)
        if identity is None or self._identity not in (None, identity):
            self._invalidations.repeat()
        if self._invalidations.pending:
            await self._deliver(partial(_converse, port, connection))
        self._identity = identity

    async def _settle(self, port: Port) -> None:
        """Deliver what is owed, although the server is not away."""
        epoch = self._breaker.epoch
        try:
            await self._deliver(lambda commands: port.do(self._by_thread, self._by_task, commands))
        except BackendUnavailable:
            self.lost(epoch)
            raise

    async def _deliver(self, talk: Callable[[list[Command]], Awaitable[list[Reply]]]) -> None:
        """Tell the server what it is owed."""
        owed = self._invalidations.owed()
        commands = owed.commands(self._layout)
        for first in range(0, len(commands), MOST):
            replies = await talk(commands[first : first + MOST])
            if any(isinstance(reply, Exception) for reply in replies):
                # A replica or a server that forbids it: until it can be told, nothing it holds may be believed.
                raise BackendUnavailable("Redis refuses the invalidations it is owed")
        self._invalidations.delivered(owed)

    async def _probe(self, port: Port) -> None:
        connection = await self._open(port)
        try:
            (reply,) = await _converse(port, connection, [("PING",)])
            if isinstance(reply, ResponseError):
                raise BackendUnavailable("Redis refuses a PING")
            if self._invalidations.pending:
                await self._deliver(partial(_converse, port, connection))
        finally:
            await _drop(port, connection)

    def _of_threads(self) -> Lanes[ThreadLane]:
        lanes = self._threads
        if lanes is None:
            with self._lock:
                if self._threads is None:
                    self._threads = self._lanes(self._thread_lane)
                lanes = self._threads
        return lanes

    def _lanes(self, make: Callable[[bool], L]) -> Lanes[L]:
        return Lanes(make, self._large, most=self._target.most, waiting=self._target.waiting)

    def _thread_lane(self, waits: bool) -> ThreadLane:
        return ThreadLane(self._open, self, self._large, silence=self._silence + waits * LONGEST_WAIT)

    async def _of_loop(self) -> Lanes[TaskLane]:
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            self._sweep()
            ending = loop in self._ending
            # Its asynchronous generators are shut down, ours among them: nothing may stay open from now on.
            make = partial(self._task_lane, loop, keeps=not ending)
            lanes = self._lanes(make)
            held = _OfLoop(lanes, None if ending else self._close_at_end(loop, lanes))
            with self._lock:
                self._loops[loop] = held
            if held.closing is not None:
                await held.closing.__anext__()
        return held.lanes

    def _task_lane(self, loop: asyncio.AbstractEventLoop, waits: bool, *, keeps: bool) -> TaskLane:
        return TaskLane(loop, self._open, self, self._large, silence=self._silence + waits * LONGEST_WAIT, keeps=keeps)

    async def _close_at_end(
        self, loop: asyncio.AbstractEventLoop, lanes: Lanes[TaskLane]
    ) -> AsyncGenerator[None, None]:
        """Close ``lanes`` when ``loop`` shuts down its asynchronous generators.

        One that is suspended here thus needs no hook and no finaliser to learn of it.
        """
        try:
            yield
        finally:
            with self._lock:
                ends = self._loops.pop(loop, None) is not None  # else it was closed for its own sake, by ``aclose``
                if ends:
                    self._ending.add(loop)
            for lane in lanes.all():
                lane.close(at_once=ends)
            await asyncio.sleep(0)  # in which the loop lets go of them

    def _sweep(self) -> None:
        """Let go of loops that were closed without shutting down their asynchronous generators."""
        with self._lock:
            closed = [self._loops.pop(loop) for loop in list(self._loops) if loop.is_closed()]
        for held in closed:
            for lane in held.lanes.all():
                lane.cut_off()


class _OfLoop(NamedTuple):
    """The lanes of one event loop, and the generator by which the loop closes them."""

    lanes: Lanes[TaskLane]
    closing: AsyncGenerator[None, None] | None


_links: WeakSet[Link] = WeakSet()
_inherited: list[Any] = []


def _forked() -> None:
    for link in list(_links):
        link.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _identity(reply: Reply) -> bytes | None:
    """Which run of which server this is, if it says so."""
    for line in reply.splitlines() if isinstance(reply, bytes) else ():
        if line.startswith(b"run_id:"):
            return bytes(line)
    return None


async def _converse(port: Port, connection: Any, commands: Sequence[Command]) -> list[Reply]:
    """Send over a connection of the driver's that no lane has yet, and read a reply to each command.

    Raises:
        BackendUnavailable: there was none in time.
    """
    try:
        await port.do(connection.send_packed_command, connection.send_packed_command, [pack(commands, scripts=True)])
        return [await _one_reply(port, connection) for _ in commands]
    except Exception as error:
        raise unavailable(error) from error


async def _one_reply(port: Port, connection: Any) -> Reply:
    read = connection.read_response
    try:
        return await port.do(read, read, disable_decoding=True)
    except ResponseError as error:
        return error


async def _drop(port: Port, connection: Any) -> None:
    """Close without waiting. A connection that can't even be closed is of no interest any more."""
    with suppress(Exception):
        if port is BLOCKING:
            connection.disconnect()
        else:
            await connection.disconnect(nowait=True)
