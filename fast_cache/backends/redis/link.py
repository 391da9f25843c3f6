"""Exchanges with Redis: a packet of commands out, one reply for each back, in either flavour.

What travels how is the affair of the lanes; here is what must be known of a server before it is asked, and told it
before anything is read. The driver's errors end here: whatever it raises while it connects means that the server could
not be used, and is :class:`BackendUnavailable`; a reply that is an error is handed back in its place among the replies.
What is raised outside the driver is a defect of this package, and passes through.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic, sleep
from typing import Any, ClassVar, Final
from weakref import WeakSet

from fast_cache.backends.redis.batch import Packet, has_error
from fast_cache.backends.redis.breaker import Breaker, Prober
from fast_cache.backends.redis.deployment import Target
from fast_cache.backends.redis.driver import discard
from fast_cache.backends.redis.fleet import Fleet, Where
from fast_cache.backends.redis.invalidations import Invalidations, Name
from fast_cache.backends.redis.lane import unavailable
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command, Reply, pack
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port
from redis.exceptions import ResponseError

_BETWEEN_LOOKS: Final = (0.05, 0.25)
"""Seconds: how often those look who find no connection to wait on."""

_POSTPONED: Final = 1024
"""Commands; of more, the oldest are forgotten."""

AWAY: Final = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH")
"""How the errors begin by which a server says that it can't serve anybody just now."""


