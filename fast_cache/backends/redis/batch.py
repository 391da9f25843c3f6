"""Packets of several callers that travel as one.

A packet is what one caller sends: commands in an order, one reply for each. The reads at the end of packets are put
together, and nothing is asked for twice: of a hundred entries, for one, the generation of their namespace. What stands
before them goes first, packet by packet, so that each caller's own order is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fast_cache.backends.redis.resp import Command, ProtocolError, Reply, Word
from redis.exceptions import ResponseError

MOST: Final = 512
"""Packets in a batch: what takes the server longer holds up those who come next."""

_PASSING: Final = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""Errors of a server that is not ready: of reading several at once they say nothing."""

Packet = Sequence[Command]


class Batch:
    """What is sent for ``packets``, and which of the replies are whose.

    Args:
        merges: whether the reads may become one ``MGET``: not in a Cluster, where the keys of a command share a slot.
    """

    __slots__ = ("_first_read", "_parts", "_read", "commands", "merged")

    def __init__(self, packets: Sequence[Packet], *, merges: bool) -> None:
        self.commands: list[Command] = []
        names: dict[Word, int] = {}
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
        self._read = len(names)
        self.merged = merges and bool(names)
        if self.merged:
            self.commands.append(("MGET", *names))
        else:
            self.commands += [("GET", name) for name in names]

    def refused(self, replies: Sequence[Reply]) -> bool:
        """Whether the server does not let us read several at once."""
        error = replies[-1]
        return self.merged and isinstance(error, ResponseError) and not str(error).startswith(_PASSING)

    def check(self, replies: Sequence[Reply]) -> None:
        """Look whether what was read together can be shared out.

        Raises:
            ProtocolError: it can't; whoever answers here is no Redis.
        """
        values = replies[-1] if self.merged else None
        if self.merged and not isinstance(values, ResponseError) and not _is_list(values, self._read):
            raise ProtocolError("a reply to MGET is no list of that length")

    def shared_out(self, replies: list[Reply]) -> list[list[Reply]]:
        """The replies to each packet."""
        values = replies[-1] if self.merged else replies[self._first_read :]
        if isinstance(values, ResponseError):
            values = [values] * self._read
        return [
            ([*replies[first : first + count], *[values[index] for index in read]])
            if count
            else [values[index] for index in read]
            for first, count, read in self._parts
        ]


def _is_list(reply: Reply, length: int) -> bool:
    return type(reply) is list and len(reply) == length


def has_error(replies: Sequence[Reply], words: str | tuple[str, ...]) -> bool:
    """Whether one of the replies is an error that begins with one of ``words``."""
    return any(isinstance(reply, ResponseError) and str(reply).startswith(words) for reply in replies)


def first_lacking(replies: Sequence[Reply]) -> int | None:
    """Which of the commands is the first whose script the server does not know by its digest, if it lacks one.

    It was restarted, or told to forget them, or did not see this one yet. What came before is not to be repeated: a
    script that stores what is fenced finds no fence the second time.
    """
    for index, reply in enumerate(replies):
        if isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT"):
            return index
    return None
