"""One at a time for each key, first come, first served: threads, and tasks of any event loops.

No lock is held while a task is suspended: whoever has the turn leads a flight, those who wait follow it, and one that
ends or is cancelled hands it to the next. See :mod:`fast_cache.single_flight`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from weakref import WeakSet

from fast_cache.errors import BackendError
from fast_cache.ports import Port
from fast_cache.single_flight import Flight, Flights, Signal


class Turns:
    """The turns of one backend."""

    def __init__(self) -> None:
        self._flights = Flights()
        _all.add(self)

    async def take(self, port: Port, key: str) -> Flight:
        """Wait for the turn; give it back by :meth:`give`.

        Raises:
            BackendError: waiting would never end, because the one who has it needs the event loop of this thread.
        """
        while True:
            flight, leads = self._flights.board(key, port.gone())
            if leads:
                return flight
            signal = await port.wait(self._flights, flight)
            if signal is Signal.LEAD:
                return flight
            if signal is Signal.ALONE:
                raise BackendError(
                    "this key is being changed by somebody whom a thread that runs an event loop can't wait for; "
                    "use the asynchronous method there"
                )

    async def enter(self, port: Port, key: str, until: ExitStack) -> None:
        """Wait for the turn if that is possible; it is given back when ``until`` is left."""
        with suppress(BackendError):
            until.callback(self.give, await self.take(port, key))

    def give(self, flight: Flight) -> None:
        """Let the next one have the turn."""
        self._flights.abandon(flight)

    def forked(self) -> None:
        """In a forked child: whoever had a turn is a thread of the parent."""
        self._flights.forget()


_all: WeakSet[Turns] = WeakSet()


def _forked() -> None:
    for turns in list(_all):
        turns.forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)
