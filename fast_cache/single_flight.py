"""One load per key in one process, shared by threads and by the tasks of every event loop.

The first caller of a key leads; who comes while it loads follows. A flight ends in one of three ways: it is
settled (everyone gets the outcome), overtaken (an invalidation elsewhere refused its write: followers ask again),
or abandoned (its leader was cancelled: exactly one follower takes the lead and loads with its own arguments).

The table is also the in-process fence. An invalidation marks the running flight as *moved* and takes it out of the
table: what it loaded is still the answer for those who were waiting, is never stored, and nobody new may join.
It is bounded by the number of calls in flight. Nothing here blocks or awaits: how a caller waits is its port's affair.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from fast_cache.outcome import Outcome


class Signal(enum.Enum):
    """What a waiting follower is woken with."""

    SETTLED = "settled"
    """The outcome is there."""
    OVERTAKEN = "overtaken"
    """The value may be older than an invalidation that has completed: look again."""
    LEAD = "lead"
    """The leader was cancelled, and this follower leads now."""
    ALONE = "alone"
    """Waiting would never end here: load without coalescing."""


class Waiter(Protocol):
    """A follower's place in the queue.

    ``signal`` is written under the table's lock before ``wake`` is called, so a follower that leaves at that very
    moment knows for certain whether the lead has been handed to it.
    """

    signal: Signal | None

    def wake(self) -> bool:
        """Wake the follower, from any thread; False if its event loop is closed and it will never run again."""


class Flight:
    """One load in progress. Only :class:`Flights` changes it."""

    __slots__ = ("_waiters", "awaits", "ended", "key", "moved", "outcome")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.moved = False
        self.ended: Signal | None = None
        self.outcome: Outcome | None = None
        self.awaits: list[Flight] = []
        self._waiters: deque[Waiter] = deque()


_led: ContextVar[tuple[Flight, ...]] = ContextVar("fast_cache_led_flights", default=())
"""The flights that the code running here is loading for, outermost first."""


@contextmanager
def leading(flight: Flight) -> Iterator[None]:
    """Mark what runs inside as the load of ``flight``, so that waiting for itself is noticed."""
    token = _led.set((*_led.get(), flight))
    try:
        yield
    finally:
        _led.reset(token)


class Flights:
    """The flights of one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: dict[Hashable, Flight] = {}

    def __len__(self) -> int:
        return len(self._table)

    def board(self, key: Hashable) -> tuple[Flight, bool]:
        """Return the flight to be on for ``key``, and whether the caller leads it."""
        with self._lock:
            flight = self._table.get(key)
            if flight is not None:
                return flight, False
            flight = self._table[key] = Flight(key)
            return flight, True

    def supersede(self, key: Hashable) -> Flight:
        """Lead a new flight whatever is running: what was under way must neither be joined nor stored."""
        with self._lock:
            self._detach(key)
            flight = self._table[key] = Flight(key)
            return flight

    def enqueue(self, flight: Flight, waiter: Waiter) -> Signal | None:
        """Wait for ``flight``; where there is nothing to wait for, the signal is returned instead."""
        led = _led.get()
        with self._lock:
            if flight.ended is not None:
                return flight.ended
            if led and _depends_on(flight, led):
                return Signal.ALONE
            for own in led:
                own.awaits.append(flight)
            flight._waiters.append(waiter)
            return None

    def leave(self, flight: Flight, waiter: Waiter) -> None:
        """Stop waiting: woken, or cancelled. A lead that was handed over in the same breath is kept by the caller."""
        with self._lock:
            for own in _led.get():
                if flight in own.awaits:
                    own.awaits.remove(flight)
            if waiter.signal is None:
                flight._waiters.remove(waiter)

    def settle(self, flight: Flight, outcome: Outcome, *, overtaken: bool = False) -> None:
        """End the flight and wake everyone. Does nothing to a flight that has ended."""
        signal = Signal.OVERTAKEN if overtaken else Signal.SETTLED
        with self._lock:
            if flight.ended is not None:
                return
            flight.outcome = outcome
            flight.ended = signal
            self._remove(flight)
            waiters, flight._waiters = flight._waiters, deque()
            for waiter in waiters:
                waiter.signal = signal
        for waiter in waiters:
            waiter.wake()

    def abandon(self, flight: Flight) -> None:
        """The leader leaves without an outcome: wake one follower to lead, or end the flight if there is none."""
        while True:
            with self._lock:
                if flight.ended is not None:
                    return
                if not flight._waiters:
                    # OVERTAKEN, so that whoever got hold of the flight a moment ago looks again.
                    flight.ended = Signal.OVERTAKEN
                    self._remove(flight)
                    return
                heir = flight._waiters.popleft()
                heir.signal = Signal.LEAD
            if heir.wake():
                return

    def invalidate(self, key: Hashable) -> Flight | None:
        """Fence off the running load of ``key``: it will not be stored, and nobody joins it any more."""
        with self._lock:
            return self._detach(key)

    def invalidate_all(self) -> list[Flight]:
        """Fence off every running load."""
        with self._lock:
            flights = list(self._table.values())
            for flight in flights:
                flight.moved = True
            self._table.clear()
            return flights

    def _detach(self, key: Hashable) -> Flight | None:
        flight = self._table.pop(key, None)
        if flight is not None:
            flight.moved = True
        return flight

    def _remove(self, flight: Flight) -> None:
        if self._table.get(flight.key) is flight:
            del self._table[flight.key]


def _depends_on(flight: Flight, led: tuple[Flight, ...]) -> bool:
    """Whether ``flight`` is one of ``led``, or waits for one of them through any chain of loads."""
    seen: set[int] = set()
    queue = [flight]
    while queue:
        current = queue.pop()
        if current in led:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            queue.extend(current.awaits)
    return False
