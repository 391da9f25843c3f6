"""Deadlines by the server's own clock: what reaches it after its sender has given up is not carried out.

Nobody can take back what has been sent. So what must not happen late says until when it may, in the time of the server
that reads it; what that is, a client knows from what the server told last, and takes it to be as early as it can be.
Whoever gets no answer ends no sooner than his deadline: then nothing that begins later is undone.

Relied on: that the server's clock is not set back, and does not stand still, while something is on its way, and that
both clocks go equally fast, but for one part in 2000. Neither need be right. A clock that was set forward, or long ago
back, is noticed with the next answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

_DRIFT: Final = 0.0005
"""By how much of a second one clock may gain on the other in each: as much as time is adjusted by, gently."""

_UNKNOWN: Final = b"0"
"""A deadline that has passed."""


class ServerClock:
    """What is known of a server's clock, in seconds: at least how much its time is ahead of ours. Safe for threads."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[float, float] | None = None

    def told(self, time: float, asked: float, heard: float) -> None:
        """The server said ``time`` between these two moments of ours."""
        ahead = self.ahead(heard)
        # What is known better stays known, unless the answer shows that it holds no more.
        if ahead is None or not time - heard <= ahead <= time - asked:
            self._known = time - heard, heard

    def read(self, reply: object, asked: float, heard: float) -> None:
        """The server answered so to ``TIME``, if it did."""
        if isinstance(reply, list):
            with suppress(ValueError, TypeError):
                seconds, microseconds = reply
                self.told(int(seconds) + int(microseconds) / 1e6, asked, heard)

    def ahead(self, now: float) -> float | None:
        """By how much the server's time is ahead of ours at least; ``None`` if it never told."""
        if self._known is None:
            return None
        ahead, at = self._known
        return ahead - (now - at) * _DRIFT


class Deadline:
    """The word that says until when a command may be carried out, made anew whenever it is sent: microseconds of the
    server's time.

    Args:
        seconds: how long after it was sent.
    """

    __slots__ = ("_clock", "_seconds", "_sent", "until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock: ServerClock | None = None
        self._sent = 0.0
        self.until = 0.0
        """A time of ours (``time.monotonic``) after which nothing that was sent is carried out any more."""

    def made(self, clock: ServerClock | None) -> bytes:
        """What is sent to a server with that clock. Where it is not known the server refuses, and tells it."""
        self._clock = clock
        self._sent = now = monotonic()
        self.until = now + self._seconds * (1 + _DRIFT)
        ahead = None if clock is None else clock.ahead(now)
        return _UNKNOWN if ahead is None else b"%d" % ((now + ahead + self._seconds) * 1e6)

    def goes_on(self) -> bool:
        """Whether there is time left, where it is not the server that looks; the time begins with the first look."""
        if not self.until:
            self.made(None)
        return monotonic() < self.until

    def told(self, reply: int) -> bool:
        """Whether it was met, by the answer: the server's time in microseconds, negative if it had passed.

        If so, the next one gives as much time as it took, twice.
        """
        heard = monotonic()
        if self._clock is not None:
            self._clock.told(abs(reply) / 1e6, self._sent, heard)
        self.until = 0.0
        self._seconds = max(self._seconds, 2 * (heard - self._sent)) if reply < 0 else self._seconds
        return reply > 0


class Dated(list[Any]):
    """Commands with deadlines: their sender waits until it is decided what became of them."""


def alike(packet: Sequence[Any], commands: Sequence[Any]) -> Sequence[Any]:
    """Some commands of ``packet``; with deadlines, if it has some."""
    return Dated(commands) if type(packet) is Dated else commands


def time_left(commands: Iterable[Iterable[object]]) -> float:
    """For how many seconds the latest deadline in ``commands`` still lets something happen; 0 for none."""
    untils = [word.until for command in commands for word in command if type(word) is Deadline]
    return max(0.0, max(untils, default=0.0) - monotonic())
