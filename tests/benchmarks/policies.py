"""Two eviction policies to compare with, as simple as their descriptions, and the interface that a replay drives.

LRU: what was not used for the longest time goes. SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than
LRU", NSDI 2024): a queue that never moves an entry, and a hand that goes from the oldest to the newest, clears marks
and evicts the first entry without one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol


class Replayed(Protocol):
    """A cache as a trace sees it."""

    def access(self, key: str) -> bool:
        """Whether ``key`` is there; if it is not, it is now."""


class LRU:
    """Least recently used, over an ``OrderedDict``."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, None] = OrderedDict()

    def access(self, key: str) -> bool:
        if key in self._entries:
            self._entries.move_to_end(key)
            return True
        if len(self._entries) == self._capacity:
            self._entries.popitem(last=False)
        self._entries[key] = None
        return False


class _Node:
    __slots__ = ("key", "newer", "older", "visited")

    def __init__(self, key: str, older: _Node | None) -> None:
        self.key = key
        self.visited = False
        self.older = older
        self.newer: _Node | None = None


class Sieve:
    """SIEVE, over a doubly linked list."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._nodes: dict[str, _Node] = {}
        self._newest: _Node | None = None
        self._oldest: _Node | None = None
        self._hand: _Node | None = None

    def access(self, key: str) -> bool:
        node = self._nodes.get(key)
        if node is not None:
            node.visited = True
            return True
        if len(self._nodes) == self._capacity:
            self._evict()
        node = self._nodes[key] = _Node(key, self._newest)
        if self._newest is not None:
            self._newest.newer = node
        self._newest = node
        if self._oldest is None:
            self._oldest = node
        return False

    def _evict(self) -> None:
        node = self._hand or self._oldest
        while node is not None and node.visited:
            node.visited = False
            node = node.newer or self._oldest
        assert node is not None, "nothing is evicted from an empty cache"
        self._hand = node.newer
        if node.older is None:
            self._oldest = node.newer
        else:
            node.older.newer = node.newer
        if node.newer is None:
            self._newest = node.older
        else:
            node.newer.older = node.older
        del self._nodes[node.key]
