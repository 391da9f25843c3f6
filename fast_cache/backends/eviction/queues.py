"""Which entry goes when there is no room: S3-FIFO with a contest for the main queue.

A newcomer is on probation in a small queue; what is read there moves to the main queue, a clock; what is not leaves a
ghost. Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Three changes, described at
their methods, make it hold a loop that is larger than the cache and find the size of the small queue by itself.
Everything is learned on misses: a hit only raises ``entry.visits``. Not safe for concurrent changes.
"""

from __future__ import annotations

from collections.abc import Hashable

from fast_cache.backends.eviction.ghosts import Ghosts
from fast_cache.backends.eviction.ring import Ring
from fast_cache.entry import MAX_VISITS, Entry

# Time is counted in misses, and told in epochs: the 32nd part of as many misses as the cache has entries.
_CAPACITY = 32
_NEAR = _CAPACITY // 10
_FAR = 2 * _CAPACITY
_HORIZON = 4 * _CAPACITY

_SHARE_AT_START, _SHARE_MIN, _SHARE_MAX = 0.05, 0.02, 0.9

# `Entry.stamp`: the epoch of its last examination in the main queue, or the round of its probation.
_FIRST_ROUND, _SECOND_ROUND = -1, -2

_PATIENCE = 32
"""How many entries with visits one eviction passes over. Without a limit one call could pass over millions of them; a
limit of 16 costs 0.1 points of hit ratio on some traces, one of 32 nothing that can be measured."""

_EXPLORED = 8
"""Every eighth entry serves its second round even while the others are let off, so that the estimate stays alive."""


