"""Which keys were evicted lately, and when: neither keys nor values, only fingerprints.

A table of 32-bit slots, three for each entry the cache can hold, in buckets of two. Bounded by construction: a newcomer
overwrites the older slot of its bucket. What it says is a hint: it forgets early now and then, and takes one key in
some 100,000 for another.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

# A slot, from the high bit: 19 bits of fingerprint, 1 mark, 12 bits of epoch. Zero is an empty slot.
_EPOCH_BITS = 12
_EPOCH_MASK = (1 << _EPOCH_BITS) - 1
_MARK = 1 << _EPOCH_BITS
_FINGERPRINT_SHIFT = _EPOCH_BITS + 1
_FINGERPRINT_MASK = (1 << 32 - _FINGERPRINT_SHIFT) - 1
_HASH_SHIFT = 40  # the fingerprint comes from other bits of the hash than the bucket


class Ghosts:
    """The evicted keys of a cache that holds ``capacity`` entries.

    Twelve bytes for each entry; a dict of hashes with a queue takes about 150. Time is counted in epochs (integers
    that only grow); an age beyond 4095 epochs reads as a smaller one, but by then a slot has long been overwritten.
    """

    __slots__ = ("_buckets", "_slots", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._buckets = (3 * capacity + 1) // 2
        self._slots = array("I", [0]) * (2 * self._buckets)

    def remember(self, key: Hashable, epoch: int, *, marked: bool) -> None:
        """``key`` was evicted in ``epoch``; ``marked`` is told again by :meth:`recall`."""
        first, fingerprint = self._locate(key)
        slots = self._slots
        one, other = slots[first], slots[first + 1]
        if one >> _FINGERPRINT_SHIFT != fingerprint and (epoch - other & _EPOCH_MASK) > (epoch - one & _EPOCH_MASK):
            first += 1
        slots[first] = fingerprint << _FINGERPRINT_SHIFT | (_MARK if marked else 0) | epoch & _EPOCH_MASK

    def recall(self, key: Hashable, epoch: int) -> tuple[int, bool] | None:
        """Return how many epochs ago ``key`` was evicted and its mark, and forget it; None if it is not known."""
        first, fingerprint = self._locate(key)
        slots = self._slots
        for index in (first, first + 1):
            slot = slots[index]
            if slot and slot >> _FINGERPRINT_SHIFT == fingerprint:
                slots[index] = 0
                return epoch - slot & _EPOCH_MASK, bool(slot & _MARK)
        return None

    def _locate(self, key: Hashable) -> tuple[int, int]:
        hashed = hash(key)  # of a tuple: an int is its own hash and would leave the fingerprint empty
        return hashed % self._buckets * 2, hashed >> _HASH_SHIFT & _FINGERPRINT_MASK
