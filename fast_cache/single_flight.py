"""One load per key in one process, shared by threads and by the tasks of every event loop.

The first caller of a key leads; who comes while it loads follows. A flight ends in one of three ways: it is
settled (everyone gets the outcome), overtaken (an invalidation elsewhere refused its write: followers ask again),
or abandoned (its leader was cancelled: exactly one follower takes the lead and loads with its own arguments).

A flight that nobody may join, because its function does without coalescing, is *lone*: beside the table, and fenced
like the others.

The table is also the in-process fence. An invalidation marks the running flight as *moved* and takes it out of the
table: what it loaded is still the answer for those who were waiting, is never stored, and nobody new may join.
It is bounded by the number of calls in flight. Nothing here blocks or awaits: how a caller waits is its port's affair.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
    LATE = "late"
    """The follower has waited for as long as it cares to; no flight ever ends with this."""


class Waiter(Protocol):
    """A follower's place in the queue.

    ``signal`` is written under the table's lock before ``wake`` is called, so a follower that leaves at that very
    moment knows for certain whether the lead has been handed to it.
    """

    signal: Signal | None
    gone: Gone | None

    def wake(self) -> bool:
        """Wake the follower, from any thread; False if its event loop is closed and it will never run again."""


class Lease(Protocol):
    """What a store gives the leader of a flight, so that no other process loads meanwhile."""

    def give_up(self) -> None:
        """Let others have it, soon; from any thread, without waiting."""


class Mark:
    """A load, as the code that it runs carries it about: what it waits for and what the code said about the result.

    It holds nothing of key and value: tasks and timers that a load starts keep a copy of the context, and so of this,
    for as long as they live.
    """

    __slots__ = ("awaits", "expire", "skipped", "tags")

    def __init__(self) -> None:
        self.awaits: list[Mark] = []
        self.expire: float | None = None
        self.skipped = False
        self.tags: dict[str, None] = {}

    def forget(self) -> None:
        """Forget what the code said."""
        self.expire, self.skipped, self.tags = None, False, {}

    def repeat(self, other: Mark) -> None:
        """Say of this load what was said of another one."""
        self.expire, self.skipped, self.tags = other.expire, other.skipped, dict(other.tags)


class Flight:
    """One load in progress. Only :class:`Flights` changes it."""

    __slots__ = (
        "_gone",
        "_late",
        "_waiters",
        "began",
        "ended",
        "found",
        "heard",
        "interrupted",
        "key",
        "lease",
        "lost",
        "mark",
        "moved",
        "outcome",
        "sealed",
        "stored",
    )

    def __init__(self, key: Hashable, gone: Gone | None = None) -> None:
        self.key = key
        self.moved = False
        self.stored = False
        self.interrupted = False
        """Whether its leader went away without an outcome."""
        self.heard = False
        """Whether somebody waited for it when it ended."""
        self.found = False
        """Whether the leader found the value, stored by somebody else, and loaded nothing."""
        self.lease: Lease | None = None
        """What keeps other processes from loading: the store's to give. Leaders come and go; it stays to the end."""
        self.began: float | None = None
        self.ended: Signal | None = None
        self.outcome: Outcome | None = None
        self.mark = Mark()
        self.lost: frozenset[Hashable] = frozenset()
        """The tags that were invalidated since the load began: a result that has one of them is not stored."""
        self.sealed = False
        self._waiters: deque[Waiter] = deque()
        self._late: deque[Waiter] = deque()
        self._gone = gone


_LOST = 256
"""How many tags that were invalidated are remembered for a load."""

Gone = Callable[[], bool]
"""Tells whether a leader is not coming back, because the event loop that it ran on does not run."""

_led: ContextVar[tuple[Mark, ...]] = ContextVar("fast_cache_led_flights", default=())
"""The loads that the code running here is a part of, outermost first."""

_graph = threading.RLock()
"""Guards what waits for what, across the flights of all stores."""


def innermost() -> Mark | None:
    """The load that the running code is a part of most closely."""
    led = _led.get()
    return led[-1] if led else None


def led() -> tuple[Mark, ...]:
    """The loads that the running code is a part of, outermost first."""
    return _led.get()


@contextmanager
def leading(flight: Flight) -> Iterator[None]:
    """Mark what runs inside as the load of ``flight``, so that waiting for itself is noticed."""
    flight.mark.forget()  # what a leader said that was cancelled is not its heir's
    flight.lost = frozenset()
    flight.interrupted = False
    token = _led.set((*_led.get(), flight.mark))
    try:
        yield
    finally:
        # A leader whose loop is gone is finished by the garbage collector, in whatever context that runs.
        with suppress(ValueError):
            _led.reset(token)