class Queues:
    """The entries of a cache that holds about ``capacity`` of them, in the order of their eviction."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """May be changed at any time, where it follows from weights."""
        self.probation = Ring()
        self.main = Ring()
        self._share = _SHARE_AT_START
        self._regret = 0
        self._let_off = 0
        self._filling = True
        self._epoch = 1
        self._misses_left = self._misses_per_epoch()
        self._ghosts: Ghosts | None = None

    def place(self, entry: Entry) -> Ring:
        """Count a miss, and return the queue in which the new entry belongs."""
        self._count_miss()
        if self._filling:
            # The first to come are as good as any others, and a loop loses all it could keep if they have to go.
            return self.main if self._main_has_room() else self.probation
        ghost = self._ghosts.recall(_identity(entry), self._epoch) if self._ghosts is not None else None
        if ghost is None or ghost[0] > _HORIZON:
            return self.probation
        away, turned_away = ghost
        idle = self._idle_for()
        self._learn(away, idle)
        if turned_away and away <= _CAPACITY:
            self._regret = min(self._regret + 5, self._most_regret())
        return self.main if self._main_has_room() or self._wins(away, idle) else self.probation

    def add(self, entry: Entry, queue: Ring) -> None:
        """Enter a new entry into the queue that :meth:`place` chose."""
        entry.stamp = self._epoch if queue is self.main else _FIRST_ROUND
        queue.append(entry)

    def replace(self, old: Entry, new: Entry) -> None:
        """``new`` takes the place of ``old``. That counts as a visit: most replacements are asked for by a read."""
        new.stamp = old.stamp
        new.visits = min(old.visits + 1, MAX_VISITS)
        self._queue_of(old).substitute(old, new)

    def remove(self, entry: Entry) -> None:
        """Take out an entry that is deleted or has expired. It leaves no ghost."""
        self._queue_of(entry).remove(entry)

    def evict(self, queue: Ring) -> Entry:
        """Take out and return the entry that is worth least, for a newcomer to ``queue``. One must be left."""
        self._filling = False
        if queue is self.main and self.main.size and not self._main_has_room():
            return self._evict_main()
        patience = _PATIENCE
        while self._probation_is_full():
            entry = self.probation.oldest()
            if not entry.visits or not patience:
                return self._give_up(entry)
            patience -= 1
            self._advance(entry)
        return self._evict_main()

    def _probation_is_full(self) -> bool:
        size = self.probation.size
        return size > 0 and (size + 1 > self._share * self.capacity or not self.main.size)

    def _main_has_room(self) -> bool:
        return self.main.size + 1 <= (1 - self._share) * self.capacity

    def _advance(self, entry: Entry) -> None:
        """Let an entry that was read on probation into the main queue, or send it through a second round first.

        Most things are read again soon after they came, and never after: the second round asks for a read at a distance
        (orm-night at 4000: 84.1 to 87.6 %). It costs more than it brings where many of those that it turned away come
        back, so they are counted, and above 40 % it is waived (orm-night at 500: 61.4 to 64.4 %).
        """
        if entry.stamp == _FIRST_ROUND and not self._waive():
            entry.stamp = _SECOND_ROUND
            entry.visits = 0
            self.probation.renew(entry)
            return
        self.probation.remove(entry)
        entry.stamp = self._epoch
        entry.visits = 0
        self.main.append(entry)

    def _waive(self) -> bool:
        if self._regret <= 0:
            return False
        self._let_off = (self._let_off + 1) % _EXPLORED
        return self._let_off != 0

    def _give_up(self, entry: Entry) -> Entry:
        """Evict from probation, and remember that it was there."""
        self.probation.remove(entry)
        turned_away = entry.stamp == _SECOND_ROUND
        if turned_away:
            self._regret = max(self._regret - 2, -self._most_regret())
        if self._ghosts is None or self._ghosts.capacity * 2 < self.capacity:
            self._ghosts = Ghosts(self.capacity)
        self._ghosts.remember(_identity(entry), self._epoch, marked=turned_away)
        return entry

    def _evict_main(self) -> Entry:
        entry = self._idle() or self.main.oldest()
        self.main.remove(entry)
        return entry

    def _idle(self) -> Entry | None:
        """Turn the clock to an entry that was not read since it was examined last; None if there is none near."""
        main = self.main
        for _ in range(min(_PATIENCE, main.size)):
            entry = main.oldest()
            if not entry.visits:
                return entry
            entry.visits -= 1
            entry.stamp = self._epoch
            main.renew(entry)
        return None

    def _idle_for(self) -> int:
        """How many epochs the next to leave the main queue has gone unread, at least; -1 if all near it were read."""
        entry = self._idle()
        return -1 if entry is None else self._epoch - entry.stamp

    def _wins(self, away: int, idle: int) -> bool:
        """Whether a key that was ``away`` for so long deserves the place of an entry that was ``idle`` for so long.

        It does if that is at least twice as long. Plain S3-FIFO lets every ghost in: a loop larger than the cache then
        evicts each of its entries just before it is needed (loop at 500: 0 %, with the contest 44 %). Comparing a reuse
        distance with a recency is the idea of LIRS (Jiang and Zhang, SIGMETRICS 2002). Factors between 1.6 and 2.5 give
        the same figures; 1 loses the loops.
        """
        return 2 * away <= idle

    def _learn(self, away: int, idle: int) -> None:
        """Move the border between the queues by what a returning ghost shows.

        One that comes back soon would still have been there in a longer probation, at the cost of the main queue: that
        is taken as a gain only if the main queue has an entry which was idle for half as long again as the whole time
        between the two requests (or a loop hardly larger than the cache shows its own tail: 56 instead of 93 % at 980
        of 1011). One that comes back late could only be held by the main queue. The steps balance where soon is, for
        each miss of distance, twice as frequent as late. The share falls to the least where popularity does not change,
        and rises far where recency counts (from 48 to 51 % on a synthetic trace, loop at 500 from 44 to 48 %).
        """
        distance = away + self.probation.size / self._misses_per_epoch()
        if away <= _NEAR and 3 * distance <= 2 * idle:
            self._share = min(self._share + 1 / self.capacity, _SHARE_MAX)
        elif away <= _FAR:
            self._share = max(self._share - 0.1 / self.capacity, _SHARE_MIN)

    def _most_regret(self) -> int:
        return 5 * max(4, self.capacity // 8)

    def _count_miss(self) -> None:
        self._misses_left -= 1
        if self._misses_left <= 0:
            self._epoch += 1
            self._misses_left = self._misses_per_epoch()

    def _misses_per_epoch(self) -> int:
        return max(1, self.capacity // _CAPACITY)

    def _queue_of(self, entry: Entry) -> Ring:
        return self.main if entry.stamp > 0 else self.probation


def _identity(entry: Entry) -> Hashable:
    return entry.shelf.salt, entry.key
