"""The lanes to one server: of one event loop, or of all threads.

Small values and large ones travel apart. What the server answers late on purpose, because somebody waits for an event,
has lanes for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from fast_cache.backends.redis.batch import Packet
from fast_cache.backends.redis.large import LargeKeys


class AnyLane(Protocol):
    """A lane of either flavour."""

    @property
    def idle(self) -> bool: ...


L = TypeVar("L", bound=AnyLane)


class Lanes(Generic[L]):
    """Lanes that are made when they are needed.

    Args:
        make: makes a lane: for answers that are waited for or for others, and to be kept open or not.
        keep: how many of them are kept open while nobody uses them.
        most: how many connections there may be at once.
        waiting: how many more, for answers that are waited for.
    """

    def __init__(
        self, make: Callable[[bool, bool], L], large: LargeKeys, *, keep: int, most: int, waiting: int
    ) -> None:
        self._make = make
        self._keep = keep
        self._large_keys = large
        self._most = most
        self._may_wait = waiting
        self._lock = threading.Lock()
        self._small: L | None = None
        self._large: L | None = None
        self._waiting: dict[L, bool] = {}
        """Whether somebody has it."""

    def lane_for(self, packet: Packet) -> L:
        """The lane that ``packet`` is to travel by."""
        if self._most > 1 and self._large_keys.concern(packet):
            if self._large is None:
                with self._lock:
                    self._large = self._large or self._make(False, self._keep > 1)
            return self._large
        if self._small is None:
            with self._lock:
                self._small = self._small or self._make(False, True)
        return self._small

    @contextmanager
    def waiting(self) -> Iterator[L | None]:
        """A lane to wait on, for the one who asks; none if too many are waiting."""
        with self._lock:
            lane = next((lane for lane, taken in self._waiting.items() if not taken and lane.idle), None)
            if lane is None and len(self._waiting) < self._may_wait:
                lane = self._make(True, len(self._waiting) + 2 < self._keep)
            if lane is not None:
                self._waiting[lane] = True
        try:
            yield lane
        finally:
            # Where the caller was cancelled, its answer is yet to come: the lane is not idle until then.
            if lane is not None:
                with self._lock:
                    self._waiting[lane] = False

    def all(self) -> list[L]:
        """Those that have been made."""
        with self._lock:
            return [lane for lane in (self._small, self._large) if lane is not None] + list(self._waiting)
