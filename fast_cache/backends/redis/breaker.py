"""Stops asking a server that does not answer, and remembers what it has to be told on its return.

The first lost exchange opens the breaker. While it is open calls fail at once, except one probe after a pause that
grows from 0.1 to 0.8 seconds; the probe's success closes it. Invalidations that could not be delivered are kept, the
last per key. They open nothing: every exchange carries them ahead of its own commands until one is answered, so
nothing older than one is read once its caller has been told of it; to deliver one twice is harmless.
The memory is bounded: past the bound everything is forgotten at once, by clearing the namespace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 0.8
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Owed:
    """Invalidations that the server has not been told: single keys, tags by their digests, or everything."""

    keys: tuple[str | bytes, ...] = ()
    everything: bool = False
    upto: int = 0
    """Invalidations are numbered; these are the ones up to this number."""

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys)


class Admission:
    """Leave to talk to the server, with what has to be said first. Must be ended by one of its methods."""

    __slots__ = ("_breaker", "epoch", "owed", "probe", "since")

    def __init__(self, breaker: Breaker, epoch: int, owed: Owed, *, probe: bool = False, since: float = 0.0) -> None:
        self._breaker = breaker
        self.epoch = epoch
        self.owed = owed
        self.probe = probe
        self.since = since

    def succeeded(self) -> None:
        """The server answered."""
        if self.owed:
            self._breaker._delivered(self.owed)
        if self.probe:
            self._breaker._close()

    def failed(self) -> None:
        """The server did not answer, or it is not known whether it did."""
        self._breaker._open(self)

    def abandoned(self) -> None:
        """The caller was cancelled: nothing was learnt about the server."""
        if self.probe:
            self._breaker._release(self)


class Breaker:
    """Safe for threads; never blocks and never waits.

    Args:
        probe_within: after this many seconds a probe counts as lost, with its thread or event loop.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, *, probe_within: float = 3.0) -> None:
        self._clock = clock
        self._probe_within = probe_within
        self._lock = threading.Lock()
        self._epoch = 0
        self._is_open = False
        self._probe: Admission | None = None
        self._pause = _FIRST_PAUSE
        self._retry_at = 0.0
        self._count = 0
        self._owed_keys: dict[str | bytes, int] = {}
        self._owed_everything: int | None = None

    @property
    def is_open(self) -> bool:
        return self._is_open

    def refuses(self) -> bool:
        """Whether :meth:`admit` would say no at this moment."""
        probe = self._probe
        now = self._clock() if self._is_open else 0.0
        return self._is_open and (
            now < self._retry_at or (probe is not None and now < probe.since + self._probe_within)
        )

    def admit(self) -> Admission | None:
        """Leave to talk, or ``None`` while the server is taken to be away."""
        if not (self._is_open or self._owed_keys or self._owed_everything):  # the usual case, without the lock
            return Admission(self, self._epoch, _NOTHING)
        with self._lock:
            if self.refuses():
                return None
            owed = Owed(tuple(self._owed_keys), self._owed_everything is not None, self._count)
            admission = Admission(self, self._epoch, owed, probe=self._is_open, since=self._clock())
            if self._is_open:
                self._probe = admission
            return admission

    def owe(self, key: str | bytes | None) -> None:
        """Remember that ``key`` must be invalidated before anything else is asked: bytes are the digest of a tag,
        ``None`` is everything."""
        with self._lock:
            self._count += 1
            if key is None or len(self._owed_keys) >= _REMEMBERED:
                self._owed_everything = self._count
                self._owed_keys.clear()
            else:
                self._owed_keys[key] = self._count

    def forked(self) -> None:
        """Begin anew in a child process: what threads of the parent held or had under way is not here."""
        self._lock = threading.Lock()
        self._probe = None

    def _open(self, lost: Admission) -> None:
        with self._lock:
            if lost.probe:
                if lost is not self._probe:
                    return  # given up before, and another one is on its way
                self._probe = None
            elif self._is_open or lost.epoch != self._epoch:
                return  # lost together with the exchange that opened it
            self._pause = min(self._pause * 2, _LONGEST_PAUSE) if lost.probe else _FIRST_PAUSE
            self._is_open = True
            self._epoch += 1
            self._retry_at = self._clock() + self._pause

    def _close(self) -> None:
        with self._lock:
            self._probe = None
            self._pause = _FIRST_PAUSE
            self._is_open = False
            self._epoch += 1

    def _delivered(self, owed: Owed) -> None:
        with self._lock:
            if self._owed_everything is not None and self._owed_everything <= owed.upto:
                self._owed_everything = None
            for key in owed.keys:
                if self._owed_keys.get(key, owed.upto + 1) <= owed.upto:
                    del self._owed_keys[key]

    def _release(self, probe: Admission) -> None:
        with self._lock:
            if probe is self._probe:
                self._probe = None


_NOTHING: Final = Owed()
