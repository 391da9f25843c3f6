"""Packets of several callers that travel as one.

A packet is what one caller sends: commands in an order, one reply for each. The reads at the end of packets are put
together, and nothing is asked for twice: of a hundred entries, for one, the generation of their namespace. What stands
before them goes first, packet by packet, so that each caller's own order is kept.
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
        merges: whether the reads may become one ``MGET``: not in a Cluster, where the keys of a command share a slot.
    """

    __slots__ = ("_first_read", "_parts", "commands", "merged")

    def __init__(self, packets: Sequence[Packet], *, merges: bool) -> None:
        self.commands: list[Command] = []
        names: dict[str | bytes | int, int] = {}
        place = names.setdefault
        # Where the replies to each packet are: so many from the first on, and then these of what was read together.
        self._parts: list[tuple[int, int, list[int]]] = []
        for packet in packets:
            count = len(packet)
            while count and packet[count - 1][0] == "GET":
                count -= 1
            if count:
                read = [place(command[1], len(names)) for command in packet[count:]]
                self._parts.append((len(self.commands), count, read))
                self.commands += packet[:count]
            elif len(packet) == 2:  # a value and the generation of its namespace: most packets
                self._parts.append((0, 0, [place(packet[0][1], len(names)), place(packet[1][1], len(names))]))
            else:
                self._parts.append((0, 0, [place(command[1], len(names)) for command in packet]))
        self._first_read = len(self.commands)
        self.merged = merges and bool(names)
        if self.merged:
            self.commands.append(("MGET", *names))
        else:
            self.commands += [("GET", name) for name in names]

    def refused(self, replies: Sequence[Reply]) -> bool:
        """Whether the server did not let us read several at once."""
        return self.merged and isinstance(replies[-1], ResponseError)

    def shared_out(self, replies: list[Reply]) -> list[list[Reply]]:
        """The replies to each packet."""
        values = replies[-1] if self.merged else replies[self._first_read :]
        return [
            ([*replies[first : first + count], *[values[index] for index in read]])
            if count
            else [values[index] for index in read]
            for first, count, read in self._parts
        ]


def has_error(replies: Sequence[Reply], words: str | tuple[str, ...]) -> bool:
    """Whether one of the replies is an error that begins with one of ``words``."""
    return any(isinstance(reply, ResponseError) and str(reply).startswith(words) for reply in replies)


def lacks_script(replies: Sequence[Reply]) -> bool:
    """Whether the server does not know a script by its digest: it was restarted, or told to forget them."""
    return has_error(replies, "NOSCRIPT")
