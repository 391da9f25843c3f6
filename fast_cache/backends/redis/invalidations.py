"""What a server has to be told before anything is read from it.

Owed are invalidations that it has not confirmed: the last for each key, until one is delivered, or until everything
that they could be about has expired by itself. To deliver one twice is harmless. The memory is bounded: past the bound
everything is forgotten at once, by clearing the namespace.

Replication is asynchronous: a server that takes the place of another may lack what that one confirmed a moment ago. So
confirmed invalidations are remembered for a while too, and owed again to a server that is another one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Final

from fast_cache.backends.redis.batch import MOST
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.resp import Command

_REMEMBERED: Final = 10_000
"""Keys; more are forgotten together."""

_REPLAYED: Final = 30.0
"""For how many seconds a confirmed invalidation may yet be lost with the server that confirmed it."""

Name = str | bytes | None
"""A key; the digest of a tag; ``None`` for everything."""


@dataclass(frozen=True, slots=True)
class Owed:
    """Invalidations that the server has not been told: single keys, tags by their digests, or everything."""

    keys: tuple[str | bytes, ...] = ()
    everything: bool = False
    upto: int = 0
    """Invalidations are numbered; these are the ones up to this number."""

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys)

    def packets(self, layout: Layout) -> Iterator[list[Command]]:
        """What delivers them, to be sent one after the other."""
        tags = [key for key in self.keys if isinstance(key, bytes)]
        # Before the tags themselves: a load that adds one of them meanwhile looks at the tag first, and then at this.
        first = layout.forget_everything() if self.everything else []
        if tags or self.everything:
            first += layout.forget_number()
        if first:
            yield first
        commands = layout.forget_tags(tags)
        commands += [command for key in self.keys if isinstance(key, str) for command in layout.delete(key)]
        for start in range(0, len(commands), MOST):
            yield commands[start : start + MOST]


NOTHING: Final = Owed()


class Invalidations:
    """Safe for threads.

    Args:
        longest: after how many seconds whatever an invalidation could be about has expired.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._owed: dict[str | bytes, tuple[int, float]] = {}
        self._everything: tuple[int, float] | None = None
        self._confirmed: OrderedDict[Name, float] = OrderedDict()
        self.pending = False
        """Whether something is owed."""

    def owe(self, name: Name) -> None:
        """Remember that ``name`` must be invalidated before anything else is asked."""
        with self._lock:
            self._owe(name, self._clock())

    def begin(self, name: Name) -> None:
        """The server is about to be told. If it turns out to be another one before it has confirmed, that is owed.

        Else the one that confirms could be lost, and the next one found, before the confirmation is noted.
        """
        self.confirm(name)

    def confirm(self, name: Name) -> None:
        """The server has confirmed the invalidation of ``name``."""
        now = self._clock()
        with self._lock:
            confirmed = self._confirmed
            confirmed[name] = now
            confirmed.move_to_end(name)
            while confirmed[next(iter(confirmed))] <= now - _REPLAYED:
                confirmed.popitem(last=False)
            if len(confirmed) > _REMEMBERED:
                confirmed.clear()
                confirmed[None] = now  # too many to tell them one by one

    def repeat(self) -> None:
        """The server is another one: owe it what was confirmed of late."""
        now = self._clock()
        with self._lock:
            for name, at in list(self._confirmed.items()):
                if at > now - _REPLAYED:
                    self._owe(name, at)
            self._confirmed.clear()

    def owed(self) -> Owed:
        """What has to be said first."""
        if not self.pending:
            return NOTHING
        with self._lock:
            moot = self._clock() - self._longest
            self._owed = {key: entry for key, entry in self._owed.items() if entry[1] > moot}
            if self._everything is not None and self._everything[1] <= moot:
                self._everything = None
            self._note()
            return Owed(tuple(self._owed), self._everything is not None, self._count)

    def delivered(self, owed: Owed) -> None:
        """The server has confirmed these."""
        for key in owed.keys:
            self.confirm(key)
        if owed.everything:
            self.confirm(None)
        with self._lock:
            if self._everything is not None and owed.everything and self._everything[0] <= owed.upto:
                self._everything = None
            for key in owed.keys:
                if key in self._owed and self._owed[key][0] <= owed.upto:
                    del self._owed[key]
            self._note()

    def forked(self) -> None:
        """In a forked child: what threads of the parent held is not here."""
        self._lock = threading.Lock()

    def _owe(self, name: Name, at: float) -> None:
        self._count += 1
        if name is None or (len(self._owed) >= _REMEMBERED and name not in self._owed):
            self._everything = (self._count, max(at, self._everything[1] if self._everything else at))
            self._owed.clear()
        else:
            self._owed[name] = (self._count, max(at, self._owed[name][1] if name in self._owed else at))
        self._note()

    def _note(self) -> None:
        self.pending = bool(self._owed) or self._everything is not None