class Link:
    """The way to one server.

    Args:
        silence: for how many seconds the server may say nothing before it is taken to be away.
        keep: how many connections stay open while nobody uses them, of each event loop and of all threads.
        most: how many there may be at once.
    """

    ordered: ClassVar[bool] = True
    """Whether the commands of a packet are carried out in their order."""

    def __init__(
        self, target: Target, layout: Layout, invalidations: Invalidations, *, silence: float, keep: int, most: int
    ) -> None:
        self._target = target
        self._layout = layout
        self._invalidations = invalidations
        self._silence = silence
        self._breaker = Breaker()
        self._prober = Prober(self._breaker, self._probe)
        self._fleet = Fleet(self._open, self, silence=silence, keep=keep, most=most, merges=self.ordered)
        self._identities: dict[Where, bytes | None] = {}
        self._postponed: deque[tuple[Command, float]] = deque(maxlen=_POSTPONED)
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

    def useless(self, replies: Sequence[Reply]) -> bool:
        """Whether the server says that it can't serve anybody, or is no longer the one to ask."""
        return has_error(replies, AWAY)

    def owe(self, name: Name) -> None:
        """See to it that ``name`` is invalidated before anything else is asked."""
        self._invalidations.owe(name)

    def begin(self, name: Name) -> None:
        """The server is about to be told that ``name`` is invalidated."""
        self._invalidations.begin(name)

    def confirm(self, name: Name) -> None:
        """The server has confirmed that ``name`` is invalidated."""
        self._invalidations.confirm(name)

    def postpone(self, command: Command, until: float) -> None:
        """Send ``command`` when the server is back, if that is before ``until``; nobody waits for the reply."""
        self._postponed.append((command, until))

    def exchange(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """Send ``packet`` and return one reply per command.

        It may be sent twice, the second time over a new connection, if the server closed the first one meanwhile.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
        """
        return port.send(self._exchange, packet)

    async def servers(self, port: Port) -> Sequence[Where]:
        """Those who have a part of the keys each."""
        return (None,)

    async def exchange_with(self, port: Port, where: Where, packet: Packet) -> list[Reply]:
        """The same with one of :meth:`servers`, and not with others in one packet."""
        if self._breaker.is_open or self._invalidations.pending:
            await self._ready(port)
        return await port.do(self._fleet.by_thread, self._fleet.by_task, packet, where)

    async def wait(self, port: Port, packet: Packet, seconds: float) -> list[Reply] | None:
        """Send ``packet``, which the server may answer only after ``seconds``, over a connection for such.

        If none is free, nothing is sent, and ``None`` returned after a while; also if another of a batch has waited.
        """
        return await port.later(partial(self._wait, packet, seconds))

    async def pause(self, port: Port, seconds: float) -> None:
        """Let some time pass between two looks, not more than ``seconds``."""
        await port.do(sleep, _suspended, min(seconds, random.uniform(*_BETWEEN_LOOKS)))

    def close(self) -> None:
        """Close the connections of threads, and ask no more whether a server that is away is back."""
        self._prober.close()
        self._fleet.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._fleet.aclose()

    def forked(self) -> None:
        """In a forked child: begin anew, but for what is owed."""
        self._fleet.forked()
        self._breaker.forked()
        self._prober.forked()
        self._invalidations.forked()

    def _exchange(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        # Where nothing is in the way this ends in the lane's own future, without a coroutine in between.
        if self._breaker.is_open or self._invalidations.pending:
            return self._carry_when_ready(port, packet)
        return self._carry(port, packet)

    async def _carry_when_ready(self, port: Port, packet: Packet) -> list[Reply]:
        await self._ready(port)
        return await self._carry(port, packet)

    async def _ready(self, port: Port) -> None:
        """See to it that the server may be asked."""
        if self._breaker.is_open:
            self._prober.awake()
            raise unavailable()
        if self._invalidations.pending:
            epoch = self._breaker.epoch
            try:
                await self._deliver(partial(self._carry, port))
            except BackendUnavailable:
                self.lost(epoch)
                raise

    def _carry(self, port: Port, packet: Packet) -> Awaitable[list[Reply]]:
        """Carry ``packet`` to where it belongs."""
        return port.do(self._fleet.by_thread, self._fleet.by_task, packet)

    async def _wait(self, packet: Packet, seconds: float, port: Port) -> list[Reply] | None:
        await self._ready(port)
        replies = await self._carry_waiting(port, packet)
        if replies is None:
            await self.pause(port, seconds)
        return replies

    def _carry_waiting(self, port: Port, packet: Packet) -> Awaitable[list[Reply] | None]:
        return port.do(self._fleet.wait_by_thread, self._fleet.wait_by_task, packet)

    async def _open(self, port: Port, where: Where = None) -> Any:
        """Make a connection for a lane, and tell the server what it has to know before anything else."""
        connection = await self._target.connect(port, where)
        try:
            await self._recognise(port, connection, where)
            await self._greet(port, connection)
        except BaseException:
            await discard(port, connection)
            raise
        return connection

    async def _recognise(self, port: Port, connection: Any, where: Where) -> None:
        """Find out whether the server is another one than before: then it may lack what that one confirmed."""
        replies = await self._converse(port, connection, [("INFO", "server"), ("INFO", "replication")])
        if self.useless(replies):
            raise BackendUnavailable("Redis can't serve anybody yet")
        identity = _identity(replies)
        if where in self._identities and (identity is None or identity != self._identities[where]):
            self._invalidations.repeat()
        self._identities[where] = identity

    async def _greet(self, port: Port, connection: Any) -> None:
        if self._invalidations.pending:
            await self._deliver(partial(self._converse, port, connection))

    async def _deliver(self, talk: Callable[[list[Command]], Awaitable[list[Reply]]]) -> None:
        """Tell the server what it is owed."""
        owed, servers = self._invalidations.owed(), self._identities.copy()
        for commands in owed.packets(self._layout):
            replies = await talk(commands)
            if any(isinstance(reply, Exception) for reply in replies):
                # A replica or a server that forbids it: until it can be told, nothing it holds may be believed.
                raise BackendUnavailable("Redis refuses the invalidations it is owed")
        if servers == self._identities:  # else one that was told may be gone already
            self._invalidations.delivered(owed)

    async def _converse(self, port: Port, connection: Any, commands: Sequence[Command]) -> list[Reply]:
        """Send over a connection of the driver's that no lane has yet, and read a reply to each command.

        Raises:
            BackendUnavailable: there was none in time.
        """
        send, packed = connection.send_packed_command, [pack(commands, scripts=True)]
        try:
            await port.do(send, send, packed)
            return [await _one_reply(port, connection) for _ in commands]
        except Exception as error:
            raise self._target.unavailable(error) from error

    def _waiting(self) -> list[Command]:
        """What was postponed, and is still to be sent."""
        waiting = []
        with suppress(IndexError):
            while True:
                waiting.append(self._postponed.popleft())
        return [command for command, until in waiting if until > monotonic()]

    async def _probe(self, port: Port) -> None:
        """Find out whether the server is back, and tell it what it is owed."""
        connection = await self._open(port)
        try:
            (reply, *_) = await self._converse(port, connection, [("PING",), *self._waiting()])
            if isinstance(reply, ResponseError):
                raise BackendUnavailable("Redis refuses a PING")
        finally:
            await discard(port, connection)


_links: WeakSet[Link] = WeakSet()


def _forked() -> None:
    for link in list(_links):
        link.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _identity(replies: Sequence[Reply]) -> bytes | None:
    """Which run of which server this is, and whose data it has, if it says so.

    A master that was made the replica of another one, and master again, is the same run with other data.
    """
    lines = [line for reply in replies if isinstance(reply, bytes) for line in reply.splitlines()]
    told = [line for line in lines if line.startswith((b"run_id:", b"master_replid:"))]
    return b" ".join(told) if any(line.startswith(b"run_id:") for line in told) else None


async def _one_reply(port: Port, connection: Any) -> Reply:
    read = connection.read_response
    try:
        return await port.do(read, read, disable_decoding=True)
    except ResponseError as error:
        return error
