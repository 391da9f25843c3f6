"""What a cache did: counted exactly, also by threads that count at once, and cheaply enough for every hit.

A counter of the standard library's ``itertools`` is one call into C, which no other thread can interrupt; ``n += 1`` is
three steps. Whatever happens on the way of a miss is counted under a lock.
"""

from __future__ import annotations

import itertools
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_RECENT: Final = 256
"""How many load times are kept for the percentile."""


class Coherence(NamedTuple):
    """How the local memory of a :class:`LayeredBackend` keeps up with the store behind it.

    Attributes:
        sure: whether copies are served without asking; else the store confirms each.
        listens: whether changes of others are heard of at all.
        silence: how old the last word is that all changes had been told by then, in seconds: what is served is not
            staler. ``None`` while nothing was heard.
        longest_silence: the longest that there was.
        news: how often changes were told.
        lapses: how often copies were not believed any more because of silence, and
        losses: because the connection was lost.
        confirmed: how many copies were served that the store had confirmed meanwhile.
    """

    sure: bool
    listens: bool
    silence: float | None
    longest_silence: float
    news: int
    lapses: int
    losses: int
    confirmed: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the start, and what is there now.

    ``hits``: calls answered from the cache. ``misses``: calls that were not. ``loads``: runs of a function for the
    cache, ``errors`` those of them that raised. ``load_time_mean`` and ``load_time_p95`` are in seconds, the latter of
    the last 256 loads. ``evictions`` by cause, ``size`` in entries and ``weight`` are those of the store: empty or zero
    for a function. So is ``queued``: how many invalidations, of keys and tags or 1 for everything, are still to be
    delivered because Redis is away. ``coherence`` is that of a :class:`LayeredBackend`.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    errors: int = 0
    load_time_mean: float = 0.0
    load_time_p95: float = 0.0
    evictions: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    weight: float = 0
    queued: int = 0
    coherence: Coherence | None = None

    @property
    def hit_ratio(self) -> float:
        """The part of the calls that were hits, from 0 to 1; 0 where there were none."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0


class Count:
    """A number that any thread raises by calling :attr:`up`, and that is never off by one."""

    __slots__ = ("_lock", "_reads", "up")

    def __init__(self) -> None:
        self.up: Callable[[], int] = itertools.count().__next__
        # Reentrant, here and below: garbage collected in here may run code of the user's that asks the cache.
        self._lock = threading.RLock()
        self._reads = 0

    def value(self) -> int:
        with self._lock:  # looking takes a number too, so the looks are subtracted
            while True:
                reads = self._reads
                number = self.up()
                undisturbed = self._reads == reads
                self._reads += 1
                if undisturbed:
                    return number - reads


class FunctionStats:
    """The counters of one cached function, or of a backend's own methods."""

    __slots__ = ("__weakref__", "_errors", "_hits", "_loads", "_lock", "_misses", "_recent", "_seconds", "hit", "miss")

    def __init__(self) -> None:
        self._hits = Count()
        self._misses = Count()
        self.hit = self._hits.up
        self.miss = self._misses.up
        self._lock = threading.RLock()
        self._loads = 0
        self._errors = 0
        self._seconds = 0.0
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def loaded(self, seconds: float, *, failed: bool) -> None:
        """A load has ended after ``seconds``."""
        with self._lock:
            self._loads += 1
            self._errors += failed
            self._seconds += seconds
            self._recent.append(seconds)

    def tally(self) -> Tally:
        """Everything so far, to be added and subtracted."""
        with self._lock:
            return Tally(
                self._hits.value(),
                self._misses.value(),
                self._loads,
                self._errors,
                self._seconds,
                tuple(self._recent),
            )

    def snapshot(self) -> Stats:
        return self.tally().stats()


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts that can be added up. ``recent`` are load times in seconds."""

    hits: int = 0
    misses: int = 0
    loads: int = 0
    errors: int = 0
    seconds: float = 0.0
    recent: tuple[float, ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.hits + other.hits,
            self.misses + other.misses,
            self.loads + other.loads,
            self.errors + other.errors,
            self.seconds + other.seconds,
            (self.recent + other.recent)[-_RECENT:],
        )

    def __sub__(self, earlier: Tally) -> Tally:
        return Tally(
            self.hits - earlier.hits,
            self.misses - earlier.misses,
            self.loads - earlier.loads,
            self.errors - earlier.errors,
            self.seconds - earlier.seconds,
            self.recent[-(self.loads - earlier.loads) :] if self.loads > earlier.loads else (),
        )

    def stats(
        self, *, evictions: Mapping[str, int] | None = None, size: int = 0, weight: float = 0, queued: int = 0
    ) -> Stats:
        ordered = sorted(self.recent)
        return Stats(
            hits=self.hits,
            misses=self.misses,
            loads=self.loads,
            errors=self.errors,
            load_time_mean=self.seconds / self.loads if self.loads else 0.0,
            load_time_p95=ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else 0.0,
            evictions=evictions or {},
            size=size,
            weight=weight,
            queued=queued,
        )


class Ledger:
    """What a changing set of functions counts from the moment each is entered; what is gone stays counted."""

    def __init__(self) -> None:
        # Reentrant: a function may be collected, and closed, while another one is entered.
        self._lock = threading.RLock()
        self._open: dict[weakref.ref[Any], tuple[FunctionStats, Tally]] = {}
        self._closed = Tally()

    def enter(self, owner: object, stats: FunctionStats) -> None:
        """Count what ``stats`` counts from now on, for as long as ``owner`` lives."""
        with self._lock:
            self._open[weakref.ref(owner, self._close)] = (stats, stats.tally())

    def tally(self) -> Tally:
        """The sum of what was counted."""
        with self._lock:
            return total([self._closed, *(stats.tally() - before for stats, before in list(self._open.values()))])

    def _close(self, owner: weakref.ref[Any]) -> None:
        with self._lock:
            stats, before = self._open.pop(owner)
            self._closed += stats.tally() - before


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of ``tallies``."""
    return sum(tallies, Tally())
