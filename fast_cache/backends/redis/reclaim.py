"""Frees what a clear has left behind in Redis: entries that nobody can read any more, and that would lie there until
they expire.

A thread of the process that cleared looks at the names of the namespace a few at a time, reads how each entry begins,
and removes those whose generation has passed. It works half of the time at most, and removes no more than some
thousands a second: the removal of each is told to everybody who tracks the namespace.

What it removes is what it has looked at: a value that was stored in between stays. That takes a script; where none may
be run, entries stay until they expire.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from fast_cache.backends.redis.fleet import Where
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.backends.redis.rounds import Rounds
from fast_cache.backends.redis.tokens import current, former
from fast_cache.errors import BackendError
from fast_cache.ports import BLOCKING, run_blocking
from fast_cache.serializers import NAMESPACE_DIGEST, head_size, unpack_head

_STEP: Final = 256
"""How many names the server looks at before others have their turn."""

_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two steps: as long as one took, within these."""

_GENERATIONS: Final = 8
"""An entry that depends on more is left to expire."""

_REMOVE: Final = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""


class Reclaimer(Rounds):
    """Goes through one namespace after a clear; one step is a round."""

    name = "fast_cache reclaim"

    def __init__(self, link: Link, layout: Layout) -> None:
        self._link = link
        self._layout = layout
        self._asked = 0
        self._done = 0
        self._going = 0
        self._left: list[Where] = []
        self._cursor = b"0"
        self.removed = 0
        """How many entries were removed so far."""
        super().__init__(_SHORTEST_PAUSE, link.leaving_nothing)

    def begin(self) -> None:
        """Something was cleared: go through everything, once more if that is under way."""
        if self._link.recognises():
            self._asked += 1
            self.awake()

    def needed(self) -> bool:
        return self._done != self._asked

    def go(self) -> None:
        began = monotonic()
        try:
            run_blocking(self._step())
        except BackendError:
            self._left.clear()
            self.pause = _LONGEST_PAUSE  # it begins anew when the server is back
        else:
            self.pause = min(max(monotonic() - began, _SHORTEST_PAUSE), _LONGEST_PAUSE)

    async def _step(self) -> None:
        if not self._left:
            self._going = self._asked
            self._left = list(await self._link.servers(BLOCKING))
            self._cursor = b"0"
        where = self._left[0]
        (reply,) = await self._link.exchange_with(
            BLOCKING, where, self._layout.scan(self._layout.value_pattern(""), self._cursor, _STEP)
        )
        if not isinstance(reply, list):
            raise BackendError("Redis refuses SCAN")
        self._cursor, names = reply
        if names:
            await self._remove_dead(where, names)
        if self._cursor == b"0":
            self._left.pop(0)
            if not self._left:
                self._done = self._going

    async def _remove_dead(self, where: Where, names: list[bytes]) -> None:
        size = head_size(_GENERATIONS)
        heads = await self._link.exchange_with(BLOCKING, where, [("GETRANGE", name, 0, size - 1) for name in names])
        depends = [_generations(head) for head in heads]
        digests = sorted({digest for pairs in depends for digest, _ in pairs} - {NAMESPACE_DIGEST})
        commands = self._layout.generation() + self._layout.read_tags(digests)
        replies = await self._link.exchange(BLOCKING, commands)
        now = dict(zip((NAMESPACE_DIGEST, *digests), replies, strict=True))
        if any(isinstance(reply, Exception) for reply in now.values()):
            return
        dead: list[Command] = [
            ("EVAL", _REMOVE, 1, name, head)
            for name, head, pairs in zip(names, heads, depends, strict=True)
            if any(_passed(now, *pair) for pair in pairs)
        ]
        if dead:
            removed = await self._link.exchange_with(BLOCKING, where, dead)
            self.removed += sum(reply for reply in removed if isinstance(reply, int))


def _generations(head: Reply) -> tuple[tuple[bytes, bytes], ...]:
    """What an entry depends on, by its first bytes; nothing if that can't be told."""
    known = unpack_head(head, whole=False) if isinstance(head, bytes) else None
    return () if known is None else known.generations


def _passed(now: dict[bytes, Reply], digest: bytes, token: bytes) -> bool:
    """Whether entries with this token of a generation are dead."""
    return token != current(now[digest]) and token not in former(now[digest])
