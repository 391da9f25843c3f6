"""Packets of several callers that travel as one.

A packet is what one caller sends: commands in an order, one reply for each. Reads at the end of packets become one
``MGET``, in which nothing is asked for twice: of a hundred entries, for one, the generation of their namespace. What
stands before them goes first, packet by packet, so that each caller's own order is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fast_cache.backends.redis.resp import Command, Reply
from redis.exceptions import ResponseError

MOST: Final = 512
"""Packets in a batch: what takes the server longer holds up those who come next."""

Packet = Sequence[Command]


class Batch:
    """What is sent for ``packets``, and which of the replies are whose.

    Args:
        merges: whether reads may be merged: not in a Cluster, where the keys of one command share a slot.
    """

    __slots__ = ("_parts", "commands", "merged")

    def __init__(self, packets: Sequence[Packet], *, merges: bool) -> None:
        self.commands: list[Command] = []
        names: dict[str | bytes | int, int] = {}
        # Where the replies to each packet are: so many from the first on, and then these of what was read together.
        self._parts: list[tuple[int, int, list[int]]] = []
        for packet in packets:
            count = len(packet)
            if merges:
                while count and packet[count - 1][0] == "GET":
                    count -= 1
            read = [names.setdefault(command[1], len(names)) for command in packet[count:]]
            self._parts.append((len(self.commands), count, read))
            if count:
                self.commands += packet[:count]
        self.merged = bool(names)
        if names:
            self.commands.append(("MGET", *names))

    def refused(self, replies: Sequence[Reply]) -> bool:
        """Whether the server did not let us read several at once."""
        return self.merged and isinstance(replies[-1], ResponseError)

    def shared_out(self, replies: list[Reply]) -> list[list[Reply]]:
        """The replies to each packet."""
        values = replies[-1] if self.merged else ()
        return [
            ([*replies[first : first + count], *[values[index] for index in read]])
            if count
            else [values[index] for index in read]
            for first, count, read in self._parts
        ]


def lacks_script(replies: Sequence[Reply]) -> bool:
    """Whether the server does not know a script by its digest: it was restarted, or told to forget them."""
    return any(isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT") for reply in replies)
