"""Which entries stay in memory: the clock algorithm, a queue with a second chance.

An entry that was read since the hand passed goes round once more; the first that was not is evicted. Reads set one
mark and move nothing, so they need no lock. Not safe for concurrent changes: its owner holds a lock.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from fast_cache.entry import Entry


class ClockTable:
    """At most ``max_size`` entries, by key."""

    def __init__(self, max_size: int) -> None:
        self.table: dict[str, Entry] = {}
        self._max_size = max_size
        self._queue: deque[Entry] = deque()

    def put(self, key: str, value: Any, expires: float) -> None:
        old = self.table.get(key)
        entry = self.table[key] = Entry(key, value, expires)
        self._queue.append(entry)
        if old is not None:
            old.retire()
        while len(self.table) > self._max_size:
            self._evict()
        if len(self._queue) > 2 * self._max_size:
            self._queue = deque(kept for kept in self._queue if self.table.get(kept.key) is kept)

    def remove(self, key: str) -> bool:
        entry = self.table.pop(key, None)
        if entry is None:
            return False
        alive = entry.expires > monotonic()
        entry.retire()
        return alive

    def clear(self) -> None:
        for entry in self.table.values():
            entry.retire()
        self.table.clear()
        self._queue.clear()

    def _evict(self) -> None:
        entry = self._queue.popleft()
        if self.table.get(entry.key) is not entry:
            return  # deleted or replaced long ago
        if entry.visits and entry.expires > monotonic():
            entry.visits = 0
            self._queue.append(entry)
            return
        del self.table[entry.key]
        entry.retire()
