"""All lanes of one backend: of each event loop and of the threads, to one server or to each node of a Cluster.

Threads share theirs; every event loop has its own, closed with the loop; a forked child begins with none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Generic
from weakref import WeakSet

from fast_cache.backends.redis.batch import Packet
from fast_cache.backends.redis.driver import Address
from fast_cache.backends.redis.lane import Guard, TaskLane, ThreadLane
from fast_cache.backends.redis.lanes import L, Lanes
from fast_cache.backends.redis.large import LargeKeys
from fast_cache.backends.redis.resp import Reply
from fast_cache.ports import Port

LONGEST_WAIT = 1.0
"""For how many seconds the server may keep a connection waiting that is there for it."""

Where = Address | None
"""A node of a Cluster; ``None`` is the server, where there is but one."""


class Held(Generic[L]):
    """The lanes of one event loop, or of all threads, by where they lead."""

    def __init__(self, make: Callable[[Where], Lanes[L]]) -> None:
        self._make = make
        self._lock = Lock()
        self._lanes: dict[Where, Lanes[L]] = {}
        self.closing: AsyncGenerator[None, None] | None = None
        """By which the loop closes them."""

    def to(self, where: Where) -> Lanes[L]:
        lanes = self._lanes.get(where)
        if lanes is None:
            with self._lock:
                lanes = self._lanes.setdefault(where, self._make(where))
        return lanes

    def towards(self, where: Where) -> list[L]:
        """Those that lead there, as far as they have been made."""
        lanes = self._lanes.get(where)
        return [] if lanes is None else lanes.all()

    def all(self) -> list[L]:
        with self._lock:
            return [lane for lanes in self._lanes.values() for lane in lanes.all()]

    def only(self, there: Container[Where]) -> list[L]:
        """Forget the lanes that lead elsewhere: returns them."""
        with self._lock:
            gone = [where for where in self._lanes if where not in there]
            return [lane for where in gone for lane in self._lanes.pop(where).all()]


class Fleet:
    """Lanes, made when they are needed.

    Args:
        connect: makes a connection, ready for commands.
        silence: for how many seconds a server may say nothing.
        keep: how many connections stay open while nobody uses them, of each loop and of all threads, to each server.
        most: how many there may be at once; a quarter more for answers that are waited for.
        merges: whether reads of several callers may become one command.
    """

    def __init__(
        self,
        connect: Callable[[Port, Where], Awaitable[Any]],
        guard: Guard,
        *,
        silence: float,
        keep: int,
        most: int,
        merges: bool,
    ) -> None:
        self._connect = connect
        self._guard = guard
        self._silence = silence
        self._keep = keep
        self._most = most
        self._merges = merges
        self._large = LargeKeys()
        self._lock = Lock()
        self._threads = Held(self._thread_lanes)
        self._loops: dict[asyncio.AbstractEventLoop, Held[TaskLane]] = {}
        self._ending: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._inherited: list[Any] = []

    def by_thread(self, packet: Packet, where: Where = None) -> list[Reply]:
        """Send ``packet`` and return the replies, blocking."""
        return self._threads.to(where).lane_for(packet).exchange(packet)

    def by_task(self, packet: Packet, where: Where = None) -> Awaitable[list[Reply]]:
        """Send ``packet`` and return the replies."""
        held = self._loops.get(asyncio.get_running_loop())
        if held is None:
            return self._first_of_loop(packet, where)
        return held.to(where).lane_for(packet).exchange(packet)

    async def _first_of_loop(self, packet: Packet, where: Where) -> list[Reply]:
        return await (await self._of_loop()).to(where).lane_for(packet).exchange(packet)

    def each_by_thread(self, packets: Sequence[tuple[Packet, Where]]) -> list[list[Reply]]:
        """Send several packets, one after the other."""
        return [self.by_thread(packet, where) for packet, where in packets]

    async def each_by_task(self, packets: Sequence[tuple[Packet, Where]]) -> list[list[Reply]]:
        """Send several packets at once."""
        held = await self.lanes_of_loop()
        sent = [held.to(where).lane_for(packet).exchange(packet) for packet, where in packets]
        try:
            return [await replies for replies in sent]
        except BaseException:
            for replies in sent:
                replies.cancel()
            for replies in sent:  # of those that fail later nobody is to be told; some can't be cancelled yet
                with suppress(Exception, asyncio.CancelledError):
                    await replies
            raise

    async def lanes_of_loop(self) -> Held[TaskLane]:
        """The lanes of the running loop."""
        return self._loops.get(asyncio.get_running_loop()) or await self._of_loop()

    def wait_by_thread(self, packet: Packet, where: Where = None) -> list[Reply] | None:
        """Send what the server answers late; ``None`` if too many are waiting."""
        with self._threads.to(where).waiting() as lane:
            return None if lane is None else lane.exchange(packet)

    async def wait_by_task(self, packet: Packet, where: Where = None) -> list[Reply] | None:
        """The same, suspending."""
        with (await self._of_loop()).to(where).waiting() as lane:
            return None if lane is None else await lane.exchange(packet)

    def is_quiet(self, where: Where, seconds: float) -> bool:
        """Whether nobody has asked there for so long. Whoever does notices himself what happens."""
        with self._lock:
            loops = list(self._loops.values())
        lanes = [lane for held in loops for lane in held.towards(where)] + self._threads.towards(where)
        return not any(lane.used_within(seconds) for lane in lanes)

    def keep_only(self, there: Container[Where]) -> None:
        """Close what leads elsewhere: those nodes are gone. Other event loops close theirs at their ends."""
        for lane in self._threads.only(there):
            lane.close()

    def close(self) -> None:
        """Close the connections of threads."""
        with self._lock:
            held, self._threads = self._threads, Held(self._thread_lanes)
        for lane in held.all():
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
        self._inherited.append((self._threads, self._loops))
        self._lock = Lock()
        self._threads = Held(self._thread_lanes)
        self._loops = {}

    def _thread_lanes(self, where: Where) -> Lanes[ThreadLane]:
        def make(waits: bool, keeps: bool) -> ThreadLane:
            silence = self._silence + waits * LONGEST_WAIT
            return ThreadLane(
                lambda port: self._connect(port, where),
                self._guard,
                self._large,
                silence=silence,
                merges=self._merges,
                keeps=keeps,
            )

        return self._lanes(make)

    def _task_lanes(self, loop: asyncio.AbstractEventLoop, goes_on: bool, where: Where) -> Lanes[TaskLane]:
        def make(waits: bool, keeps: bool) -> TaskLane:
            silence = self._silence + waits * LONGEST_WAIT
            return TaskLane(
                loop,
                lambda port: self._connect(port, where),
                self._guard,
                self._large,
                silence=silence,
                merges=self._merges,
                keeps=keeps and goes_on,
            )

        return self._lanes(make)

    def _lanes(self, make: Callable[[bool, bool], L]) -> Lanes[L]:
        return Lanes(make, self._large, keep=self._keep, most=self._most, waiting=max(1, self._most // 4))

    async def _of_loop(self) -> Held[TaskLane]:
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            self._sweep()
            ending = loop in self._ending
            # Its asynchronous generators are shut down, ours among them: nothing may stay open from now on.
            held = Held(partial(self._task_lanes, loop, not ending))
            with self._lock:
                self._loops[loop] = held
            if not ending:
                held.closing = self._close_at_end(loop, held)
                await held.closing.__anext__()
        return held

    async def _close_at_end(self, loop: asyncio.AbstractEventLoop, held: Held[TaskLane]) -> AsyncGenerator[None, None]:
        """Close ``held`` when ``loop`` shuts down its asynchronous generators.

        One that is suspended here thus needs no hook and no finaliser to learn of it.
        """
        try:
            yield
        finally:
            with self._lock:
                ends = self._loops.pop(loop, None) is not None  # else it was closed for its own sake, by ``aclose``
                if ends:
                    self._ending.add(loop)
            for lane in held.all():
                lane.close(at_once=ends)
            leaving = [task for lane in held.all() if (task := lane.leaving) is not None]
            await asyncio.gather(*leaving, return_exceptions=True)
            await asyncio.sleep(0)  # in which the loop lets go of them

    def _sweep(self) -> None:
        """Let go of loops that were closed without shutting down their asynchronous generators."""
        with self._lock:
            closed = [self._loops.pop(loop) for loop in list(self._loops) if loop.is_closed()]
        for held in closed:
            for lane in held.all():
                lane.cut_off()