@contextmanager
def leading_all(marks: Sequence[Mark], others: Sequence[Mark] = ()) -> Iterator[None]:
    """Mark what runs inside as the load of several flights: what it says of its result is about each of theirs.

    One mark stands for all of them, and they wait for it: what runs inside carries about one more, not thousands.
    The ``others`` wait for it too, and nothing is said of them.
    """
    own = Mark()
    waiting = (*marks, *others)
    for mark in waiting:
        mark.awaits.append(own)  # without the lock: what waits for nothing yet closes no ring
    token = _led.set((*_led.get(), own))
    try:
        yield
        for mark in marks:
            mark.repeat(own)
    finally:
        with suppress(ValueError):
            _led.reset(token)
        for mark in waiting:
            mark.awaits.remove(own)


@contextmanager
def apart() -> Iterator[None]:
    """Mark what runs inside as a load of nobody's: what it says of its result is not about the load around it."""
    token = _led.set((*_led.get(), Mark()))
    try:
        yield
    finally:
        with suppress(ValueError):
            _led.reset(token)


class Flights:
    """The flights of one store."""

    def __init__(self) -> None:
        # Reentrant, because a collection of garbage in here may run code of the user's that asks the cache.
        self._lock = threading.RLock()
        self._table: dict[Hashable, Flight] = {}
        self._lone: dict[Hashable, set[Flight]] = {}

    def forget(self) -> None:
        """After a fork: the leaders are threads of the parent, and one of them may hold the lock."""
        self._lock = threading.RLock()
        self._table = {}
        self._lone = {}

    def __len__(self) -> int:
        return len(self._table) + len(self._lone)

    def board(self, key: Hashable, gone: Gone | None = None) -> tuple[Flight, bool]:
        """Return the flight to be on for ``key``, and whether the caller leads it.

        ``gone`` is what others may ask if the caller leads: whether it will never come back.
        """
        with self._lock:
            flight = self._table.get(key)
            lost = flight if flight is not None and flight._gone is not None and flight._gone() else None
            if flight is not None and lost is None:
                return flight, False
            if lost is not None:
                lost.moved = True  # should its loop run again, what it loads is older than what comes now
            flight = self._table[key] = Flight(key, gone)
        if lost is not None:
            self.abandon(lost)
        return flight, True

    def lone(self, key: Hashable, gone: Gone | None = None) -> Flight:
        """Lead a flight that nobody joins, whatever else is running."""
        flight = Flight(key, gone)
        with self._lock:
            self._lone.setdefault(key, set()).add(flight)
        return flight

    def supersede(self, key: Hashable, gone: Gone | None = None) -> Flight:
        """Lead a new flight whatever is running: what was under way must neither be joined nor stored."""
        with self._lock:
            self._detach(key)
            flight = self._table[key] = Flight(key, gone)
            return flight

    def loads(self, key: Hashable) -> bool:
        """Whether a load of ``key`` is under way."""
        return key in self._table or key in self._lone

    def waiting(self, key: Hashable) -> int:
        """How many callers follow the flight of ``key``."""
        with self._lock:
            flight = self._table.get(key)
            return 0 if flight is None else len(flight._waiters) + len(flight._late)

    def is_followed(self, flight: Flight) -> bool:
        """Whether anybody waits for ``flight`` who may have what it loads."""
        return bool(flight._waiters)

    def seal(self, flight: Flight) -> None:
        """Whoever comes from now on is not given what ``flight`` loads, but looks again when it has ended.

        From here on others may see the value, and invalidate it: who asks after that must not be told of it.
        """
        with self._lock:
            flight.sealed = True

    def enqueue(self, flight: Flight, waiter: Waiter) -> Signal | None:
        """Wait for ``flight``; where there is nothing to wait for, the signal is returned instead."""
        led = _led.get()
        with _graph if led else _NO_LOCK, self._lock:
            if flight.ended is not None:
                return Signal.OVERTAKEN if flight.sealed and flight.ended is Signal.SETTLED else flight.ended
            if led and _depends_on(flight.mark, led):
                return Signal.ALONE
            for own in led:
                own.awaits.append(flight.mark)
            (flight._late if flight.sealed else flight._waiters).append(waiter)
            return None

    def leave(self, flight: Flight, waiter: Waiter) -> None:
        """Stop waiting: woken, or cancelled. A lead that was handed over in the same breath is kept by the caller."""
        led = _led.get()
        with _graph if led else _NO_LOCK, self._lock:
            for own in led:
                if flight.mark in own.awaits:
                    own.awaits.remove(flight.mark)
            if waiter.signal is None:
                (flight._waiters if waiter in flight._waiters else flight._late).remove(waiter)

    def settle(self, flight: Flight, outcome: Outcome, signal: Signal = Signal.SETTLED) -> None:
        """End the flight and wake everyone with ``signal``. Does nothing to a flight that has ended."""
        with self._lock:
            if flight.ended is not None:
                return
            flight.outcome = outcome
            flight.ended = signal
            flight.heard = bool(flight._waiters or flight._late)
            self._remove(flight)
            waiters, flight._waiters = flight._waiters, deque()
            late, flight._late = flight._late, deque()
            for waiter in waiters:
                waiter.signal = signal
            for waiter in late:
                waiter.signal = Signal.OVERTAKEN if signal is Signal.SETTLED else signal
        _give_up_lease(flight)
        for waiter in (*waiters, *late):
            waiter.wake()

    def abandon(self, flight: Flight) -> None:
        """The leader leaves without an outcome: wake one follower to lead, or end the flight if there is none."""
        while True:
            with self._lock:
                if flight.ended is not None:
                    return
                if not flight._waiters and not flight._late:
                    # OVERTAKEN, so that whoever got hold of the flight a moment ago looks again.
                    flight.ended = Signal.OVERTAKEN
                    self._remove(flight)
                    break
                heir = (flight._waiters or flight._late).popleft()
                heir.signal = Signal.LEAD
                flight.sealed = False
                flight._gone = heir.gone
            if heir.wake():
                return
        _give_up_lease(flight)

    def supersede_if(self, flight: Flight) -> None:
        """Fence off ``flight`` if it is still the one under way: the next caller leads a new one."""
        with self._lock:
            if flight.ended is not None:
                return
            flight.moved = True
            self._remove(flight)
        _give_up_lease(flight)

    def invalidate(self, key: Hashable) -> Flight | None:
        """Fence off the running load of ``key``: it will not be stored, and nobody joins it any more."""
        with self._lock:
            return self._detach(key)

    def invalidate_where(self, applies: Callable[[Hashable], bool]) -> None:
        """Fence off the running loads of all keys to which ``applies`` says yes."""
        with self._lock:
            running = {flight.key for flight in self._running()}
        for key in running:
            if applies(key):
                self.invalidate(key)

    def invalidate_all(self) -> list[Flight]:
        """Fence off every running load."""
        with self._lock:
            flights = self._running()
            for flight in flights:
                flight.moved = True
            self._table.clear()
            self._lone.clear()
        for flight in flights:
            _give_up_lease(flight)
        return flights

    def lose(self, tags: Iterable[Hashable]) -> None:
        """Fence off the loads whose results will have one of ``tags``.

        Which these are is known when they end. So whoever comes from now on looks again then, with all of them.
        """
        lost = frozenset(tags)
        given_up = []
        with self._lock:
            for flight in self._running():
                flight.sealed = True
                if len(flight.lost) < _LOST:
                    flight.lost |= lost
                else:  # they would add up as long as a load hangs: whatever tags it will have, it is fenced off
                    flight.moved, flight.lost = True, frozenset()
                    self._remove(flight)
                    given_up.append(flight)
        for flight in given_up:
            _give_up_lease(flight)

    def _running(self) -> list[Flight]:
        return [*self._table.values(), *(flight for lone in self._lone.values() for flight in lone)]

    def _detach(self, key: Hashable) -> Flight | None:
        flight = self._table.pop(key, None)
        if flight is not None:
            flight.moved = True
        if self._lone:
            for lone in self._lone.pop(key, ()):
                lone.moved = True
        return flight

    def _remove(self, flight: Flight) -> None:
        if self._table.get(flight.key) is flight:
            del self._table[flight.key]
        elif self._lone:
            lone = self._lone.get(flight.key, set())
            lone.discard(flight)
            if not lone:
                self._lone.pop(flight.key, None)


_NO_LOCK = nullcontext()


def _give_up_lease(flight: Flight) -> None:
    """No load of ``flight`` is to be waited for by other processes any more."""
    lease, flight.lease = flight.lease, None
    if lease is not None:
        lease.give_up()


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
