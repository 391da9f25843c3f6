"""Stops asking a server that does not answer.

The first lost batch opens the breaker, and from then on calls fail at once. Only a probe closes it, which a thread of
its own makes over a fresh connection, after pauses that grow from 0.1 to 0.5 seconds: no caller ever waits to find out
whether the server is back, and a blocked event loop keeps nobody from it.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final
from weakref import ref

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


class Prober:
    """Asks a server that is away whether it is back.

    Args:
        probe: tells the server what it has to know before anything is read; raises :class:`BackendError` if it can't.
    """

    def __init__(self, breaker: Breaker, probe: Callable[[Port], Awaitable[None]]) -> None:
        self._breaker = breaker
        self._probe = probe
        self.pause = _FIRST_PAUSE
        """For how many seconds to wait before the next probe."""
        self.forked()

    def forked(self) -> None:
        """In a forked child: begin anew."""
        self._lock = threading.RLock()
        self._bell: SimpleQueue[None] | None = None

    def awake(self) -> None:
        """See to it that a thread probes, while the breaker is open."""
        with self._lock:
            if self._bell is not None:
                return
            bell = self._bell = SimpleQueue()
        self.pause = _FIRST_PAUSE
        self._start(bell)

    def _start(self, bell: SimpleQueue[None]) -> None:
        thread = threading.Thread(target=_work, args=(ref(self), bell), name="fast_cache probe", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more, or the interpreter is about to end: the next caller tries again
            self._ended(bell)

    async def round(self, port: Port) -> bool:
        """Probe once; whether the server is back."""
        try:
            await self._probe(port)
        except BackendError:
            self.pause = min(self.pause * 2, _LONGEST_PAUSE)
            return False
        self._breaker.close()
        return True

    def close(self) -> None:
        """End the thread. The next caller who finds the breaker open begins another."""
        with self._lock:
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.put(None)

    def _goes_on(self, bell: SimpleQueue[None]) -> bool:
        """Probe once, unless that is over; whether to do it again."""
        goes_on = False
        try:
            goes_on = self._breaker.is_open and not run_blocking(self.round(BLOCKING))
        finally:
            if not goes_on:
                self._ended(bell)
        return goes_on

    def _ended(self, bell: SimpleQueue[None]) -> None:
        with self._lock:
            if self._bell is bell:
                self._bell = None


def _work(held: ref[Prober], bell: SimpleQueue[None]) -> None:
    """Probe until the server is back, or nobody has the prober any more: it is not for this thread to keep it."""
    prober = held()
    while prober is not None:
        pause = prober.pause
        del prober
        with suppress(Empty):
            bell.get(timeout=pause)
            break
        prober = held()
        if prober is not None and not prober._goes_on(bell):
            break
