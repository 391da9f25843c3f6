"""A queue of entries from which any one can be taken, in constant time.

A doubly linked circle through the entries themselves: two references an entry, nothing left behind by a removal.
A cursor walks round and stays valid whatever is removed meanwhile. An entry is in at most one ring.
"""

from __future__ import annotations

from fast_cache.entry import RETIRED, Entry, Shelf

_NOWHERE = Shelf()


class Ring:
    """Entries from the oldest to the newest."""

    __slots__ = ("_cursor", "_end", "size")

    def __init__(self) -> None:
        end = Entry(
            _NOWHERE, None, None, RETIRED
        )  # before the oldest and after the newest, so that no end is a special case
        end.previous = end.next = end
        self._end = end
        self._cursor = end
        self.size = 0

    def oldest(self) -> Entry:
        """The entry that was appended first; the ring must not be empty."""
        return self._end.next

    def append(self, entry: Entry) -> None:
        end = self._end
        newest = end.previous
        entry.previous = newest
        entry.next = end
        newest.next = end.previous = entry
        self.size += 1

    def remove(self, entry: Entry) -> None:
        if entry is self._cursor:
            self._cursor = entry.next
        entry.previous.next = entry.next
        entry.next.previous = entry.previous
        self.size -= 1

    def renew(self, entry: Entry) -> None:
        """Make ``entry``, which is in the ring, its newest."""
        self.remove(entry)
        self.append(entry)

    def substitute(self, old: Entry, new: Entry) -> None:
        """Put ``new`` in the place of ``old``."""
        if old is self._cursor:
            self._cursor = new
        new.previous = old.previous
        new.next = old.next
        old.previous.next = new
        old.next.previous = new

    def step(self) -> Entry | None:
        """Return the entry under the cursor, which moves on; None once a round, at the end."""
        entry = self._cursor
        self._cursor = entry.next
        return None if entry is self._end else entry


def unlink(entry: Entry) -> None:
    """Join the neighbours of ``entry``."""
    entry.previous.next = entry.next
    entry.next.previous = entry.previous
