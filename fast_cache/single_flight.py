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
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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


class Mark:
    """A load, as the code that it runs carries it about: what it waits for, and nothing of its key or value.

    Tasks and timers that a load starts keep a copy of the context for as long as they live.
    """

    __slots__ = ("awaits",)

    def __init__(self) -> None:
        self.awaits: list[Mark] = []


class Flight:
    """One load in progress. Only :class:`Flights` changes it."""

    __slots__ = ("_gone", "_waiters", "ended", "key", "mark", "moved", "outcome")

    def __init__(self, key: Hashable, gone: Gone | None = None) -> None:
        self.key = key
        self.moved = False
        self.ended: Signal | None = None
        self.outcome: Outcome | None = None
        self.mark = Mark()
        self._waiters: deque[Waiter] = deque()
        self._gone = gone


Gone = Callable[[], bool]
"""Tells whether a leader will never come back, because the event loop it ran on is closed."""

_led: ContextVar[tuple[Mark, ...]] = ContextVar("fast_cache_led_flights", default=())
"""The loads that the code running here is a part of, outermost first."""

_graph = threading.RLock()
"""Guards what waits for what, across the flights of all stores."""


@contextmanager
def leading(flight: Flight) -> Iterator[None]:
    """Mark what runs inside as the load of ``flight``, so that waiting for itself is noticed."""
    token = _led.set((*_led.get(), flight.mark))
    try:
        yield
    finally:
        # A leader whose loop is gone is finished by the garbage collector, in whatever context that runs.
        with suppress(ValueError):
            _led.reset(token)


class Flights:
    """The flights of one store."""

    def __init__(self) -> None:
        # Reentrant, because a collection of garbage in here may run code of the user's that asks the cache.
        self._lock = threading.RLock()
        self._table: dict[Hashable, Flight] = {}

    def forget(self) -> None:
        """After a fork: the leaders are threads of the parent, and one of them may hold the lock."""
        self._lock = threading.RLock()
        self._table = {}

    def __len__(self) -> int:
        return len(self._table)

    def board(self, key: Hashable, gone: Gone | None = None) -> tuple[Flight, bool]:
        """Return the flight to be on for ``key``, and whether the caller leads it.

        ``gone`` is what others may ask if the caller leads: whether it will never come back.
        """
        with self._lock:
            flight = self._table.get(key)
            lost = flight if flight is not None and flight._gone is not None and flight._gone() else None
            if flight is not None and lost is None:
                return flight, False
            flight = self._table[key] = Flight(key, gone)
        if lost is not None:
            self.abandon(lost)
        return flight, True

    def supersede(self, key: Hashable, gone: Gone | None = None) -> Flight:
        """Lead a new flight whatever is running: what was under way must neither be joined nor stored."""
        with self._lock:
            self._detach(key)
            flight = self._table[key] = Flight(key, gone)
            return flight

    def waiting(self, key: Hashable) -> int:
        """How many callers follow the flight of ``key``."""
        with self._lock:
            flight = self._table.get(key)
            return 0 if flight is None else len(flight._waiters)

    def is_followed(self, flight: Flight) -> bool:
        """Whether anybody waits for ``flight``."""
        return bool(flight._waiters)

    def enqueue(self, flight: Flight, waiter: Waiter) -> Signal | None:
        """Wait for ``flight``; where there is nothing to wait for, the signal is returned instead."""
        led = _led.get()
        with _graph if led else _NO_LOCK, self._lock:
            if flight.ended is not None:
                return flight.ended
            if led and _depends_on(flight.mark, led):
                return Signal.ALONE
            for own in led:
                own.awaits.append(flight.mark)
            flight._waiters.append(waiter)
            return None

    def leave(self, flight: Flight, waiter: Waiter) -> None:
        """Stop waiting: woken, or cancelled. A lead that was handed over in the same breath is kept by the caller."""
        led = _led.get()
        with _graph if led else _NO_LOCK, self._lock:
            for own in led:
                if flight.mark in own.awaits:
                    own.awaits.remove(flight.mark)
            if waiter.signal is None:
                flight._waiters.remove(waiter)

    def settle(self, flight: Flight, outcome: Outcome, signal: Signal = Signal.SETTLED) -> None:
        """End the flight and wake everyone with ``signal``. Does nothing to a flight that has ended."""
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


_NO_LOCK = nullcontext()


def _depends_on(mark: Mark, led: tuple[Mark, ...]) -> bool:
    """Whether ``mark`` is one of ``led``, or waits for one of them through any chain of loads."""
    seen: set[int] = set()
    queue = [mark]
    while queue:
        current = queue.pop()
        if current in led:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            queue.extend(current.awaits)
    return False
