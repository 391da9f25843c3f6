"""Keeps the leases of loads that take long, and lets go of those whose load was given up.

A lease is short, so that a dead holder is noticed soon. Of one that is held for longer than a third of that, all that
are due are extended in one packet, by a thread: an event loop that a load blocks could not do it. The same thread
releases what is left by a leader who is cancelled, or whose event loop is gone: nobody there can await anything.

The thread begins with the first lease, since without it nothing would tell the time, and ends when it finds nothing
to do. A forked child begins with nothing: what its parent holds is the parent's to extend.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.link import Leaving, Link
from fast_cache.backends.redis.resp import Command, Reply
from fast_cache.errors import BackendError
from fast_cache.ports import BLOCKING, Port, run_blocking

_PART: Final = 1 / 3
"""After which part of its length a lease is extended: two attempts may fail."""

_SOON: Final = 1 / 10
"""After which part of its length a failed attempt is repeated."""


class HeldLease:
    """The lease of one key, as its holder knows it: by a random token that nobody else has.

    It holds from the moment at which it was asked for, as far as the holder can know.
    """

    __slots__ = ("_keeper", "asked", "key", "token")

    def __init__(self, keeper: Keeper, key: str, token: bytes) -> None:
        self._keeper = keeper
        self.asked = monotonic()
        self.key = key
        self.token = token

    def give_up(self) -> None:
        self._keeper.give_up(self)


class Keeper:
    """The leases that one backend holds in this process.

    Args:
        length: of a lease, in seconds.
        longest: for how long one is extended at most: what takes longer is not stored, and nobody has to wait for it.
    """

    def __init__(self, link: Link, layout: Layout, *, length: float, longest: float) -> None:
        self._link = link
        self._layout = layout
        self._length = length
        self._longest = longest
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()  # garbage that is collected in here may be a load that is given up
        self._bell: SimpleQueue[bool] | None = None
        """Wakes the thread that is running: True to look again, False to end."""
        self._held: dict[HeldLease, tuple[float, float]] = {}
        """When each is due, and until when it may be held."""
        self._given_up: deque[HeldLease] = deque()

    def __len__(self) -> int:
        """How many leases are held."""
        return len(self._held)

    def forked(self) -> None:
        """In a forked child: begin anew."""
        self._begin()

    def hold(self, lease: HeldLease) -> None:
        """Extend ``lease`` from now on."""
        self._held.setdefault(lease, (lease.asked + self._length * _PART, lease.asked + self._longest))
        self._awake()

    def drop(self, lease: HeldLease) -> None:
        """Extend ``lease`` no more: it is released, or lost."""
        with self._lock:
            self._held.pop(lease, None)

    def give_up(self, lease: HeldLease) -> None:
        """Release ``lease`` soon. It may be one of which nobody knows whether it was ever had."""
        self.drop(lease)
        self._given_up.append(lease)
        self._awake(at_once=True)

    async def round(self, port: Port) -> float | None:
        """Do what is to be done now. Returns after how many seconds there is more to do; ``None`` if there is nothing.

        What can't be released ends by itself.
        """
        now = monotonic()
        held = list(self._held.copy().items())
        for lease, (_, until) in held:
            if until <= now:
                self.drop(lease)
        due = [lease for lease, (when, until) in held if when <= now < until]
        commands = [command for lease in due for command in self._layout.extend(lease.key, lease.token)]
        commands += self._releases()
        if commands:
            replies: list[Reply] = [None] * len(commands)
            with suppress(BackendError):
                replies = await self._link.exchange(port, commands)
            for lease, reply in zip(due, replies, strict=False):
                self._extended(lease, reply, now)
        times = [when for when, _ in self._held.copy().values()]
        return 0.0 if self._given_up else max(0.0, min(times) - monotonic()) if times else None

    async def close(self, port: Port) -> None:
        """End the thread, and release what was given up. Whatever is held after that begins a new one."""
        with self._lock:
            bell, self._bell = self._bell, None
        if bell is not None:
            bell.put(False)
        commands = self._releases()
        if commands:
            with suppress(BackendError):
                await self._link.exchange(port, commands)

    def _releases(self) -> list[Command]:
        """The commands that release what was given up since they were asked for last."""
        commands: list[Command] = []
        with suppress(IndexError):
            while True:
                lease = self._given_up.popleft()
                commands += self._layout.release(lease.key, lease.token)
        return commands

    def _extended(self, lease: HeldLease, reply: Reply, asked: float) -> None:
        due = asked + self._length * _PART if reply == 1 else monotonic() + self._length * _SOON
        with self._lock:
            held = self._held.get(lease)
            if reply == 0:  # it was deleted, with the value, or is another's
                self.drop(lease)
            elif held is not None:  # not released meanwhile
                self._held[lease] = (due, held[1])

    def _awake(self, *, at_once: bool = False) -> None:
        """See to it that the thread runs: it knows by itself when a lease is due."""
        leaving = self._link.leaving_nothing()
        with self._lock:
            bell, starts = self._bell, self._bell is None
            if bell is None:
                bell = self._bell = SimpleQueue()
        if starts:
            self._start(bell, leaving)
        elif at_once:
            bell.put(True)

    def _start(self, bell: SimpleQueue[bool], leaving: Leaving) -> None:
        thread = threading.Thread(target=self._work, args=(bell, leaving), name="fast_cache leases", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more, or the interpreter is about to end: leases end by themselves
            self._ended(bell)

    def _work(self, bell: SimpleQueue[bool], leaving: Leaving) -> None:
        try:
            goes_on = True
            with leaving:
                while goes_on:
                    pause = run_blocking(self.round(BLOCKING))
                    if pause is None:
                        goes_on = not self._idle(bell)
                        continue
                    with suppress(Empty):
                        goes_on = bell.get(timeout=pause)
        finally:
            self._ended(bell)

    def _idle(self, bell: SimpleQueue[bool]) -> bool:
        """Whether nothing came in between, so that the thread may end."""
        with self._lock:
            if self._held or self._given_up:
                return self._bell is not bell
            self._ended(bell)
            return True

    def _ended(self, bell: SimpleQueue[bool]) -> None:
        with self._lock:
            if self._bell is bell:
                self._bell = None
