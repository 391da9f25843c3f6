"""Which keys hold large values: those travel by a lane of their own, and whoever wants a line waits for no megabyte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fast_cache.backends.redis.batch import Packet
from fast_cache.backends.redis.resp import Reply, Word

LARGE: Final = 2**16
"""Bytes: more than a connection usually takes at once."""

_REMEMBERED: Final = 4096
"""Keys."""


class LargeKeys:
    """Remembered from the last reply. Safe for threads."""

    def __init__(self) -> None:
        self._names: dict[Word, None] = {}

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self._names)

    def concern(self, packet: Packet) -> bool:
        """Whether ``packet`` brings something large, or asks for it."""
        names, first = self._names, packet[0]
        if first[0] == "EVAL":
            for word in first:
                if type(word) is bytes and len(word) > LARGE:
                    return True
        return bool(names) and any(command[0] == "GET" and command[1] in names for command in packet)

    def note(self, packet: Packet, replies: Sequence[Reply]) -> None:
        """Remember which values were large, and that others no longer are."""
        names = self._names
        for command, reply in zip(packet, replies, strict=True):
            if command[0] != "GET":
                continue
            if type(reply) is bytes and len(reply) > LARGE:
                names[command[1]] = None
                if len(names) > _REMEMBERED:
                    names.pop(next(iter(names.copy())), None)
            elif command[1] in names:
                names.pop(command[1], None)
