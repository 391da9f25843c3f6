"""Stops asking a server that does not answer, and remembers what it has to be told on its return.

The first lost exchange opens the breaker. While it is open calls fail at once, except one probe after a pause that
grows from 0.1 to 0.8 seconds; the probe's success closes it. Invalidations that could not be delivered are kept, the
last per key, and travel ahead of the probe's own commands, so nothing older than one is read after the recovery.
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
    """Invalidations that the server has not been told: single keys, or everything."""

    keys: tuple[str, ...] = ()
    everything: bool = False
    upto: int = 0
    """Invalidations are numbered; these are the ones up to this number."""

    def __bool__(self) -> bool:
        return self.everything or bool(self.keys)


class Admission:
    """Leave to talk to the server, with what has to be said first. Must be ended by one of its methods."""

    __slots__ = ("_breaker", "_epoch", "owed", "probe")

    def __init__(self, breaker: Breaker, epoch: int, *, probe: bool, owed: Owed) -> None:
        self._breaker = breaker
        self._epoch = epoch
        self.probe = probe
        self.owed = owed

    def succeeded(self) -> None:
        """The server answered."""
        if self.probe:
            self._breaker._close(self.owed)

    def failed(self) -> None:
        """The server did not answer, or it is not known whether it did."""
        self._breaker._open(self._epoch, probe=self.probe)

    def abandoned(self) -> None:
        """The caller was cancelled: nothing was learnt about the server."""
        if self.probe:
            self._breaker._release()


class Breaker:
    """Safe for threads; never blocks and never waits."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._epoch = 0
        self._is_open = False
        self._probing = False
        self._pause = _FIRST_PAUSE
        self._retry_at = 0.0
        self._count = 0
        self._owed_keys: dict[str, int] = {}
        self._owed_everything: int | None = None

    @property
    def is_open(self) -> bool:
        return self._is_open

    def admit(self) -> Admission | None:
        """Leave to talk, or ``None`` while the server is taken to be away."""
        if not self._is_open:  # the usual case, without the lock
            return Admission(self, self._epoch, probe=False, owed=_NOTHING)
        with self._lock:
            if not self._is_open:
                return Admission(self, self._epoch, probe=False, owed=_NOTHING)
            if self._probing or self._clock() < self._retry_at:
                return None
            self._probing = True
            owed = Owed(tuple(self._owed_keys), self._owed_everything is not None, self._count)
            return Admission(self, self._epoch, probe=True, owed=owed)

    def owe(self, key: str | None) -> None:
        """Remember that ``key`` (``None``: everything) must be invalidated before anything else is asked."""
        with self._lock:
            self._count += 1
            if key is None or len(self._owed_keys) >= _REMEMBERED:
                self._owed_everything = self._count
                self._owed_keys.clear()
            else:
                self._owed_keys[key] = self._count
            if not self._is_open:  # the exchange that failed came after the recovery was noticed
                self._is_open = True
                self._epoch += 1
                self._retry_at = self._clock()

    def _open(self, epoch: int, *, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False
            elif self._is_open or epoch != self._epoch:
                return  # lost together with the exchange that opened it
            self._pause = min(self._pause * 2, _LONGEST_PAUSE) if probe else _FIRST_PAUSE
            self._is_open = True
            self._epoch += 1
            self._retry_at = self._clock() + self._pause

    def _close(self, delivered: Owed) -> None:
        with self._lock:
            self._probing = False
            self._pause = _FIRST_PAUSE
            if self._owed_everything is not None and self._owed_everything <= delivered.upto:
                self._owed_everything = None
            for key in delivered.keys:
                if self._owed_keys.get(key, delivered.upto + 1) <= delivered.upto:
                    del self._owed_keys[key]
            # What came to be owed while the probe was on its way: the next call is a probe again, at once.
            self._is_open = self._owed_everything is not None or bool(self._owed_keys)
            self._retry_at = self._clock()
            self._epoch += 1

    def _release(self) -> None:
        with self._lock:
            self._probing = False


_NOTHING: Final = Owed()
