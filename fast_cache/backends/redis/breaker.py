"""Stops asking a server that does not answer.

The first lost batch opens the breaker, and from then on calls fail at once. Only a probe closes it, which a thread of
its own makes over a fresh connection, after pauses that grow from 0.1 to 0.5 seconds: no caller ever waits to find out
whether the server is back, and a blocked event loop keeps nobody from it.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Final

from fast_cache.backends.redis.rounds import Rounds
from fast_cache.errors import BackendError
from fast_cache.ports import BLOCKING, Port, run_blocking

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 0.5
"""Seconds. With the time that a probe may take, service is back within one second of the server's return."""


class Breaker:
    """Whether the server is taken to be away. Safe for threads; never blocks and never waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.is_open = False
        self.epoch = 0
        """Changes whenever the breaker opens or closes."""

    def lost(self, epoch: int) -> bool:
        """Something that was sent in ``epoch`` was not answered; whether that opened the breaker."""
        with self._lock:
            if self.is_open or epoch != self.epoch:
                return False  # lost together with what opened it, or from before the last outage
            self.is_open = True
            self.epoch += 1
            return True

    def close(self) -> None:
        """The server answered a probe."""
        with self._lock:
            if self.is_open:
                self.is_open = False
                self.epoch += 1

    def forked(self) -> None:
        """In a forked child: what threads of the parent held is not here."""
        self._lock = threading.Lock()


class Prober(Rounds):
    """Asks a server that is away whether it is back.

    Args:
        probe: tells the server what it has to know before anything is read; raises :class:`BackendError` if it can't.
    """

    name = "fast_cache probe"

    def __init__(self, breaker: Breaker, probe: Callable[[Port], Awaitable[None]]) -> None:
        self._breaker = breaker
        self._probe = probe
        super().__init__(_FIRST_PAUSE)

    async def round(self, port: Port) -> bool:
        """Probe once; whether the server is back."""
        try:
            await self._probe(port)
        except BackendError:
            self.pause = min(self.pause * 2, _LONGEST_PAUSE)
            return False
        self._breaker.close()
        return True

    def needed(self) -> bool:
        return self._breaker.is_open

    def go(self) -> None:
        run_blocking(self.round(BLOCKING))
