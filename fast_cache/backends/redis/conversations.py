"""Conversations: exchanges of several round trips, of which nobody else may come in between.

They are held one at a time, by a thread of their own, whoever wants them: so a caller who is cancelled leaves none half
done, and event loops need no connections of their own for it. To each server leads one connection, made when it is
needed. It is treated as those of the lanes are: lost where the server is silent for too long; and what was closed
before anything was answered is done again over another one, here from the beginning of the conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from fast_cache.backends.redis.aside import Line
from fast_cache.backends.redis.batch import has_error
from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.lane import STAY, Connecting, Guard, ThreadWire, Useless, unavailable
from fast_cache.backends.redis.resp import Command, ProtocolError, Reply, pack
from fast_cache.backends.redis.script import Anew
from fast_cache.errors import BackendUnavailable
from fast_cache.ports import Port, run_blocking

T = TypeVar("T")


class _Way:
    """The connection to one server."""

    def __init__(self, connecting: Connecting) -> None:
        self.connecting = connecting
        self.wire: ThreadWire | None = None
        self.epoch = 0
        self.since = 0.0

    def part(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.close()


class Conversations:
    """Whoever holds one does so in a step for :meth:`by_thread` or :meth:`by_task`, and calls :meth:`talk` there only.

    Args:
        connect: makes a connection, ready for commands.
        silence: for how many seconds a server may say nothing.
    """

    def __init__(self, connect: Callable[[Port, Where], Awaitable[Any]], guard: Guard, *, silence: float) -> None:
        self._connect = connect
        self._guard = guard
        self._silence = silence
        self._inherited: list[dict[Where, _Way]] = []
        self._begin()

    def _begin(self) -> None:
        self._line = Line("conversations")
        self._ways: dict[Where, _Way] = {}

    def by_thread(self, step: Callable[[], Coroutine[Any, Any, T]], dated: bool = False) -> T:
        """Carry out ``step``, over the blocking port, when it has its turn."""
        return self._line.begin(lambda: run_blocking(step())).result()

    async def by_task(self, step: Callable[[], Coroutine[Any, Any, T]], dated: bool = False) -> T:
        """The same for those who suspend. What has begun when they are cancelled goes on to its end.

        If it is ``dated``, they wait for that: what they begin then must come later.
        """
        done = asyncio.wrap_future(self._line.begin(lambda: run_blocking(step())))
        if not dated:
            return await done
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            if not done.cancelled():
                done.exception()  # nobody is told of it
            raise

    async def talk(self, where: Where, commands: Sequence[Command], goes_on: bool) -> list[Reply]:
        """Send ``commands`` and return the replies.

        Args:
            goes_on: only over the connection that the commands before went over.

        Raises:
            BackendUnavailable: the server is away, or did not answer in time.
            Anew: the connection is gone, and the server may well be there.
        """
        way = self._ways.get(where)
        if way is None:
            way = self._ways[where] = _Way(Connecting(lambda port: self._connect(port, where), self._silence))
        try:
            if not goes_on:
                self._ready(way)
            if way.wire is None:
                raise Anew
            return self._exchanged(way, way.wire, commands)
        except BackendUnavailable:
            self._guard.lost(way.epoch)
            raise

    def keep_only(self, there: Container[Where]) -> None:
        """Close what leads elsewhere: those nodes are gone."""
        if self._ways:
            self._line.begin(partial(self._close, there))

    def close(self) -> None:
        """Close all connections, behind the conversations that wait."""
        self.keep_only(())

    def forked(self) -> None:
        """Leave the connections to the parent: this is its child, and both hold the same sockets."""
        self._inherited.append(self._ways)  # closing them would be felt by the parent
        self._begin()

    def _ready(self, way: _Way) -> None:
        """See to it that there is a connection."""
        if self._guard.away():
            raise unavailable()
        if way.epoch != self._guard.epoch:
            way.part()  # from before an outage, in which another server may have taken this one's place
        if way.wire is None:
            way.epoch = self._guard.epoch
            way.wire = way.connecting.wire()
            way.since = monotonic()

    def _exchanged(self, way: _Way, wire: ThreadWire, commands: Sequence[Command]) -> list[Reply]:
        proven = wire.proven
        try:
            replies = wire.talk(pack(commands), len(commands), self._silence).take()
        except (OSError, EOFError, ProtocolError) as error:
            way.part()
            if not proven or wire.heard or isinstance(error, (TimeoutError, ProtocolError)):
                raise unavailable(error) from error
            raise Anew from error
        except BaseException:  # KeyboardInterrupt, where the system has no thread for this
            way.part()
            raise
        if self._guard.useless(replies):
            raise unavailable(Useless())
        if has_error(replies, "READONLY") and way.since + STAY < monotonic():
            way.part()  # whoever is the master now is found anew
        return replies

    def _close(self, there: Container[Where]) -> None:
        for where in [where for where in self._ways if where not in there]:
            way = self._ways.pop(where)
            way.part()
            way.connecting.give_up()
