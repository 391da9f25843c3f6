"""Entries in memory, bounded in number and in weight, each with its own expiry.

They lie on shelves, one dict for each kind of key, and share one budget. Readers look into ``shelf.table`` without a
lock: value first, expiry second, then they raise ``visits`` while it is below ``MAX_VISITS``. Changes are not safe for
concurrency: their owner holds a lock. A change takes the same time whatever the number of entries. There are no threads
and no timers: what expired and what was cleared is reclaimed a few entries at each change. Which entry is evicted is
decided in `queues`.
"""

from __future__ import annotations

import enum
import itertools
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakSet

from fast_cache.backends.eviction.queues import Queues
from fast_cache.backends.eviction.ring import Ring, unlink
from fast_cache.entry import NEVER, Age, AgedEntry, Entry, MeasuredEntry, Shelf, Tag, TaggedEntry

_SWEEP_LEAST, _SWEEP_MOST = 16, 256
"""How many expired entries one change reclaims in each of the two queues: twice as many as the last one as long as
there is nothing else. 256 take about 0.1 ms, which is far below what the growth of a large dict takes."""

_PASSED = 2
"""How many live entries a cursor passes in one change: more than a change can add, or it would never come round."""

_DRAIN = 64
"""How many entries of a cleared table one change frees: about 20 µs. All 280,000 at once would be a stall of 109 ms."""

_SHRUNK = 8
"""A dict never gives memory back by itself: it is copied when this part of its entries is left. The copy of an eighth
takes less time than the growth before it did."""

_WORTH_SHRINKING = 4096


class Cause(enum.StrEnum):
    """Why an entry is gone."""

    SIZE = "size"
    WEIGHT = "weight"
    EXPIRED = "expired"
    DELETED = "deleted"
    REPLACED = "replaced"
    CLEARED = "cleared"


