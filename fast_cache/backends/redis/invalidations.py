"""What a server has to be told before anything is read from it.

Owed are invalidations that it has not confirmed: the last for each key, until one is delivered, or until everything
that they could be about has expired by itself. To deliver one twice is harmless. The memory is bounded: past the bound
everything is forgotten at once, by clearing the namespace.

Replication is asynchronous: a server that takes the place of another may lack what that one confirmed a moment ago. So
confirmed invalidations are remembered for a while too, and owed again to a server that is another one. While the server
is away that time stands still: however long nobody takes its place, what it confirmed just before is not forgotten.
Where replicas are to be asked, it is told until they have it, however long that takes.
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


class Names:
    """Invalidations in a bounded memory, the last for each name, numbered in their order."""

    def __init__(self) -> None:
        self._names: dict[str | bytes, tuple[int, float]] = {}
        self._everything: tuple[int, float] | None = None
        self.count = 0
        """The last number."""

    def __bool__(self) -> bool:
        return bool(self._names) or self._everything is not None

    def __len__(self) -> int:
        return len(self._names) + (self._everything is not None)

    @property
    def oldest(self) -> int:
        """The least number that is remembered; one to come, if none is."""
        first = next(iter(self._names.values()), (self.count + 1, 0.0))[0]
        return first if self._everything is None else min(first, self._everything[0])

    def add(self, name: Name, at: float) -> None:
        """Remember ``name``, which was invalidated at that time."""
        self.count += 1
        if name is None or (len(self._names) >= _REMEMBERED and name not in self._names):
            self._everything = (self.count, max(at, self._everything[1] if self._everything else at))
            self._names.clear()
        else:
            before = self._names.pop(name, (0, at))
            self._names[name] = (self.count, max(at, before[1]))

    def expire(self, moot: float) -> None:
        """Forget what was invalidated by then."""
        self._names = {name: entry for name, entry in self._names.items() if entry[1] > moot}
        if self._everything is not None and self._everything[1] <= moot:
            self._everything = None

    def listed(self) -> Owed:
        """All that is remembered."""
        return Owed(tuple(self._names), self._everything is not None, self.count)

    def drop(self, done: Owed) -> None:
        """Forget these, but not what was invalidated again since they were listed."""
        if self._everything is not None and done.everything and self._everything[0] <= done.upto:
            self._everything = None
        for name in done.keys:
            if name in self._names and self._names[name][0] <= done.upto:
                del self._names[name]

    def moved_to(self, other: Names) -> None:
        """Let another memory have everything."""
        if self._everything is not None:
            other.add(None, self._everything[1])
        for name, (_, at) in self._names.items():
            other.add(name, at)
        self._names.clear()
        self._everything = None


class Invalidations:
    """Safe for threads.

    Args:
        longest: after how many seconds whatever an invalidation could be about has expired.
        replicate: whether what the server confirms counts only when replicas have it.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = monotonic, *, replicate: bool = False) -> None:
        self._longest = longest
        self._clock = clock
        self._replicate = replicate
        self._lock = threading.Lock()
        self._owed = Names()
        self._told = Names()
        self._confirmed: OrderedDict[Name, float] = OrderedDict()
        self._lost: float | None = None
        self.pending = False
        """Whether something is owed."""

    def owe(self, name: Name) -> None:
        """Remember that ``name`` must be invalidated before anything else is asked."""
        with self._lock:
            self._owed.add(name, self._clock())
            self._note()

    def begin(self, name: Name) -> None:
        """The server is about to be told. If it turns out to be another one before it has confirmed, that is owed.

        Else the one that confirms could be lost, and the next one found, before the confirmation is noted.
        """
        with self._lock:
            self._remember(name)

    def confirm(self, name: Name) -> None:
        """The server has confirmed the invalidation of ``name``."""
        with self._lock:
            if self._replicate:
                self._told.add(name, self._clock())
            self._remember(name)

    @property
    def last_told(self) -> int:
        """The number of what was confirmed last."""
        return self._told.count

    def told(self) -> Owed:
        """What the server has confirmed, and replicas have not."""
        with self._lock:
            self._told.expire(self._clock() - self._longest)
            return self._told.listed()

    def replicated(self, told: Owed) -> None:
        """Replicas have these."""
        with self._lock:
            self._told.drop(told)

    def all_replicated(self, upto: int) -> bool:
        """Whether replicas have all that was told up to this number."""
        with self._lock:
            return self._told.oldest > upto

    def repeat(self) -> None:
        """The server is another one: owe it what was confirmed of late, and all that replicas may lack."""
        with self._lock:
            safe = self._safe()
            self._told.moved_to(self._owed)
            for name, at in self._confirmed.items():
                if at > safe:
                    self._owed.add(name, at)
            self._confirmed.clear()
            self._note()

    def of_late(self) -> Owed:
        """All that a server may lack if it is another one: what is owed, and what :meth:`repeat` would add to that."""
        with self._lock:
            owed, told, safe = self._owed.listed(), self._told.listed(), self._safe()
            confirmed = [name for name, at in self._confirmed.items() if at > safe]
        everything = owed.everything or told.everything or None in confirmed
        keys = (*owed.keys, *told.keys, *(name for name in confirmed if name is not None))
        return Owed(tuple(dict.fromkeys(keys)), everything)

    def away(self) -> None:
        """The server is away: until it is back, or another one in its place, nothing is forgotten."""
        with self._lock:
            self._lost = self._clock()

    def back(self) -> None:
        """There is a server, which has been told what it has to know."""
        with self._lock:
            self._lost = None

    def unsafe(self) -> bool:
        """Whether something is owed, or was confirmed and could yet be lost."""
        with self._lock:
            if self.pending or self._told:
                return True
            return bool(self._confirmed) and self._confirmed[next(reversed(self._confirmed))] > self._safe()

    def owed(self) -> Owed:
        """What has to be said first."""
        if not self.pending:
            return NOTHING
        with self._lock:
            self._owed.expire(self._clock() - self._longest)
            self._note()
            return self._owed.listed()

    def queued(self) -> int:
        """How many are owed."""
        if not self.pending:
            return 0
        with self._lock:
            self._owed.expire(self._clock() - self._longest)
            self._note()
            return len(self._owed)

    def delivered(self, owed: Owed) -> None:
        """The server has confirmed these."""
        for key in owed.keys:
            self.confirm(key)
        if owed.everything:
            self.confirm(None)
        with self._lock:
            self._owed.drop(owed)
            self._note()

    def forked(self) -> None:
        """In a forked child: what threads of the parent held is not here."""
        self._lock = threading.Lock()

    def _remember(self, name: Name) -> None:
        """Note that it could be lost for a while; the lock is held."""
        now = self._clock()
        confirmed = self._confirmed
        confirmed[name] = now
        confirmed.move_to_end(name)
        while confirmed[next(iter(confirmed))] <= self._safe():
            confirmed.popitem(last=False)
        if len(confirmed) > _REMEMBERED:
            confirmed.clear()
            confirmed[None] = now  # too many to tell them one by one

    def _safe(self) -> float:
        """What was confirmed by then can't be lost any more; the lock is held."""
        return (self._clock() if self._lost is None else self._lost) - _REPLAYED

    def _note(self) -> None:
        self.pending = bool(self._owed)
