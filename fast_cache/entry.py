"""What a store keeps: a value and its times, and the sign for "nothing here".

``None`` is a value like any other; ``MISSING`` is the only sign of absence inside the package, and no public
method returns it. An entry is retired expiry first, value second, and read value first, expiry second, so that
a reader on another thread never takes an emptied slot for a cached ``None``.
"""

from __future__ import annotations

import enum
import itertools
import weakref
from collections.abc import Hashable
from typing import Any, Final, Literal, NamedTuple


class Missing(enum.Enum):
    """The type of :data:`MISSING`, for annotations."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing.MISSING
MissingType = Literal[Missing.MISSING]

NEVER: Final = float("inf")
"""The expiry of what never expires, on the monotonic clock."""

RETIRED: Final = float("-inf")
"""The expiry of an entry that was evicted, deleted or replaced."""

EXPIRED: Final = -1e300
"""The expiry of an entry that is stale because a tag was invalidated softly."""

MAX_VISITS: Final = 3
"""Where ``visits`` stops, so that an entry which is read all the time is written to no more."""


class Shelf:
    """One dict of entries: those of one function by their slots, or those with text keys.

    ``table`` is another dict after a clear and after a large shrink: fetch it anew at each look. ``peak`` is how many
    entries it held at most since then, ``salt`` tells equal keys of different shelves apart where shelves don't matter.
    """

    __slots__ = ("__weakref__", "cleared", "lifetime", "peak", "salt", "table")

    def __init__(self, salt: int = 0) -> None:
        self.table: dict[Hashable, Entry] = {}
        self.cleared: list[dict[Hashable, Entry]] = []
        """Former tables, of entries that nobody finds any more and that still have to be removed."""
        self.peak = 0
        self.salt = salt
        self.lifetime = NEVER
        """The usual one, in seconds: that of the first entry that has one, and of all entries of most functions."""


class Entry:
    """A value in local memory.

    It lies in ``shelf.table`` under ``key``.
    ``expires`` is a time of ``time.monotonic()``: until then the value is served without another thought.
    ``visits`` is the eviction policy's small counter, raised by every hit.
    ``previous``, ``next`` and ``stamp`` belong to the eviction queues.
    """

    # Eight slots make 96 bytes, the garbage collector's header included; a ninth would cost 16, and a tenth nothing.
    __slots__ = ("expires", "key", "next", "previous", "shelf", "stamp", "value", "visits")

    weight: float = 1
    next: Entry
    previous: Entry
    stamp: int

    def __init__(self, shelf: Shelf, key: Hashable, value: Any, expires: float) -> None:
        self.shelf = shelf
        self.key = key
        self.value = value
        self.expires = expires
        self.visits = 0

    @property
    def lifetime(self) -> float:
        """The one that it was stored with, in seconds: the usual one of its shelf, unless it has no end."""
        return self.shelf.lifetime if self.expires < NEVER else NEVER

    def is_over(self, now: float) -> bool:
        """Whether the entry is of no use any more."""
        return self.expires <= now

    def retire(self) -> None:
        """Take the entry out of service: expiry first, value second."""
        self.expires = RETIRED
        self.value = None


class MeasuredEntry(Entry):
    """An entry with a weight of its own, with a lifetime that is not the usual one of its shelf, or with a version.

    Apart, because most caches weigh nothing, and most entries of a shelf live equally long: they would pay 16 bytes.
    The ``version`` tells which value of another store this one is a copy of.
    """

    __slots__ = ("lifetime", "version", "weight")
    lifetime: float
    version: bytes | None
    weight: float


class Hits:
    """How often a value was found. Counting is one call into C, which no other thread can interrupt."""

    __slots__ = ("_next", "number")

    def __init__(self) -> None:
        self._next = itertools.count(1).__next__
        self.number = 0
        """The last count, for those who only look: of two at once, either's."""

    def count(self) -> int:
        """One time more; how many that makes."""
        self.number = number = self._next()
        return number


class Age(NamedTuple):
    """The times of an entry that may be served when it is stale, or refreshed before: of the monotonic clock.

    ``lifetime`` is how long it was to be fresh, ``load`` how long its value took to compute, in seconds; ``hits``
    counts how often it is found, where that matters.
    """

    fresh_until: float
    stale_until: float
    lifetime: float
    load: float
    hits: Hits | None


class AgedEntry(MeasuredEntry):
    """An entry whose ``expires`` is the next time at which a reader has something to decide. What, ``age`` tells."""

    __slots__ = ("age",)
    age: Age

    def is_over(self, now: float) -> bool:
        return self.age.stale_until <= now or self.expires == RETIRED


class Tag:
    """A tag as the entries that have it share it. The next entry after an invalidation gets another.

    ``over`` is what its entries expire at because of it: ``RETIRED`` when it was invalidated, ``EXPIRED`` if they are
    stale by that; 0 before. The one after a stale one lives as long as that, and knows it, to end it too.
    """

    __slots__ = ("__weakref__", "_before", "_next", "name", "over")

    def __init__(self, name: Hashable) -> None:
        self.name = name
        self.over = 0.0
        self._before: weakref.ref[Tag] | None = None
        self._next: Tag | None = None

    def expire(self) -> Tag:
        """Let the entries be stale; returns the tag of those that come."""
        self.over = EXPIRED
        self._next = following = Tag(self.name)
        following._before = weakref.ref(self)
        return following

    def end(self) -> None:
        """Let the entries end, the stale ones too."""
        tag: Tag | None = self
        while tag is not None:
            tag.over = RETIRED
            tag = None if tag._before is None else tag._before()


class TaggedEntry(AgedEntry):
    """An entry that is over when one of its tags is invalidated, which is done without a look at the entries.

    So its tags are looked at whenever it is read: that costs a hit 0.1 µs, of tagged entries only. Its ``age`` is
    ``None`` where there is nothing to decide before its end.
    """

    __slots__ = ("_expires", "tags")
    age: Age | None  # type: ignore[assignment]
    tags: tuple[Tag, ...]

    @property
    def expires(self) -> float:
        """A time of ``time.monotonic()``: until then the value is served without another thought."""
        for tag in self.tags:
            if tag.over:
                return min(tag.over for tag in self.tags)
        return self._expires

    @expires.setter
    def expires(self, expires: float) -> None:
        self._expires = expires

    def is_over(self, now: float) -> bool:
        expires = self.expires
        return expires <= now if self.age is None or expires == RETIRED else self.age.stale_until <= now