class S3FIFO:
    """A bounded table of entries.

    Args:
        max_size: how many entries are kept, at least 1.
        max_weight: how much their weights may add up to; None to weigh nothing.
        clock: the time that expiries are told in, in seconds.
        on_evict: called with an entry and the cause just before it is retired, within the change that removes it. It
            must be quick, must not raise, and must not change the table. Cleared entries are told when reclaimed.
    """

    def __init__(
        self,
        max_size: int,
        *,
        max_weight: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_evict: Callable[[Entry, Cause], None] | None = None,
    ) -> None:
        self.max_size = max_size
        self.max_weight = max_weight
        self._shelves: WeakSet[Shelf] = WeakSet()  # they live with whoever looks into them, and with their entries
        self._salts = itertools.count()
        self._size = 0
        self.evictions: dict[Cause, int] = dict.fromkeys(Cause, 0)
        self.weight: float = 0
        """The sum of the weights; 0 without ``max_weight``."""
        self._clock = clock
        self._on_evict = on_evict
        self._queues = Queues(max_size)
        self._condemned: deque[dict[Hashable, Entry]] = deque()
        self._cleared: deque[Shelf] = deque()
        self._mortal = False  # whether anything put here can expire
        self._batch = _SWEEP_LEAST

    def __len__(self) -> int:
        """How many entries are held; those that expired and are not yet reclaimed count."""
        return self._size

    def new_shelf(self) -> Shelf:
        """A shelf for more entries within the same bounds."""
        shelf = Shelf(next(self._salts))
        self._shelves.add(shelf)
        return shelf

    def put(
        self,
        shelf: Shelf,
        key: Hashable,
        value: Any,
        expires: float = NEVER,
        weight: float = 1,
        age: Age | None = None,
        tags: tuple[Tag, ...] = (),
        lifetime: float | None = None,
        version: bytes | None = None,
    ) -> Entry:
        """Store ``value`` on ``shelf`` under ``key`` until ``expires``, a time of the clock; return the entry.

        Args:
            weight: counts towards ``max_weight``; not below 0. What alone exceeds ``max_weight`` is not stored: the
                entry returned is retired, and an older one of the key is gone.
            age: where ``expires`` is not the end: when the entry is of no use any more.
            tags: with which of them it ends.
            lifetime: how long it is to live, in seconds, for those who want it to begin anew. Nobody does without it.
            version: which value of another store this one is a copy of.
        """
        self.reclaim()
        entry = self._new_entry(shelf, key, value, expires, weight, age, tags, lifetime, version)
        old = shelf.table.get(key)
        if self.max_weight is not None and entry.weight > self.max_weight:
            if old is not None:
                self._drop(old, Cause.REPLACED)
            self._retire(entry, Cause.WEIGHT)
        elif old is None:
            self._insert(entry)
        else:
            self._replace(old, entry)
        return entry

    def remove(self, shelf: Shelf, key: Hashable) -> bool:
        """Remove ``key``; True if it had not expired."""
        self.reclaim()
        entry = shelf.table.get(key)
        if entry is None:
            return False
        alive = not entry.is_over(self._clock())
        self._drop(entry, Cause.DELETED if alive else Cause.EXPIRED)
        return alive

    def renew(self, entry: Entry, lifetime: float) -> None:
        """Let an entry live for ``lifetime`` from now; what it may be beyond that, and when it is due, moves along."""
        if type(entry) is Entry and entry.expires == NEVER:
            endless = MeasuredEntry(entry.shelf, entry.key, entry.value, entry.expires)
            endless.lifetime, endless.weight, endless.version = NEVER, entry.weight, None
            self._replace(entry, endless)
            entry = endless
        end = self._clock() + lifetime
        self._mortal = self._mortal or lifetime < NEVER
        age = entry.age if isinstance(entry, AgedEntry) else None
        if age is None or age.fresh_until == NEVER:
            ahead = stale = 0.0
        else:
            ahead, stale = age.fresh_until - entry.expires, age.stale_until - age.fresh_until
        if age is not None:
            assert isinstance(entry, AgedEntry)
            entry.age = age._replace(fresh_until=end, stale_until=end + stale)
        if age is None or age.hits is None:  # else each reader decides
            entry.expires = end - ahead

    def clear(self) -> None:
        """Remove everything, at once: readers see empty tables. The memory is freed by the changes that follow."""
        self.evictions[Cause.CLEARED] += self._size
        for shelf in self._shelves:
            self._condemned += shelf.cleared
            shelf.cleared = []
            if shelf.table:
                self._condemned.append(shelf.table)
                shelf.table = {}
                shelf.peak = 0
        self._cleared.clear()
        self._size = 0
        self._queues = Queues(self.max_size)
        self.weight = 0

    def clear_shelf(self, shelf: Shelf) -> None:
        """Remove everything that lies on ``shelf``, as :meth:`clear` does; until it is reclaimed it takes up room."""
        if shelf.table:
            shelf.cleared.append(shelf.table)
            shelf.table = {}
            shelf.peak = 0
            self._cleared.append(shelf)

    def reclaim(self) -> None:
        """Do a bounded part of the work that is left: expired and cleared entries.

        Every change does it by itself; an owner with time to spare may call it as well.
        """
        if self._mortal:
            self._sweep()
        if self._condemned:
            self._drain()
        if self._cleared:
            self._drain_shelf()

    def _new_entry(
        self,
        shelf: Shelf,
        key: Hashable,
        value: Any,
        expires: float,
        weight: float,
        age: Age | None,
        tags: tuple[Tag, ...],
        lifetime: float | None,
        version: bytes | None,
    ) -> Entry:
        if expires < NEVER or tags:
            self._mortal = True
        if lifetime is None or expires == NEVER:
            usual = True
        else:
            if shelf.lifetime == NEVER:
                shelf.lifetime = lifetime
            usual = lifetime == shelf.lifetime < NEVER
        if self.max_weight is None and age is None and not tags and usual and version is None:
            return Entry(shelf, key, value, expires)
        if not weight >= 0:  # also true for NaN
            raise ValueError(f"the weight of an entry must not be below 0, got {weight!r}")
        entry: MeasuredEntry
        if tags:
            entry = TaggedEntry(shelf, key, value, expires)
            entry.age, entry.tags = age, tags
        elif age is None:
            entry = MeasuredEntry(shelf, key, value, expires)
        else:
            entry = AgedEntry(shelf, key, value, expires)
            entry.age = age
        entry.weight = weight
        entry.lifetime = NEVER if lifetime is None else lifetime
        entry.version = version
        return entry

    def _insert(self, entry: Entry) -> None:
        queue = self._queues.place(entry)
        if self._size >= self.max_size:
            self._evict(queue, Cause.SIZE)
        if self.max_weight is not None:
            while self._size and self.weight + entry.weight > self.max_weight:
                self._evict(queue, Cause.WEIGHT)
            self.weight += entry.weight
        self._queues.add(entry, queue)
        self._size += 1
        shelf = entry.shelf
        shelf.table[entry.key] = entry
        if len(shelf.table) > shelf.peak:
            shelf.peak = len(shelf.table)

    def _evict(self, queue: Ring, cause: Cause) -> None:
        self._queues.capacity = self._size
        self._forget(self._queues.evict(queue), cause)

    def _replace(self, old: Entry, new: Entry) -> None:
        self._queues.replace(old, new)
        new.shelf.table[new.key] = new
        self._retire(old, Cause.REPLACED)
        if self.max_weight is not None:
            self.weight -= old.weight
            while self.weight + new.weight > self.max_weight and self._size > 1:
                self._evict(self._queues.probation, Cause.WEIGHT)  # of the new one too, whose weight is added below
            self.weight += new.weight

    def _drop(self, entry: Entry, cause: Cause) -> None:
        """Remove an entry that its queue still holds."""
        self._queues.remove(entry)
        self._forget(entry, cause)

    def _forget(self, entry: Entry, cause: Cause) -> None:
        """Remove an entry that its queue has let go."""
        shelf = entry.shelf
        table = shelf.table
        if shelf.cleared and table.get(entry.key) is not entry:
            table = next(former for former in shelf.cleared if former.get(entry.key) is entry)
        del table[entry.key]
        self._size -= 1
        if len(shelf.table) * _SHRUNK < shelf.peak:
            _shrink(shelf)
        if self.max_weight is not None:
            self.weight = self.weight - entry.weight if self._size else 0  # rounding errors must not add up for ever
        self._retire(entry, cause)

    def _retire(self, entry: Entry, cause: Cause) -> None:
        self.evictions[cause] += 1
        if self._on_evict is not None:
            self._on_evict(entry, cause)
        entry.retire()

    def _sweep(self) -> None:
        """Remove expired entries as the cursors of the queues come to them, up to the second that is alive.

        Whatever had expired is gone within as many changes as there are entries; where most had, within the 250th part.
        A wheel of buckets by second of expiry holds on to what was evicted until its time has come: 1159 bytes for each
        entry held, after ten times the capacity was written with an expiry of an hour, against 210.
        """
        now = self._clock()
        found = 0
        for ring in (self._queues.probation, self._queues.main):
            alive = 0
            for _ in range(self._batch):
                entry = ring.step()
                if entry is None:
                    break
                if entry.expires <= now and entry.is_over(now):
                    self._drop(entry, Cause.EXPIRED)
                    found += 1
                    continue
                alive += 1
                if alive == _PASSED:
                    break
        self._batch = min(2 * self._batch, _SWEEP_MOST) if found >= self._batch else _SWEEP_LEAST

    def _drain(self) -> None:
        """Free entries of the table that was cleared first."""
        table = self._condemned[0]
        for _ in range(min(_DRAIN, len(table))):
            _, entry = table.popitem()
            unlink(entry)  # or its neighbours would keep it
            if self._on_evict is not None:
                self._on_evict(entry, Cause.CLEARED)
            entry.retire()
        if not table:
            self._condemned.popleft()

    def _drain_shelf(self) -> None:
        """Remove entries of the shelf that was cleared first. They are in their queues still."""
        shelf = self._cleared[0]
        table = shelf.cleared[0]
        for entry in list(itertools.islice(table.values(), _DRAIN)):
            self._drop(entry, Cause.CLEARED)
        if not table:
            shelf.cleared.remove(table)
            self._cleared.popleft()


def _shrink(shelf: Shelf) -> None:
    if shelf.peak >= _WORTH_SHRINKING:
        shelf.table = dict(shelf.table)
    shelf.peak = len(shelf.table)
